"""From the network's five channels to instances: InstanSeg's head, compiled.

Promises: for the same logits the same label in every pixel as the deployed head of the model's own package:
seeds are peaks; each seed grows over the pixels that the pixel classifier gives it, inside a window of
2·window pixels; small holes are filled; where objects meet the higher float32 probability wins and a tie goes to
the earlier seed; objects that overlap by more than the threshold are one. Time and memory follow the pixels that
belong to objects: the classifier runs on pixels that the growth visits and nowhere else. An object that lies against
its window's side, which the package cuts there in silence, is grown again in a larger one, up to the model's
`window_max`; what that still cuts is said (ADR 24). All else is as the package has it.
Refuses: to drop small objects (the caller does, after it knows whose they are) and to cap their number.

Coordinates are relative to the seed and their step is a constant of the model, so that neither the position nor
the size of a tile can be felt, not even in the last bit. The package's own coordinates are absolute and depend on the
image's size; who compares with it, gives them (`Coordinates`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.compose import collect, merge, paint
from microtome.segmentation.grow import grow_all, sigmoid
from microtome.segmentation.model import Model
from microtome.segmentation.peaks import find_peaks, seed_map
from microtome.segmentation.shares import in_shares


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of one image, in the order of their seeds.

    `labels` int32 [h, w]: 0 is background, otherwise 1 + index of the group's first seed.
    Per object: `label` int32, `seed` int32 [n, 2] (y, x) of that first seed, `area` int32 in pixels,
    `score` float32 (value of the seed map at the seed), `box` int32 [n, 4] (y0, x0, y1, x1), half-open; bool [n]
    `regrown`: the ordinary window did not hold it, or one that it is one with; `cut`: nor did the largest.
    """

    labels: NDArray[np.int32]
    label: NDArray[np.int32]
    seed: NDArray[np.int32]
    area: NDArray[np.int32]
    score: NDArray[np.float32]
    box: NDArray[np.int32]
    regrown: NDArray[np.bool_]
    cut: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Absolute coordinates of an image, in embedding units: `across` float32 [w], `down` float32 [h]."""

    across: NDArray[np.float32]
    down: NDArray[np.float32]


# Boxes, starts, logits, and who was regrown or cut, as `grow_all` gives them.
Grown: TypeAlias = tuple[
    NDArray[np.int32], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]
]
_FROM_SEED = Coordinates(np.empty(0, np.float32), np.empty(0, np.float32))


def _smallest_logit(probability: np.float32) -> np.float32:
    """Find the smallest float32 whose float32 sigmoid reaches `probability`, which is above 0 and below 1."""
    # Bits as numbers that rise with the float: halving the distance between them takes 32 steps wherever it is.
    below, reaches = -_ordered(np.float32(120)), _ordered(np.float32(120))
    while reaches - below > 1:
        middle = (below + reaches) // 2
        if sigmoid(_float_at(middle)) >= probability:
            reaches = middle
        else:
            below = middle
    return _float_at(reaches)


def _ordered(positive: np.float32) -> int:
    return int(positive.view(np.int32))


def _float_at(order: int) -> np.float32:
    value = np.int32(abs(order)).view(np.float32)
    return np.float32(-value if order < 0 else value)


def find_instances(
    logits: NDArray[np.float32],
    model: Model,
    *,
    regrow: bool = True,
    size: tuple[int, int] | None = None,
    coordinates: Coordinates = _FROM_SEED,
    threads: int = 1,
) -> Instances:
    """Instances of one image from its logits, float32 [5, h, w], the same whatever the number of `threads`.

    `size`: height and width of the image, if the logits go on to the right of it and below; None: they do not.
    `regrow` False and the package's `coordinates`: exactly what the package does.
    """
    logits = _side_by_side(logits, threads)
    height, width = logits.shape[1:] if size is None else size
    seeds_at = seed_map(logits[4], height, width)
    seeds = find_peaks(seeds_at, model.peak_distance, np.float32(model.seed_threshold), threads)
    mask_threshold = np.float32(model.mask_threshold)
    largest = model.window_max if regrow else model.window
    boxes, starts, pool, regrown, cut = _grown(logits, (height, width), seeds, model, largest, coordinates, threads)
    labels, members = paint(boxes, starts, pool, height, width, mask_threshold)
    parent = merge(boxes, starts, pool, members, seeds, np.float32(model.overlap_threshold))
    area, box = collect(labels, boxes, parent)
    kept = np.flatnonzero(area)
    return Instances(
        labels=labels,
        label=(kept + 1).astype(np.int32),
        seed=seeds[kept],
        area=area[kept],
        score=seeds_at[seeds[kept, 0], seeds[kept, 1]],
        box=box[kept],
        regrown=_of_groups(regrown, parent)[kept],
        cut=_of_groups(cut, parent)[kept],
    )


def _side_by_side(logits: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Return the same numbers without gaps between rows; a part of a larger image is copied, by `threads`."""
    if logits.flags.c_contiguous and logits.dtype == np.float32:
        return logits
    copy = np.empty(logits.shape, np.float32)
    in_shares(lambda first, last: np.copyto(copy[first:last], logits[first:last]), len(copy), threads, few=1)
    return copy


def _grown(
    logits: NDArray[np.float32],
    image: tuple[int, int],
    seeds: NDArray[np.int32],
    model: Model,
    largest: int,
    coordinates: Coordinates,
    threads: int,
) -> Grown:
    """What `grow_all` gives for all seeds; a seed's members do not depend on the others, so threads share them."""
    step, threshold = np.float32(model.coordinate_step), _smallest_logit(np.float32(model.mask_threshold))
    classifier = model.pixel_classifier

    def grow(start: int, stop: int) -> Grown:
        return grow_all(
            logits,
            image,
            seeds[start:stop],
            model.window,
            largest,
            step,
            coordinates.across,
            coordinates.down,
            threshold,
            classifier.flat,
            classifier.hidden,
        )

    parts = in_shares(grow, len(seeds), threads)
    if len(parts) == 1:
        return parts[0]
    boxes, starts, pools, regrown, cut = zip(*parts, strict=True)
    ends = np.cumsum([part[-1] for part in starts])
    shifted = [part[1:] + end for part, end in zip(starts[1:], ends[:-1], strict=True)]
    return (
        np.concatenate(boxes),
        np.concatenate([starts[0], *shifted]),
        np.concatenate([pool[: part[-1]] for pool, part in zip(pools, starts, strict=True)]),
        np.concatenate(regrown),
        np.concatenate(cut),
    )


def _of_groups(which: NDArray[np.bool_], parent: NDArray[np.int32]) -> NDArray[np.bool_]:
    """For each seed whether `which` is true of any seed of its group."""
    any_of = np.zeros_like(which)
    any_of[parent[which]] = True
    return any_of
