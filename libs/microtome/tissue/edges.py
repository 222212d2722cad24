"""Edges of polygons, where lines cross them and points along them.

Promises: what is held at once is bounded, however many edges there are and however far they go; it comes in blocks.
Refuses: to know what the edges enclose; the outline does.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.tissue.mask import Bits

Floats = NDArray[np.float64]
Places = NDArray[np.int64]

# Crossings of edges with lines, or points along edges, that are held at once; and lines.
_STEPS_AT_ONCE = 200_000
_LINES_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class Spans:
    """Which parts of lines lie inside a polygon: the line, where the part begins and where it ends, `[n]` each."""

    row: Places
    begin: Floats
    end: Floats


@dataclass(frozen=True, slots=True)
class Edges:
    """The edges of all polygons, float64 `[n, 2]`, each from its upper end to its lower, and their polygons, `[n]`."""

    begins: Floats
    ends: Floats
    polygon: Places

    def spans(self, lines: Floats) -> Iterator[tuple[int, int, Spans]]:
        """Yield from which line to which, and their spans. Lines ascend; few enough are taken at once."""
        first, last = np.searchsorted(lines, self.begins[:, 1]), np.searchsorted(lines, self.ends[:, 1])
        turns = np.bincount(first, minlength=len(lines) + 1) - np.bincount(last, minlength=len(lines) + 1)
        for start, stop in _blocks(np.cumsum(turns)[:-1]):
            some = np.nonzero((first < stop) & (last > start))[0]
            upper, lower = np.maximum(first[some], start), np.minimum(last[some], stop)
            edge, row = _counted(lower - upper)
            row += upper[edge]
            edge = some[edge]
            x = x_at(lines[row], self.begins[edge], self.ends[edge])
            # Each polygon's crossings by themselves: on every line their number is even.
            order = np.lexsort((x, row * (int(self.polygon[-1]) + 1) + self.polygon[edge]))
            row, x = row[order], x[order]
            yield start, stop, Spans(row[0::2], x[0::2], x[1::2])


def x_at(y: Floats, begins: Floats, ends: Floats) -> Floats:
    """Return where edges are at these heights, float64 `[n]`."""
    result: Floats = begins[:, 0] + (y - begins[:, 1]) * (ends[:, 0] - begins[:, 0]) / (ends[:, 1] - begins[:, 1])
    return result


def _blocks(crossings: Places) -> Iterator[tuple[int, int]]:
    """Part lines, each with so many crossings, into runs that are few and light enough to be held at once."""
    until, start = np.cumsum(crossings), 0
    while start < len(crossings):
        before = int(until[start - 1]) if start else 0
        stop = int(np.searchsorted(until, before + _STEPS_AT_ONCE, side="right"))
        stop = min(max(stop, start + 1), start + _LINES_AT_ONCE, len(crossings))
        yield start, stop
        start = stop


def _counted(many: Places) -> tuple[Places, Places]:
    """Return each index so often as `many` says, and which time it is, from 0."""
    which = np.repeat(np.arange(len(many)), many)
    return which, np.arange(len(which)) - np.repeat(np.cumsum(many) - many, many)


def clipped(begins: Floats, ends: Floats, low: tuple[float, float], high: tuple[float, float]) -> tuple[Floats, Floats]:
    """Return edges as far as they are in a rectangle from `low` to `high`; those that are not are left out."""
    way = ends - begins
    enter, leave = np.zeros(len(way)), np.ones(len(way))
    for axis in (0, 1):
        along = way[:, axis] != 0
        # Where an edge does not move along an axis, it is within for all of its length or for none.
        within = along | ((begins[:, axis] >= low[axis]) & (begins[:, axis] <= high[axis]))
        step = np.where(along, way[:, axis], 1.0)
        one, other = (low[axis] - begins[:, axis]) / step, (high[axis] - begins[:, axis]) / step
        enter = np.where(along, np.maximum(enter, np.minimum(one, other)), enter)
        leave = np.where(along, np.minimum(leave, np.maximum(one, other)), np.where(within, leave, -1.0))
    there = enter <= leave
    way, enter, leave = way[there], enter[there, None], leave[there, None]
    return begins[there] + way * enter, begins[there] + way * leave


def points_along(begins: Floats, ends: Floats) -> Iterator[Floats]:
    """Yield points along edges, float64 `[n, 2]`, at most half a pixel apart, both ends included."""
    steps = np.maximum(1, np.ceil(2 * np.abs(ends - begins).max(axis=1, initial=0.0))).astype(np.int64)
    until, start = np.cumsum(steps + 1), 0
    while start < len(steps):
        before = int(until[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(until, before + _STEPS_AT_ONCE, side="right")))
        edge, step = _counted(steps[start:stop] + 1)
        edge += start
        yield begins[edge] + (ends - begins)[edge] * (step / steps[edge])[:, None]
        start = stop


def with_neighbours(bits: Bits) -> Bits:
    """Return the pixels and the eight around each."""
    for axis in (0, 1):
        ahead, behind = np.moveaxis(bits, axis, 0)[1:], np.moveaxis(bits, axis, 0)[:-1]
        wider = bits.copy()
        moved = np.moveaxis(wider, axis, 0)
        moved[:-1] |= ahead
        moved[1:] |= behind
        bits = wider
    return bits
