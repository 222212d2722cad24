"""How good a network is on labelled images, through the engine's own head.

Promises: what is scored is what a user gets: the image halved to the model's pixel size, normalised by its own
percentiles, logits to instances by `microtome.segmentation.head`, objects below the smallest size dropped, labels
doubled to the truth's 0.25 µm per pixel. Whatever computes the logits (torch, an engine) is given from outside.
Refuses: to choose anything by images whose scores are reported; `calibrate` takes the choosing fold only.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest
from microtome.scoring import Scores, Tally
from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.training.geometry import doubled, without_small
from microtome.training.labelled import REPORTED, Labelled

# uint8 pixels [h, w, 3], low [3], scale [3] to logits float32 [5, h, w].
Network = Callable[[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]

SEED_THRESHOLDS = (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85)
MASK_THRESHOLDS = (0.47, 0.53, 0.6, 0.65, 0.7, 0.75, 0.8)


def logits_of(network: Network, image: Labelled, percentiles: tuple[float, float]) -> NDArray[np.float32]:
    """Logits float32 [5, h/2, w/2] of one image at 0.25 µm per pixel, by its own normalisation."""
    height, width = image.labels.shape
    pixels = np.asarray(cv2.resize(image.pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA), np.uint8)
    low, scale = Normalisation.from_histogram(Histogram.of(pixels), percentiles).arrays()
    return network(pixels, low, scale)


def found_in(logits: NDArray[np.float32], model: Model) -> NDArray[np.int32]:
    """Label image at 0.25 µm per pixel of what the head finds."""
    return doubled(without_small(find_instances(logits, model).labels, model.min_size))


def tally(pairs: Iterable[tuple[NDArray[np.float32], Labelled]], model: Model) -> Tally:
    """Of logits and the images they were made of."""
    total = Tally.empty()
    for logits, image in pairs:
        total += Tally.of(image.labels, found_in(logits, model))
    return total


def calibrate(pairs: Sequence[tuple[NDArray[np.float32], Labelled]], model: Model) -> tuple[Model, Scores]:
    """The seed and mask thresholds with the best PQ on these images. Raises `InvalidRequest` for reported ones."""
    if taken := {image.group for _, image in pairs} & REPORTED:
        raise InvalidRequest(f"Nothing may be chosen on {', '.join(sorted(taken))}.")
    tried = [
        dataclasses.replace(model, seed_threshold=seed, mask_threshold=mask)
        for seed, mask in itertools.product(SEED_THRESHOLDS, MASK_THRESHOLDS)
    ]
    scored = [(candidate, tally(pairs, candidate).scores) for candidate in tried]
    return max(scored, key=lambda each: each[1].pq)
