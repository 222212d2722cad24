"""How well tiles join: a score that sees what a careless merge leaves at the seams.

Promises: three numbers from the cells alone, without trusting whoever tiled: how dense cells are beside seams compared
with strips alongside, a nucleus further in, so that what the tissue does along a seam cancels out; how many cells end
in a straight edge on a line where a tile was cut; how many cells of two tiles cover each other. Only seams between two
tiles that both came count for density, so that tiles without tissue do not bend it. Tiles may come in any order; what
is kept is a few numbers for each open side, and the cells beside sides whose neighbour is still to come.
Refuses: to repair anything.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.cells import TileCells
from microtome.segmentation.grid import Grid, Rect, Tile

# Width of the strip on each side of a seam in which a merge loses or doubles cells: less than a nucleus.
_STRIP = 8
# Where each side's strip of comparison begins and ends, in pixels from the seam: beyond what a merge can touch, and
# near enough to be the same tissue.
_BESIDE = (24, 56)
# Cells that come this near to a seam are kept to be compared with the neighbour's.
_NEAR = 32
# A cell is cut where an edge of at least so many pixels, and of so much of its width, lies on a line.
_CUT_PIXELS, _CUT_SHARE = 6, 0.6
# Chance puts flat edges on any line. How often, other lines tell: those at these distances from the real one.
_CONTROLS = (-12, -10, -8, -6, -4, 4, 6, 8, 10, 12)

_Place = tuple[int, int]
_SIDES: tuple[_Place, ...] = ((-1, 0), (1, 0), (0, -1), (0, 1))
_AROUND: tuple[_Place, ...] = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Seams:
    """What the seams look like. Without fault: 1 within its error, about `cut_expected`, and 0.

    `density_ratio`: cells per area within 8 pixels of seams over cells per area 24 to 56 pixels beside them, with one
    standard error; None without cells or seams. `cut_cells`: cells with a straight edge on a line where a tile ends or
    two of its patches meet; `cut_expected`: how many chance puts on such a line, counted on lines beside it.
    `duplicates`: pairs of cells of different tiles of which the smaller is covered by more than the overlap threshold.
    `seam_px`: length of the seams looked at, in model pixels. `cells_at_seams`: cells within the strips.
    """

    density_ratio: float | None
    density_error: float | None
    cut_cells: int
    cut_expected: float
    duplicates: int
    seam_px: int
    cells_at_seams: int


@dataclass(frozen=True, slots=True)
class _Strip:
    """One side of one tile: cells in its strip, cells in the strip that it is compared with, its length."""

    found: int
    beside: int
    length: int


@dataclass(frozen=True, eq=False, slots=True)
class _Kept:
    """Cells near a tile's sides, sorted by their upper edge: `box` int32 [n, 4] (y0, x0, y1, x1) and rings in half
    pixels, `area` int32 [n] in pixels.
    """

    box: NDArray[np.int32]
    area: NDArray[np.int32]
    offsets: NDArray[np.int32]
    points: NDArray[np.int32]


class SeamScore:
    """Looks at the tiles of one job as they come."""

    def __init__(self, grid: Grid, planned: Collection[_Place] | None = None, overlap: float = 0.3) -> None:
        """`planned`: rows and columns of the tiles that will come, if that is known (None: any may); it only saves
        memory. `overlap`: share of the smaller cell above which two cells are one found twice.
        """
        self._grid, self._overlap = grid, overlap
        self._planned = None if planned is None else frozenset(planned)
        self._strips: dict[tuple[_Place, _Place], _Strip] = {}
        self._open: dict[_Place, _Kept] = {}
        self._waiting: dict[_Place, set[_Place]] = {}
        self._seen: set[_Place] = set()
        self._at_seams, self._beside, self._seam_px = 0, 0, 0
        self._cut, self._cut_controls, self._duplicates = 0, 0, 0

    def add(self, cells: TileCells) -> None:
        """Take in the cells of one tile; each tile once. Raises `IndexError` for a tile outside the grid."""
        place = cells.row, cells.column
        tile = self._grid.tile(*place)
        if place in self._seen:
            return
        self._seen.add(place)
        box = _boxes(cells.ring_offsets, cells.ring_points)
        self._count_cuts(tile, cells, box)
        self._count_strips(place, tile.core, cells)
        self._compare(place, _kept(cells, box, tile.core))

    def result(self) -> Seams:
        """Return the score of what came so far."""
        expected = self._beside * _STRIP / (_BESIDE[1] - _BESIDE[0])
        ratio = self._at_seams / expected if expected else None
        # Both counts scatter as counts do.
        error = (
            None
            if ratio is None
            else max(ratio, 1 / expected) * math.sqrt(1 / max(self._at_seams, 1) + 1 / self._beside)
        )
        return Seams(
            density_ratio=None if ratio is None else round(ratio, 4),
            density_error=None if error is None else round(error, 4),
            cut_cells=self._cut,
            cut_expected=round(self._cut_controls / len(_CONTROLS), 2),
            duplicates=self._duplicates,
            seam_px=self._seam_px,
            cells_at_seams=self._at_seams,
        )

    def _inside(self, place: _Place) -> bool:
        return 0 <= place[0] < self._grid.rows and 0 <= place[1] < self._grid.columns

    def _count_cuts(self, tile: Tile, cells: TileCells, box: NDArray[np.int32]) -> None:
        for axis, length in ((1, self._grid.width), (0, self._grid.height)):
            ends = {end for rect in (tile.core, tile.padded) for end in _ends(rect, axis)} | _joints(cells, axis)
            lines = np.array(sorted(end for end in ends if 0 < end < length), np.int32)
            if lines.size:
                beside = (lines[:, None] + np.array(_CONTROLS, np.int32)).ravel()
                self._cut += _flat_on(lines, axis, box, cells.ring_offsets, cells.ring_points)
                self._cut_controls += _flat_on(beside, axis, box, cells.ring_offsets, cells.ring_points)

    def _count_strips(self, place: _Place, core: Rect, cells: TileCells) -> None:
        y, x = cells.seed_y - core.y, cells.seed_x - core.x
        for side in _SIDES:
            across, length = (core.height, core.width) if side[0] else (core.width, core.height)
            if across < 2 * _BESIDE[1]:
                continue
            along = x if side[0] else y
            away = (y if side[0] else x) - (across if sum(side) > 0 else 0)
            # In pixels from the seam. Who keeps cells beyond its core has them counted: its seams are too dense.
            inward = -1 - away if sum(side) > 0 else away
            beside = (inward >= _BESIDE[0]) & (inward < _BESIDE[1])
            in_strip = np.abs(2 * away + 1) < 2 * _STRIP
            on_side = (along >= 0) & (along < length)
            own = _Strip(int(np.count_nonzero(in_strip & on_side)), int(np.count_nonzero(beside & on_side)), length)
            self._join(place, side, own)

    def _join(self, place: _Place, side: _Place, own: _Strip) -> None:
        neighbour = place[0] + side[0], place[1] + side[1]
        if not self._inside(neighbour) or (self._planned is not None and neighbour not in self._planned):
            return
        other = self._strips.pop((neighbour, (-side[0], -side[1])), None)
        if other is None:
            self._strips[place, side] = own
            return
        self._at_seams += own.found + other.found
        self._beside += own.beside + other.beside
        self._seam_px += own.length

    def _compare(self, place: _Place, kept: _Kept) -> None:
        waiting = set()
        for step in _AROUND:
            neighbour = place[0] + step[0], place[1] + step[1]
            if neighbour in self._open:
                other = self._open[neighbour]
                self._duplicates += _count_covering(
                    kept.box, kept.area, kept.offsets, kept.points,
                    other.box, other.area, other.offsets, other.points,
                    self._overlap,
                )  # fmt: skip
                self._waiting[neighbour].discard(place)
                self._close(neighbour)
            elif (
                self._inside(neighbour)
                and neighbour not in self._seen
                and (self._planned is None or neighbour in self._planned)
            ):
                waiting.add(neighbour)
        self._open[place], self._waiting[place] = kept, waiting
        self._close(place)

    def _close(self, place: _Place) -> None:
        if not self._waiting[place]:
            del self._open[place], self._waiting[place]


def _ends(rect: Rect, axis: int) -> _Place:
    return (rect.y, rect.y + rect.height) if axis == 0 else (rect.x, rect.x + rect.width)


def _joints(cells: TileCells, axis: int) -> set[int]:
    """Lines on which one patch of a tile ends and another begins."""
    ends = [_ends(patch, axis) for patch in cells.patches]
    return {begin for begin, _ in ends} & {end for _, end in ends}


def _kept(cells: TileCells, box: NDArray[np.int32], core: Rect) -> _Kept:
    near = (
        (box[:, 0] < core.y + _NEAR)
        | (box[:, 1] < core.x + _NEAR)
        | (box[:, 2] > core.y + core.height - _NEAR)
        | (box[:, 3] > core.x + core.width - _NEAR)
    )
    chosen = np.flatnonzero(near)
    chosen = chosen[np.argsort(box[chosen, 0], kind="stable")]
    rings = [cells.ring(int(index)) for index in chosen]
    offsets = np.concatenate([[0], np.cumsum([len(ring) for ring in rings], dtype=np.int64)]).astype(np.int32)
    points = np.concatenate(rings) if rings else np.empty((0, 2), np.int32)
    return _Kept(box[chosen], cells.area_px[chosen], offsets, np.ascontiguousarray(points, np.int32))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _boxes(offsets: NDArray[np.int32], points: NDArray[np.int32]) -> NDArray[np.int32]:
    """Half-open boxes in whole pixels, int32 [n, 4] (y0, x0, y1, x1), of rings in half pixels."""
    count = offsets.shape[0] - 1
    box = np.zeros((count, 4), np.int32)
    for k in range(count):
        if offsets[k] == offsets[k + 1]:
            continue
        x0, y0 = points[offsets[k], 0], points[offsets[k], 1]
        x1, y1 = x0, y0
        for i in range(offsets[k], offsets[k + 1]):
            x0, y0 = min(x0, points[i, 0]), min(y0, points[i, 1])
            x1, y1 = max(x1, points[i, 0]), max(y1, points[i, 1])
        box[k, 0], box[k, 1], box[k, 2], box[k, 3] = y0 // 2, x0 // 2, (y1 + 1) // 2, (x1 + 1) // 2
    return box


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _flat_on(
    lines: NDArray[np.int32], axis: int, box: NDArray[np.int32], offsets: NDArray[np.int32], points: NDArray[np.int32]
) -> int:
    """Count long straight edges of cells on each of `lines`: axis 1 means x = line, 0 means y = line."""
    count = 0
    for k in range(box.shape[0]):
        first, last = offsets[k], offsets[k + 1]
        width = box[k, 3 - axis] - box[k, 1 - axis]
        for line in lines:
            if not box[k, axis] <= line <= box[k, 2 + axis]:
                continue
            longest = 0
            for i in range(first, last):
                j = i + 1 if i + 1 < last else first
                if points[i, 1 - axis] == 2 * line and points[j, 1 - axis] == 2 * line:
                    longest = max(longest, abs(points[j, axis] - points[i, axis]) // 2 + 1)
            if longest >= _CUT_PIXELS and longest >= _CUT_SHARE * width:
                count += 1
    return count


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _covers(points: NDArray[np.int32], first: int, last: int, y: int, x: int) -> bool:
    """Whether the middle of pixel (y, x) is inside a ring."""
    inside = False
    at_y, at_x = 2 * y + 1, 2 * x + 1
    for i in range(first, last):
        j = i + 1 if i + 1 < last else first
        if (points[i, 1] > at_y) != (points[j, 1] > at_y):
            rise = points[j, 1] - points[i, 1]
            meets = (at_y - points[i, 1]) * (points[j, 0] - points[i, 0]) + points[i, 0] * rise
            if (at_x * rise < meets) == (rise > 0):
                inside = not inside
    return inside


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _count_covering(
    box: NDArray[np.int32],
    area: NDArray[np.int32],
    offsets: NDArray[np.int32],
    points: NDArray[np.int32],
    other_box: NDArray[np.int32],
    other_area: NDArray[np.int32],
    other_offsets: NDArray[np.int32],
    other_points: NDArray[np.int32],
    overlap: float,
) -> int:
    """Count pairs of cells of which the smaller is covered by more than `overlap`; both sorted by upper edge."""
    pairs, begin, tallest = 0, 0, 0
    for k in range(other_box.shape[0]):
        tallest = max(tallest, other_box[k, 2] - other_box[k, 0])
    for i in range(box.shape[0]):
        while begin < other_box.shape[0] and other_box[begin, 0] + tallest <= box[i, 0]:
            begin += 1
        for j in range(begin, other_box.shape[0]):
            if other_box[j, 0] >= box[i, 2]:
                break
            y0, y1 = max(box[i, 0], other_box[j, 0]), min(box[i, 2], other_box[j, 2])
            x0, x1 = max(box[i, 1], other_box[j, 1]), min(box[i, 3], other_box[j, 3])
            smaller = min(area[i], other_area[j])
            if y0 >= y1 or x0 >= x1 or (y1 - y0) * (x1 - x0) <= overlap * smaller:
                continue
            shared = 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    if _covers(points, offsets[i], offsets[i + 1], y, x) and _covers(
                        other_points, other_offsets[j], other_offsets[j + 1], y, x
                    ):
                        shared += 1
            if shared > overlap * smaller:
                pairs += 1
    return pairs
