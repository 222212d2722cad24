"""Outlines of objects: one simple polygon for each.

Promises: the exterior ring of the object's largest 8-connected piece (of equal ones the first in scan order),
through the middles of the pixels' edges as marching squares draws it, diagonal neighbours joined. Such a ring never
touches itself, so it is always valid. Points are int32 (x, y) in half pixels: pixel (x, y) covers
[2x, 2x + 2] × [2y, 2y + 2]. The first point is the middle of the upper edge of the piece's first pixel in scan
order, the ring runs clockwise on the screen, the last point is not repeated, no three points lie on one line.
Refuses: holes, and pieces other than the largest.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.shares import in_shares


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _only_piece(
    labels: NDArray[np.int32], label: int, y0: int, x0: int, y1: int, x1: int, piece: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """As `_largest_piece` for what nearly all objects are: one run of pixels in each row, each touching the one above.

    The area is -1 for all others.
    """
    height, width = y1 - y0, x1 - x0
    piece[: height + 2, : width + 2] = 0
    first_y, first_x, area, over = 0, 0, 0, False
    left, right = 0, 0
    for y in range(height):
        first, last, count = -1, -1, 0
        for x in range(width):
            if labels[y0 + y, x0 + x] == label:
                piece[y + 1, x + 1] = 1
                if count == 0:
                    first = x
                last = x
                count += 1
        if count == 0:
            over = area > 0
            continue
        if over or count != last - first + 1 or (area > 0 and (first > right + 1 or last < left - 1)):
            return 0, 0, -1
        if area == 0:
            first_y, first_x = y, first
        area += count
        left, right = first, last
    return first_y, first_x, area


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _largest_piece(
    labels: NDArray[np.int32], label: int, y0: int, x0: int, y1: int, x1: int, piece: NDArray[np.uint8]
) -> tuple[int, int, int]:
    """First pixel and area of the largest piece: y, x, area; its pixels become 1 in `piece`, which begins a pixel above
    and left of the box and is otherwise 0.
    """
    height, width = y1 - y0, x1 - x0
    number = np.zeros((height, width), np.int32)
    queue = np.empty(height * width, np.int32)
    best_area, best_y, best_x, best, count = 0, 0, 0, 0, 0
    for y in range(height):
        for x in range(width):
            if number[y, x] != 0 or labels[y0 + y, x0 + x] != label:
                continue
            count += 1
            number[y, x] = count
            queue[0] = y * width + x
            head, tail = 0, 1
            while head < tail:
                v = queue[head] // width
                u = queue[head] - v * width
                head += 1
                for b in range(max(0, v - 1), min(height, v + 2)):
                    for a in range(max(0, u - 1), min(width, u + 2)):
                        if number[b, a] == 0 and labels[y0 + b, x0 + a] == label:
                            number[b, a] = count
                            queue[tail] = b * width + a
                            tail += 1
            if tail > best_area:
                best_area, best_y, best_x, best = tail, y, x, count
    piece[: height + 2, : width + 2] = 0
    for y in range(height):
        for x in range(width):
            piece[y + 1, x + 1] = 1 if best > 0 and number[y, x] == best else 0
    return best_y, best_x, best_area


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _inside(piece: NDArray[np.uint8], y: int, x: int) -> bool:
    return bool(piece[y + 1, x + 1])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _trace(piece: NDArray[np.uint8], y: int, x: int, out: NDArray[np.int32]) -> int:
    """Walk along the edges of pixels with the object on the right, starting at the upper edge of (y, x), which is the
    first pixel in scan order; pixel (0, 0) is piece[1, 1]. Writes the ring into `out` int32 [:, 2]; returns its length.
    """
    start_y, start_x = y, x
    # Direction of the walk: 0 right along an upper edge, 1 down along a right edge, 2 left, 3 up.
    direction, count = 0, 0
    while True:
        step_x = 1 if direction == 0 else (-1 if direction == 2 else 0)
        step_y = 1 if direction == 1 else (-1 if direction == 3 else 0)
        # The outward side is to the left of the walk.
        out_x, out_y = step_y, -step_x
        point_x, point_y = 2 * x + 1 + out_x, 2 * y + 1 + out_y
        if count >= 2:
            before_x, before_y = out[count - 1, 0] - out[count - 2, 0], out[count - 1, 1] - out[count - 2, 1]
            if before_x * (point_y - out[count - 1, 1]) == before_y * (point_x - out[count - 1, 0]):
                count -= 1
        out[count, 0], out[count, 1] = point_x, point_y
        count += 1
        if _inside(piece, y + step_y + out_y, x + step_x + out_x):
            y, x = y + step_y + out_y, x + step_x + out_x
            direction = (direction + 3) % 4
        elif _inside(piece, y + step_y, x + step_x):
            y, x = y + step_y, x + step_x
        else:
            direction = (direction + 1) % 4
        if y == start_y and x == start_x and direction == 0:
            break
    # The first point is always a corner; the last may lie on the line into it.
    if count >= 3:
        last_x, last_y = out[count - 1, 0] - out[count - 2, 0], out[count - 1, 1] - out[count - 2, 1]
        if last_x * (out[0, 1] - out[count - 1, 1]) == last_y * (out[0, 0] - out[count - 1, 0]):
            count -= 1
    return count


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _resized(points: NDArray[np.int32], used: int, size: int) -> NDArray[np.int32]:
    out = np.empty((size, 2), np.int32)
    for i in range(used):
        out[i, 0] = points[i, 0]
        out[i, 1] = points[i, 1]
    return out


def trace_contours(
    labels: NDArray[np.int32], label: NDArray[np.int32], box: NDArray[np.int32], threads: int = 1
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """Rings of the objects `label` int32 [n] of `labels` int32 [h, w], each within its half-open `box` int32 [n, 4].

    Returns `area` int32 [n] of the largest pieces in pixels, `offsets` int32 [n + 1] and `points` int32 [m, 2]; ring
    i is points[offsets[i]:offsets[i + 1]]. An object without a pixel has area 0 and an empty ring.
    """
    parts = in_shares(lambda start, stop: _traced(labels, label[start:stop], box[start:stop]), label.shape[0], threads)
    if len(parts) == 1:
        return parts[0]
    area, offsets, points = zip(*parts, strict=True)
    ends = np.cumsum([part[-1] for part in offsets], dtype=np.int32)
    shifted = [part[1:] + end for part, end in zip(offsets[1:], ends[:-1], strict=True)]
    return np.concatenate(area), np.concatenate([offsets[0], *shifted]), np.concatenate(points)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _traced(
    labels: NDArray[np.int32], label: NDArray[np.int32], box: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    count = label.shape[0]
    area = np.zeros(count, np.int32)
    offsets = np.zeros(count + 1, np.int32)
    points = np.empty((max(64, 48 * count), 2), np.int32)
    height, width = 0, 0
    for k in range(count):
        height, width = max(height, box[k, 2] - box[k, 0]), max(width, box[k, 3] - box[k, 1])
    piece = np.empty((height + 2, width + 2), np.uint8)
    ring = np.empty((0, 2), np.int32)
    for k in range(count):
        y0, x0, y1, x1 = box[k, 0], box[k, 1], box[k, 2], box[k, 3]
        y, x, size = _only_piece(labels, label[k], y0, x0, y1, x1, piece)
        if size < 0:
            y, x, size = _largest_piece(labels, label[k], y0, x0, y1, x1, piece)
        area[k] = size
        used = offsets[k]
        if size > 0:
            if ring.shape[0] < 4 * size + 4:
                ring = np.empty((2 * (4 * size + 4), 2), np.int32)
            length = _trace(piece, y, x, ring)
            if used + length > points.shape[0]:
                points = _resized(points, used, 2 * (used + length))
            for i in range(length):
                points[used + i, 0] = ring[i, 0] + 2 * x0
                points[used + i, 1] = ring[i, 1] + 2 * y0
            used += length
        offsets[k + 1] = used
    return area, offsets, _resized(points, int(offsets[count]), int(offsets[count]))
