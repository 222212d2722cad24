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

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.model import Model
from microtome.segmentation.peaks import find_peaks, seed_map

# What a window may hold besides logits: a filled hole, whose probability is the threshold itself.
_HOLE = np.float32(-np.inf)
_ABSENT = np.float32(np.nan)
_FREE, _MEMBER, _SEEN, _OUTSIDE = 0, 1, 2, 3
# Bound of the flood fills of the reference algorithm is the edge of the window; holes close over this radius.
_HOLE_RADIUS = 3


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


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _sigmoid(value: np.float32) -> np.float32:
    # 1 + exp and its inverse are rounded to float32 as the reference rounds them: near 1 that decides which values
    # are equal. The exponential itself goes through double precision, so that it does not depend on whose exp it is.
    one = np.float32(1.0)
    return np.float32(one / (one + np.float32(math.exp(-np.float64(value)))))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _classify(
    a: np.float32,
    b: np.float32,
    c: np.float32,
    d: np.float32,
    weights: NDArray[np.float32],
    hidden: NDArray[np.float32],
) -> np.float32:
    """Logit of the pixel classifier (4 → n → n → 1, ReLU); `weights` as in `PixelClassifier.flat`."""
    n = hidden.shape[0]
    zero = np.float32(0.0)
    first, second = 5 * n, 6 * n + n * n
    for i in range(n):
        at = 4 * i
        value = weights[at] * a + weights[at + 1] * b + weights[at + 2] * c + weights[at + 3] * d + weights[4 * n + i]
        if value > zero:
            hidden[i] = value
        else:
            hidden[i] = zero
    out = zero
    for i in range(n):
        value = zero
        for j in range(n):
            value += weights[first + i * n + j] * hidden[j]
        value += weights[first + n * n + i]
        if value > zero:
            out += weights[second + i] * value
    return np.float32(out + weights[second + n])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grow(
    logits: NDArray[np.float32],
    top: int,
    left: int,
    seed_y: int,
    seed_x: int,
    step: np.float32,
    threshold: np.float32,
    weights: NDArray[np.float32],
    hidden: NDArray[np.float32],
    state: NDArray[np.uint8],
    values: NDArray[np.float32],
    queue: NDArray[np.int32],
    limit: int,
) -> tuple[int, int, int, int]:
    """Grow one seed inside its window; returns the half-open box of its members in window coordinates."""
    height, width = state.shape
    half, eight = np.float32(0.5), np.float32(8.0)
    origin_x = (_sigmoid(logits[0, seed_y, seed_x]) - half) * eight
    origin_y = (_sigmoid(logits[1, seed_y, seed_x]) - half) * eight
    y0, x0, y1, x1 = height, width, 0, 0
    tail = 0
    # The seed's neighbours are asked even where the seed itself is not a member.
    for y in range(max(0, seed_y - top - 1), min(height, seed_y - top + 2)):
        for x in range(max(0, seed_x - left - 1), min(width, seed_x - left + 2)):
            state[y, x] = _SEEN
            queue[tail] = y * width + x
            tail += 1
    begin, depth = 0, 1
    while begin < tail:
        end = tail
        for i in range(begin, end):
            y = queue[i] // width
            x = queue[i] - y * width
            row, column = top + y, left + x
            field_x = (_sigmoid(logits[0, row, column]) - half) * eight
            field_y = (_sigmoid(logits[1, row, column]) - half) * eight
            value = _classify(
                field_x - origin_x + np.float32(column - seed_x) * step,
                field_y - origin_y + np.float32(row - seed_y) * step,
                logits[2, row, column],
                logits[3, row, column],
                weights,
                hidden,
            )
            if not value >= threshold:
                continue
            state[y, x] = _MEMBER
            values[y, x] = value
            y0, x0, y1, x1 = min(y0, y), min(x0, x), max(y1, y + 1), max(x1, x + 1)
            if depth == limit:
                continue
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    if state[v, u] == _FREE:
                        state[v, u] = _SEEN
                        queue[tail] = v * width + u
                        tail += 1
        begin = end
        depth += 1
    return y0, x0, y1, x1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _rows_are_whole(state: NDArray[np.uint8], y0: int, x0: int, y1: int, x1: int) -> bool:
    """Whether each row has its members side by side: then every other pixel can leave sideways."""
    for y in range(y0, y1):
        runs, inside = 0, False
        for x in range(x0, x1):
            member = state[y, x] == _MEMBER
            if member and not inside:
                runs += 1
            inside = member
        if runs > 1:
            return False
    return True


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill_holes(
    state: NDArray[np.uint8],
    values: NDArray[np.float32],
    near: NDArray[np.uint8],
    queue: NDArray[np.int32],
    limit: int,
    y0: int,
    x0: int,
    y1: int,
    x1: int,
) -> None:
    """Make members of the pixels of the box that no pixel further than `_HOLE_RADIUS` from the object reaches."""
    height, width = y1 - y0, x1 - x0
    for y in range(height):
        for x in range(width):
            hit = 0
            for u in range(max(0, x - _HOLE_RADIUS), min(width, x + _HOLE_RADIUS + 1)):
                if state[y0 + y, x0 + u] == _MEMBER:
                    hit = 1
                    break
            near[y, x] = hit
    tail = 0
    for y in range(height):
        for x in range(width):
            hit = 0
            for v in range(max(0, y - _HOLE_RADIUS), min(height, y + _HOLE_RADIUS + 1)):
                if near[v, x]:
                    hit = 1
                    break
            if hit == 0:
                state[y0 + y, x0 + x] = _OUTSIDE
                queue[tail] = y * width + x
                tail += 1
    begin, depth = 0, 0
    while begin < tail and depth < limit:
        end = tail
        for i in range(begin, end):
            y = queue[i] // width
            x = queue[i] - y * width
            for v in range(max(0, y - 1), min(height, y + 2)):
                for u in range(max(0, x - 1), min(width, x + 2)):
                    at = state[y0 + v, x0 + u]
                    if at != _MEMBER and at != _OUTSIDE:
                        state[y0 + v, x0 + u] = _OUTSIDE
                        queue[tail] = v * width + u
                        tail += 1
        begin = end
        depth += 1
    for y in range(y0, y1):
        for x in range(x0, x1):
            if state[y, x] != _MEMBER and state[y, x] != _OUTSIDE:
                state[y, x] = _MEMBER
                values[y, x] = _HOLE


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _enlarged(pool: NDArray[np.float32], used: int, size: int) -> NDArray[np.float32]:
    larger = np.empty(size, np.float32)
    for i in range(used):
        larger[i] = pool[i]
    return larger


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _grow_all(
    logits: NDArray[np.float32],
    seeds: NDArray[np.int32],
    window: int,
    step: np.float32,
    threshold: np.float32,
    weights: NDArray[np.float32],
    width_of_mlp: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """Every seed's members: box int32 [n, 4], start int64 [n + 1] and the boxes' logits one after the other."""
    image_height, image_width = logits.shape[1], logits.shape[2]
    height, width = min(2 * window, image_height), min(2 * window, image_width)
    limit = 2 * window
    count = seeds.shape[0]
    hidden = np.empty(width_of_mlp, np.float32)
    state = np.zeros((height, width), np.uint8)
    values = np.empty((height, width), np.float32)
    near = np.empty((height, width), np.uint8)
    queue = np.empty(height * width, np.int32)
    boxes = np.zeros((count, 4), np.int32)
    starts = np.zeros(count + 1, np.int64)
    pool = np.empty(max(1024, 512 * count), np.float32)
    for k in range(count):
        seed_y, seed_x = seeds[k, 0], seeds[k, 1]
        top = max(0, min(seed_y - window, image_height - height))
        left = max(0, min(seed_x - window, image_width - width))
        y0, x0, y1, x1 = _grow(
            logits, top, left, seed_y, seed_x, step, threshold, weights, hidden, state, values, queue, limit
        )
        margin = _HOLE_RADIUS + 1
        a0, b0 = max(0, min(y0, seed_y - top) - margin), max(0, min(x0, seed_x - left) - margin)
        a1, b1 = min(height, max(y1, seed_y - top + 1) + margin), min(width, max(x1, seed_x - left + 1) + margin)
        if y1 > 0:
            inside = y0 >= margin and x0 >= margin and y1 + margin <= height and x1 + margin <= width
            if not inside or not _rows_are_whole(state, y0, x0, y1, x1):
                # Only at the window's border can filling go beyond the members' own box.
                _fill_holes(state, values, near, queue, limit, a0, b0, a1, b1)
                if not inside:
                    y0, x0, y1, x1 = a0, b0, a1, b1
            need = starts[k] + (y1 - y0) * (x1 - x0)
            if need > pool.shape[0]:
                pool = _enlarged(pool, starts[k], 2 * need)
            at = starts[k]
            for y in range(y0, y1):
                for x in range(x0, x1):
                    pool[at] = values[y, x] if state[y, x] == _MEMBER else _ABSENT
                    at += 1
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = top + y0, left + x0, top + y1, left + x1
            starts[k + 1] = at
        else:
            boxes[k, 0], boxes[k, 1], boxes[k, 2], boxes[k, 3] = seed_y, seed_x, seed_y, seed_x
            starts[k + 1] = starts[k]
        for y in range(a0, a1):
            for x in range(b0, b1):
                state[y, x] = _FREE
    return boxes, starts, pool


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _paint(
    boxes: NDArray[np.int32],
    starts: NDArray[np.int64],
    pool: NDArray[np.float32],
    height: int,
    width: int,
    mask_threshold: np.float32,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Give every pixel to its most probable object; also the number of members of each object."""
    labels = np.zeros((height, width), np.int32)
    best = np.empty((height, width), np.float32)
    members = np.zeros(boxes.shape[0], np.int64)
    for k in range(boxes.shape[0]):
        at = starts[k]
        for y in range(boxes[k, 0], boxes[k, 2]):
            for x in range(boxes[k, 1], boxes[k, 3]):
                value = pool[at]
                at += 1
                if np.isnan(value):
                    continue
                members[k] += 1
                if labels[y, x] == 0:
                    labels[y, x] = k + 1
                    best[y, x] = value
                elif value > best[y, x]:
                    # Different logits may round to one probability, and then the earlier seed keeps the pixel.
                    held = mask_threshold if best[y, x] == _HOLE else _sigmoid(best[y, x])
                    if _sigmoid(value) > held:
                        labels[y, x] = k + 1
                        best[y, x] = value
    return labels, members


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _root(parent: NDArray[np.int32], k: int) -> int:
    while parent[k] != k:
        parent[k] = parent[parent[k]]
        k = parent[k]
    return k


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _merge(
    boxes: NDArray[np.int32],
    starts: NDArray[np.int64],
    pool: NDArray[np.float32],
    members: NDArray[np.int64],
    seeds: NDArray[np.int32],
    window: int,
    overlap: np.float32,
) -> NDArray[np.int32]:
    """For each object the first seed of the objects that it is one with: int32 [n]."""
    count = boxes.shape[0]
    parent = np.empty(count, np.int32)
    for k in range(count):
        parent[k] = k
    for i in range(count):
        if members[i] == 0:
            continue
        for j in range(i + 1, count):
            # Windows are moved inwards at the border, never further than the window itself.
            if seeds[j, 0] - seeds[i, 0] >= 4 * window:
                break
            y0, y1 = max(boxes[i, 0], boxes[j, 0]), min(boxes[i, 2], boxes[j, 2])
            x0, x1 = max(boxes[i, 1], boxes[j, 1]), min(boxes[i, 3], boxes[j, 3])
            if y0 >= y1 or x0 >= x1 or members[j] == 0:
                continue
            shared = 0
            for y in range(y0, y1):
                at_i = starts[i] + (y - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 1]) - boxes[i, 1]
                at_j = starts[j] + (y - boxes[j, 0]) * (boxes[j, 3] - boxes[j, 1]) - boxes[j, 1]
                for x in range(x0, x1):
                    a, b = pool[at_i + x], pool[at_j + x]
                    if not (np.isnan(a) or np.isnan(b)):
                        shared += 1
            if np.float32(shared) / np.float32(members[i] + members[j] - shared) > overlap:
                a_root, b_root = _root(parent, i), _root(parent, j)
                if a_root < b_root:
                    parent[b_root] = a_root
                else:
                    parent[a_root] = b_root
    for k in range(count):
        parent[k] = _root(parent, k)
    return parent


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _collect(
    labels: NDArray[np.int32], boxes: NDArray[np.int32], parent: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Relabel in place by group; area int32 [n] and box int32 [n, 4] of every group, at its first seed."""
    count = boxes.shape[0]
    area = np.zeros(count, np.int32)
    box = np.zeros((count, 4), np.int32)
    for k in range(count):
        group = parent[k]
        for y in range(boxes[k, 0], boxes[k, 2]):
            for x in range(boxes[k, 1], boxes[k, 3]):
                # A later member of the group cannot meet this label again: it lies below its own number.
                if labels[y, x] != k + 1:
                    continue
                if group != k:
                    labels[y, x] = group + 1
                if area[group] == 0:
                    box[group, 0], box[group, 1], box[group, 2], box[group, 3] = y, x, y + 1, x + 1
                area[group] += 1
                box[group, 0] = min(box[group, 0], y)
                box[group, 1] = min(box[group, 1], x)
                box[group, 2] = max(box[group, 2], y + 1)
                box[group, 3] = max(box[group, 3], x + 1)
    return area, box


def _smallest_logit(probability: np.float32) -> np.float32:
    """Find the smallest float32 whose float32 sigmoid reaches `probability`."""

    def reaches(logit: np.float32) -> bool:
        return bool(_sigmoid(logit) >= probability)

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
    boxes, starts, pool = _grow_all(
        logits,
        seeds,
        model.window,
        np.float32(model.coordinate_step),
        _smallest_logit(mask_threshold),
        model.pixel_classifier.flat,
        model.pixel_classifier.hidden,
    )
    labels, members = _paint(boxes, starts, pool, height, width, mask_threshold)
    parent = _merge(boxes, starts, pool, members, seeds, model.window, np.float32(model.overlap_threshold))
    area, box = _collect(labels, boxes, parent)
    kept = np.flatnonzero(area)
    return Instances(
        labels=labels,
        label=(kept + 1).astype(np.int32),
        seed=seeds[kept],
        area=area[kept],
        score=seeds_at[seeds[kept, 0], seeds[kept, 1]],
        box=box[kept],
    )
