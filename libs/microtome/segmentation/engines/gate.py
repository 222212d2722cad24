"""Whether an engine finds the same cells as fp32: the condition for choosing it unasked.

Promises: a number, F1 at half overlap between the cells that an engine finds on the built-in pictures and those that
fp32 finds there, with the same head; too few cells to mean something are said, not taken for agreement.
Refuses: to compare logits: what a rounding does to them matters only where it changes a cell.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.scoring import Tally
from microtome.segmentation.engine import Engine
from microtome.segmentation.engines.picture import Picture
from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model

REQUIRED_F1 = 0.995
# With fewer, one cell more or less would decide.
ENOUGH_CELLS = 200


@dataclass(frozen=True, eq=False)
class Reference:
    """What fp32 finds: label images int32 [h, w], one a picture."""

    pictures: Sequence[Picture]
    labels: Sequence[NDArray[np.int32]]

    @property
    def cells(self) -> int:
        """Number of cells on all pictures."""
        return sum(np.unique(labels).size - 1 for labels in self.labels)

    @property
    def means_something(self) -> bool:
        """Say whether there are enough cells to judge by."""
        return self.cells >= ENOUGH_CELLS


def reference(engine: Engine, model: Model, pictures: Sequence[Picture]) -> Reference:
    """Let the fp32 engine find what others will be compared with."""
    return Reference(pictures, [_labels(engine, model, picture) for picture in pictures])


def agreement(engine: Engine, model: Model, expected: Reference) -> float:
    """F1 at half overlap between the engine's cells and the reference's."""
    tally = Tally.empty()
    for picture, labels in zip(expected.pictures, expected.labels, strict=True):
        tally += Tally.of(labels, _labels(engine, model, picture))
    return tally.scores.f1_50


def _labels(engine: Engine, model: Model, picture: Picture) -> NDArray[np.int32]:
    logits = engine.infer(picture.pixels, picture.low, picture.scale)
    return find_instances(logits[0], model).labels
