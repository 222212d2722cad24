"""Which outline of one set is which of another: the same as `matching`, for polygons instead of label images.

Promises: the overlap of two outlines is that of their areas, computed, not drawn: no pixel size comes in, and identical
outlines overlap by exactly 1. Partners overlap by more than the threshold; where a set overlaps itself, so that an
outline could have two, the pair that overlaps best is made first. Time and memory follow the outlines, wherever on the
slide they lie: about 600 bytes for one of 30 points.
Refuses: thresholds below 0.5, as `matching` does. Rings that cross themselves count every part as often as they go
around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest
from microtome.scoring.matching import Matching

# An overlap is rounded to this many decimals: what is left of rounding errors must not tell equal outlines apart.
_DECIMALS = 9


@dataclass(frozen=True, eq=False)
class OutlineSet:
    """Outlines of any kind, each one or more rings: exteriors, and holes that go the other way around.

    `lower`, `upper`: float64 [n, 2], corners of each outline's box; `area`: float64 [n];
    `points`: float32 [m, 2], (x, y) from the outline's lower corner; rings open, exteriors with a positive area.
    `ring_offsets`: int64 [r + 1] into points; `outline_offsets`: int64 [n + 1] into rings.
    """

    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    area: NDArray[np.float64]
    points: NDArray[np.float32]
    ring_offsets: NDArray[np.int64]
    outline_offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.area)

    @classmethod
    def of(
        cls,
        points: NDArray[np.float64],
        ring_offsets: NDArray[np.int64],
        outline_offsets: NDArray[np.int64],
        holes: NDArray[np.bool_],
    ) -> OutlineSet:
        """From points float64 [m or more, 2], rings open and in any direction; `holes`: bool [r], which are holes."""
        count, points = len(outline_offsets) - 1, points[: ring_offsets[-1]]
        lower, upper, area = np.empty((count, 2)), np.empty((count, 2)), np.empty(count)
        relative = np.empty((len(points), 2), np.float32)
        _arrange(points, ring_offsets, outline_offsets, holes, lower, upper, area, relative)
        return cls(lower, upper, area, relative, ring_offsets, outline_offsets)

    @classmethod
    def simple(cls, points: NDArray[np.float64], offsets: NDArray[np.int64]) -> OutlineSet:
        """From points float64 [m, 2] of outlines of one ring each, with offsets int64 [n + 1]."""
        count = len(offsets) - 1
        return cls.of(points, offsets, np.arange(count + 1), np.zeros(count, np.bool_))

    @classmethod
    def joined(cls, parts: list[OutlineSet]) -> OutlineSet:
        """All outlines of several sets, in order."""
        if not parts:
            return cls.simple(np.empty((0, 2)), np.zeros(1, np.int64))
        return cls(
            np.concatenate([part.lower for part in parts]),
            np.concatenate([part.upper for part in parts]),
            np.concatenate([part.area for part in parts]),
            np.concatenate([part.points for part in parts]),
            _one_after_the_other([part.ring_offsets for part in parts]),
            _one_after_the_other([part.outline_offsets for part in parts]),
        )

    @property
    def centre(self) -> NDArray[np.float64]:
        """Middle of each outline's box, float64 [n, 2]."""
        return (self.lower + self.upper) / 2

    def rings(self, index: int) -> list[NDArray[np.float64]]:
        """Rings of one outline, float64 [k, 2] each, where they lie."""
        first, last = self.outline_offsets[index], self.outline_offsets[index + 1]
        return [
            self.points[self.ring_offsets[ring] : self.ring_offsets[ring + 1]] + self.lower[index]
            for ring in range(first, last)
        ]


def _one_after_the_other(offsets: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate([np.diff(part) for part in offsets]))])


