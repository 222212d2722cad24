"""Composing an image of objects: who keeps a pixel that several claim, and which objects are one.

Promises: where objects meet the higher float32 probability wins and a tie goes to the earlier seed; objects that
overlap by more than the threshold are one, under its first seed.
Refuses: to drop an object, however small.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.grow import HOLE, sigmoid


@nb.njit(cache=True, nogil=True, error_model="numpy")
def paint(
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
                    held = mask_threshold if best[y, x] == HOLE else sigmoid(best[y, x])
                    if sigmoid(value) > held:
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
def merge(
    boxes: NDArray[np.int32],
    starts: NDArray[np.int64],
    pool: NDArray[np.float32],
    members: NDArray[np.int64],
    seeds: NDArray[np.int32],
    overlap: np.float32,
) -> NDArray[np.int32]:
    """For each object the first seed of the objects that it is one with: int32 [n]."""
    count = boxes.shape[0]
    parent = np.empty(count, np.int32)
    # Seeds come row by row: whoever's seed is further below than any object reaches up cannot meet this one.
    highest = 0
    for k in range(count):
        parent[k] = k
        highest = max(highest, seeds[k, 0] - boxes[k, 0])
    for i in range(count):
        if members[i] == 0:
            continue
        for j in range(i + 1, count):
            if seeds[j, 0] - highest >= boxes[i, 2]:
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
def collect(
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
