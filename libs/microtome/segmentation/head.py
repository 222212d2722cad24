"""From the network's five channels to instances: InstanSeg's head, compiled.

Promises: for the same logits the same label in every pixel as the deployed head of the model's own package:
seeds are peaks; each seed grows over the pixels that the pixel classifier gives it, inside a window of
2·window pixels; small holes are filled; where objects meet the higher float32 probability wins and a tie goes to
the earlier seed; objects that overlap by more than the threshold are one. Time and memory follow the pixels that
belong to objects: the classifier runs on pixels that the growth visits and nowhere else.
Refuses: to drop small objects (the caller does, after it knows whose they are) and to cap their number.

Coordinates are relative to the seed and their step is a constant of the model, so that neither the position nor
the size of a tile can be felt, not even in the last bit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.compose import collect, merge, paint
from microtome.segmentation.grow import grow_all, sigmoid
from microtome.segmentation.model import Model
from microtome.segmentation.peaks import find_peaks, seed_map


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, in the order of their seeds.

    `labels` int32 [h, w]: 0 is background, otherwise 1 + index of the group's first seed.
    Per object: `label` int32, `seed` int32 [n, 2] (y, x) of that first seed, `area` int32 in pixels,
    `score` float32 (value of the seed map at the seed), `box` int32 [n, 4] (y0, x0, y1, x1), half-open.
    """

    labels: NDArray[np.int32]
    label: NDArray[np.int32]
    seed: NDArray[np.int32]
    area: NDArray[np.int32]
    score: NDArray[np.float32]
    box: NDArray[np.int32]


def _smallest_logit(probability: np.float32) -> np.float32:
    """Find the smallest float32 whose float32 sigmoid reaches `probability`."""

    def reaches(logit: np.float32) -> bool:
        return bool(sigmoid(logit) >= probability)

    at = np.float32(math.log(float(probability) / (1.0 - float(probability))))
    while reaches(at):
        at = np.nextafter(at, np.float32(-np.inf))
    while not reaches(at):
        at = np.nextafter(at, np.float32(np.inf))
    return at


def find_instances(logits: NDArray[np.float32], model: Model) -> Instances:
    """Instances of one image from its logits, float32 [5, h, w]."""
    logits = np.ascontiguousarray(logits, np.float32)
    height, width = logits.shape[1:]
    seeds_at = seed_map(logits[4])
    seeds = find_peaks(seeds_at, model.peak_distance, np.float32(model.seed_threshold))
    mask_threshold = np.float32(model.mask_threshold)
    boxes, starts, pool = grow_all(
        logits,
        seeds,
        model.window,
        np.float32(model.coordinate_step),
        _smallest_logit(mask_threshold),
        model.pixel_classifier.flat,
        model.pixel_classifier.hidden,
    )
    labels, members = paint(boxes, starts, pool, height, width, mask_threshold)
    parent = merge(boxes, starts, pool, members, seeds, model.window, np.float32(model.overlap_threshold))
    area, box = collect(labels, boxes, parent)
    kept = np.flatnonzero(area)
    return Instances(
        labels=labels,
        label=(kept + 1).astype(np.int32),
        seed=seeds[kept],
        area=area[kept],
        score=seeds_at[seeds[kept, 0], seeds[kept, 1]],
        box=box[kept],
    )