def match_outlines(a: OutlineSet, b: OutlineSet, iou: float = 0.5) -> Matching:
    """Partners with an intersection over union above `iou`, as indices. Raises `InvalidRequest` below 0.5."""
    if not 0.5 <= iou <= 1.0:
        raise InvalidRequest(f"Outlines can be matched above an overlap of 0.5 to 1, not {iou}.")
    pairs, overlap = _overlapping(a, b, iou)
    # The best first; of equal ones the first of a, then of b.
    order = np.lexsort((pairs[:, 1], pairs[:, 0], -overlap))
    chosen = order[_first_come(pairs[order], len(a), len(b))]
    chosen = chosen[np.argsort(pairs[chosen, 0], kind="stable")]
    pairs, overlap = pairs[chosen], overlap[chosen]
    only_a, only_b = np.ones(len(a), np.bool_), np.ones(len(b), np.bool_)
    only_a[pairs[:, 0]], only_b[pairs[:, 1]] = False, False
    return Matching(pairs, overlap, np.flatnonzero(only_a), np.flatnonzero(only_b))


def _overlapping(a: OutlineSet, b: OutlineSet, iou: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """All pairs int64 [k, 2] that overlap by more than `iou`, and by how much, float64 [k]."""
    if not (len(a) and len(b)):
        return np.empty((0, 2), np.int64), np.empty(0)
    origin = np.minimum(a.lower.min(axis=0), b.lower.min(axis=0))
    extent = np.maximum(a.upper.max(axis=0), b.upper.max(axis=0)) - origin
    # Squares in which a few outlines lie; not more squares than outlines, however far apart those are.
    pitch = max(float(np.median((b.upper - b.lower).max(axis=1))), float(np.sqrt(extent.prod() / len(b))), 1e-9)
    shape = np.maximum(np.floor(extent / pitch).astype(np.int64) + 1, 1)
    starts, members = _index(b.lower, b.upper, origin, pitch, shape)
    found = np.empty((len(a) + len(b), 2), np.int64)
    overlap = np.empty(len(a) + len(b))
    count = 0
    # An outline of a may have several such partners in b where b overlaps itself; then the list is made longer.
    while True:
        count = _pairs(
            a.lower, a.upper, a.area, a.points, a.ring_offsets, a.outline_offsets,
            b.lower, b.upper, b.area, b.points, b.ring_offsets, b.outline_offsets,
            origin, pitch, shape, starts, members, iou, found, overlap,
        )  # fmt: skip
        if count <= len(found):
            return found[:count], overlap[:count]
        found, overlap = np.empty((count, 2), np.int64), np.empty(count)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _arrange(
    points: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    outline_offsets: NDArray[np.int64],
    holes: NDArray[np.bool_],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    area: NDArray[np.float64],
    relative: NDArray[np.float32],
) -> None:
    """Boxes and areas; points from the lower corner, exteriors in one direction and holes in the other."""
    for k in range(outline_offsets.size - 1):
        first, last = ring_offsets[outline_offsets[k]], ring_offsets[outline_offsets[k + 1]]
        for axis in range(2):
            low, high = np.inf, -np.inf
            for i in range(first, last):
                low, high = min(low, points[i, axis]), max(high, points[i, axis])
            lower[k, axis], upper[k, axis] = low, high
        area[k] = 0.0
        for ring in range(outline_offsets[k], outline_offsets[k + 1]):
            start, end = ring_offsets[ring], ring_offsets[ring + 1]
            for i in range(start, end):
                relative[i, 0], relative[i, 1] = points[i, 0] - lower[k, 0], points[i, 1] - lower[k, 1]
            twice = 0.0
            for i in range(start, end):
                # Of the points as they are kept, so that an outline has no other area than what it shares with itself.
                before = relative[i - 1] if i > start else relative[end - 1]
                twice += np.float64(before[0]) * relative[i, 1] - np.float64(relative[i, 0]) * before[1]
            if (twice < 0) != holes[ring]:
                relative[start:end] = relative[start:end][::-1].copy()
            area[k] += -0.5 * abs(twice) if holes[ring] else 0.5 * abs(twice)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _square(
    place: NDArray[np.float64], origin: NDArray[np.float64], pitch: float, shape: NDArray[np.int64]
) -> tuple[int, int]:
    """Column and row of the square in which `place` lies."""
    column, row = int((place[0] - origin[0]) / pitch), int((place[1] - origin[1]) / pitch)
    return min(max(column, 0), shape[0] - 1), min(max(row, 0), shape[1] - 1)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _index(
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    origin: NDArray[np.float64],
    pitch: float,
    shape: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Which boxes touch each square: starts int64 [squares + 1] into members int32."""
    starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
    for fill in range(2):
        if fill == 1:
            members = np.empty(starts[-1], np.int32)
        for k in range(lower.shape[0]):
            x0, y0 = _square(lower[k], origin, pitch, shape)
            x1, y1 = _square(upper[k], origin, pitch, shape)
            for y in range(y0, y1 + 1):
                for x in range(x0, x1 + 1):
                    square = y * shape[0] + x
                    if fill == 1:
                        # Filled from the end, so that starts end up where they belong.
                        starts[square] -= 1
                        members[starts[square]] = k
                    else:
                        starts[square] += 1
        if fill == 0:
            total = 0
            for square in range(starts.size):
                total += starts[square]
                starts[square] = total
    return starts, members


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _pairs(
    lower_a: NDArray[np.float64],
    upper_a: NDArray[np.float64],
    area_a: NDArray[np.float64],
    points_a: NDArray[np.float32],
    rings_a: NDArray[np.int64],
    outlines_a: NDArray[np.int64],
    lower_b: NDArray[np.float64],
    upper_b: NDArray[np.float64],
    area_b: NDArray[np.float64],
    points_b: NDArray[np.float32],
    rings_b: NDArray[np.int64],
    outlines_b: NDArray[np.int64],
    origin: NDArray[np.float64],
    pitch: float,
    shape: NDArray[np.int64],
    starts: NDArray[np.int64],
    members: NDArray[np.int32],
    iou: float,
    found: NDArray[np.int64],
    overlap: NDArray[np.float64],
) -> int:
    """Write the pairs above `iou` as far as there is room; returns how many there are."""
    count = 0
    edges_a, edges_b = np.empty((64, 5)), np.empty((64, 5))
    for i in range(lower_a.shape[0]):
        ready = -1
        x0, y0 = _square(lower_a[i], origin, pitch, shape)
        x1, y1 = _square(upper_a[i], origin, pitch, shape)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                square = y * shape[0] + x
                for at in range(starts[square], starts[square + 1]):
                    j = members[at]
                    corner = np.maximum(lower_a[i], lower_b[j])
                    # Boxes may share several squares; the one with their common upper left corner has the pair.
                    if _square(corner, origin, pitch, shape) != (x, y):
                        continue
                    width = min(upper_a[i, 0], upper_b[j, 0]) - corner[0]
                    height = min(upper_a[i, 1], upper_b[j, 1]) - corner[1]
                    both = area_a[i] + area_b[j]
                    most = min(area_a[i], area_b[j], max(width, 0.0) * max(height, 0.0))
                    # As much as boxes and areas allow: when that is too little, nobody needs to look closer.
                    if width <= 0 or height <= 0 or not most > iou * (both - most) * (1 - 1e-9):
                        continue
                    if ready < 0:
                        edges_a, ready = _edges(points_a, rings_a, outlines_a, i, 0.0, 0.0, edges_a)
                    edges_b, ready_b = _edges(
                        points_b, rings_b, outlines_b, j,
                        lower_b[j, 0] - lower_a[i, 0], lower_b[j, 1] - lower_a[i, 1], edges_b,
                    )  # fmt: skip
                    floor = min(0.0, lower_b[j, 1] - lower_a[i, 1])
                    shared = _shared(edges_a[:ready], edges_b[:ready_b], floor)
                    value = round(min(max(shared / (both - shared), 0.0), 1.0), _DECIMALS)
                    if value > iou:
                        if count < found.shape[0]:
                            found[count, 0], found[count, 1], overlap[count] = i, j, value
                        count += 1
    return count


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _edges(
    points: NDArray[np.float32],
    ring_offsets: NDArray[np.int64],
    outline_offsets: NDArray[np.int64],
    k: int,
    dx: float,
    dy: float,
    out: NDArray[np.float64],
) -> tuple[NDArray[np.float64], int]:
    """Edges of outline k that are not vertical, moved by (dx, dy), and their number: from x, to x (larger), y there and
    there, and +1 or -1 for the direction in which the ring runs. `out` may be replaced by a larger one.
    """
    room = ring_offsets[outline_offsets[k + 1]] - ring_offsets[outline_offsets[k]]
    if room > out.shape[0]:
        out = np.empty((2 * room, 5))
    count = 0
    for ring in range(outline_offsets[k], outline_offsets[k + 1]):
        start, end = ring_offsets[ring], ring_offsets[ring + 1]
        for i in range(start, end):
            before = i - 1 if i > start else end - 1
            x0, y0 = points[before, 0] + dx, points[before, 1] + dy
            x1, y1 = points[i, 0] + dx, points[i, 1] + dy
            if x0 < x1:
                out[count, 0], out[count, 1], out[count, 2], out[count, 3], out[count, 4] = x0, x1, y0, y1, -1.0
                count += 1
            elif x1 < x0:
                out[count, 0], out[count, 1], out[count, 2], out[count, 3], out[count, 4] = x1, x0, y1, y0, 1.0
                count += 1
    return out, count


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _shared(a: NDArray[np.float64], b: NDArray[np.float64], floor: float) -> float:
    """Area that two outlines share, from their edges.

    An outline is the sum of the trapezoids between its edges and a line below everything, taken positive or negative
    by the direction of the edge; so what two outlines share is the signed sum of what their trapezoids share.
    """
    total = 0.0
    for i in range(a.shape[0]):
        slope_a = (a[i, 3] - a[i, 2]) / (a[i, 1] - a[i, 0])
        for j in range(b.shape[0]):
            left, right = max(a[i, 0], b[j, 0]), min(a[i, 1], b[j, 1])
            if left >= right:
                continue
            slope_b = (b[j, 3] - b[j, 2]) / (b[j, 1] - b[j, 0])
            a_left, a_right = a[i, 2] + slope_a * (left - a[i, 0]), a[i, 2] + slope_a * (right - a[i, 0])
            b_left, b_right = b[j, 2] + slope_b * (left - b[j, 0]), b[j, 2] + slope_b * (right - b[j, 0])
            low_left, low_right = min(a_left, b_left) - floor, min(a_right, b_right) - floor
            before, after = a_left - b_left, a_right - b_right
            if before * after < 0:
                part = before / (before - after)
                middle = a_left + part * (a_right - a_left) - floor
                height = 0.5 * (part * (low_left + middle) + (1 - part) * (middle + low_right))
            else:
                height = 0.5 * (low_left + low_right)
            total += a[i, 4] * b[j, 4] * height * (right - left)
    return total


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _first_come(pairs: NDArray[np.int64], count_a: int, count_b: int) -> NDArray[np.bool_]:
    """Which pairs are made when each outline takes the first partner that comes: bool [k]."""
    free_a, free_b = np.ones(count_a, np.bool_), np.ones(count_b, np.bool_)
    made = np.zeros(pairs.shape[0], np.bool_)
    for k in range(pairs.shape[0]):
        i, j = pairs[k, 0], pairs[k, 1]
        if free_a[i] and free_b[j]:
            made[k], free_a[i], free_b[j] = True, False, False
    return made
