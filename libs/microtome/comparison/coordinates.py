"""Coordinates of polygons out of the two ways in which files hold them, compiled.

Promises: nothing beside the given bytes is read, whatever they say.
Refuses: to judge polygons; rings are given as they come, open.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray


@nb.njit(cache=True, nogil=True, error_model="numpy")
def read_coordinates(
    data: NDArray[np.uint8],
    points: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    outline_offsets: NDArray[np.int64],
    holes: NDArray[np.bool_],
) -> tuple[int, int]:
    """Fill outlines from lines of `[[[x, y], …], …]`; returns how many outlines and rings. Rings lose their repeated
    last point, places a third coordinate, and outlines without three points are left out.
    """
    outline, ring, used, depth, axis, at = 0, 0, 0, 0, 0, 0
    first_ring = 0
    while at < data.size:
        sign = data[at]
        if sign == 91:
            depth += 1
            axis = 0
        elif sign == 93:
            if depth == 3:
                used += 1
            elif depth == 2:
                start = ring_offsets[ring]
                last = used - 1
                if last > start and points[last, 0] == points[start, 0] and points[last, 1] == points[start, 1]:
                    used = last
                holes[ring] = ring > first_ring
                ring += 1
                ring_offsets[ring] = used
            elif ring > first_ring:
                if ring_offsets[first_ring + 1] - ring_offsets[first_ring] < 3:
                    ring, used = first_ring, ring_offsets[first_ring]
                else:
                    outline += 1
                    outline_offsets[outline] = ring
                    first_ring = ring
            depth -= 1
        elif sign == 44:
            axis += 1
        elif sign > 32:
            value, at = _number(data, at)
            if axis < 2:
                points[used, axis] = value
            continue
        at += 1
    return outline, ring


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _number(data: NDArray[np.uint8], at: int) -> tuple[float, int]:
    """A decimal number, exact up to 15 digits, and where it ends."""
    negative = data[at] == 45
    if negative or data[at] == 43:
        at += 1
    mantissa, decimals, fraction = 0.0, 0, False
    while at < data.size and (48 <= data[at] <= 57 or data[at] == 46):
        if data[at] == 46:
            fraction = True
        else:
            mantissa = 10.0 * mantissa + (data[at] - 48)
            decimals += fraction
        at += 1
    exponent = 0
    if at < data.size and (data[at] == 101 or data[at] == 69):
        at += 1
        down = data[at] == 45
        if down or data[at] == 43:
            at += 1
        while at < data.size and 48 <= data[at] <= 57:
            exponent = 10 * exponent + (data[at] - 48)
            at += 1
        exponent = -exponent if down else exponent
    exponent -= decimals
    value = mantissa * 10.0**exponent if exponent >= 0 else mantissa / 10.0 ** (-exponent)
    return -value if negative else value, at


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _uint32(data: NDArray[np.uint8], at: int) -> int:
    return int(data[at]) | int(data[at + 1]) << 8 | int(data[at + 2]) << 16 | int(data[at + 3]) << 24


@nb.njit(cache=True, nogil=True, error_model="numpy")
def count_wkb(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> tuple[int, int, int]:
    """Outlines that are not empty, their rings and points at most; negative for what is no whole, little-endian, flat
    polygon or multipolygon.
    """
    outlines, rings, points = 0, 0, 0
    for k in range(offsets.size - 1):
        at, end = offsets[k], offsets[k + 1]
        if at + 9 > end or data[at] != 1:
            return -1, 0, 0
        polygons = 1
        if _uint32(data, at + 1) == 6:
            polygons = _uint32(data, at + 5)
            at += 9
        before = rings
        for _ in range(polygons):
            if at + 9 > end or data[at] != 1 or _uint32(data, at + 1) != 3:
                return -1, 0, 0
            count = _uint32(data, at + 5)
            at += 9
            for _ in range(count):
                if at + 4 > end:
                    return -1, 0, 0
                length = _uint32(data, at)
                at += 4 + 16 * length
                if at > end:
                    return -1, 0, 0
                rings += 1
                points += length
        outlines += rings > before
    return outlines, rings, points


@nb.njit(cache=True, nogil=True, error_model="numpy")
def read_wkb(
    data: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    points: NDArray[np.float64],
    ring_offsets: NDArray[np.int64],
    outline_offsets: NDArray[np.int64],
    holes: NDArray[np.bool_],
) -> None:
    """Fill what `count_wkb` made room for; rings lose their repeated last point."""
    outline, ring, used = 0, 0, 0
    pair = np.empty(2, np.float64)
    as_bytes = pair.view(np.uint8)
    for k in range(offsets.size - 1):
        at = offsets[k]
        polygons = 1
        if _uint32(data, at + 1) == 6:
            polygons = _uint32(data, at + 5)
            at += 9
        before = ring
        for _ in range(polygons):
            count = _uint32(data, at + 5)
            at += 9
            for number in range(count):
                length = _uint32(data, at)
                at += 4
                start = used
                for _ in range(length):
                    as_bytes[:] = data[at : at + 16]
                    points[used, 0], points[used, 1] = pair[0], pair[1]
                    used += 1
                    at += 16
                last = used - 1
                if last > start and points[last, 0] == points[start, 0] and points[last, 1] == points[start, 1]:
                    used = last
                holes[ring] = number > 0
                ring += 1
                ring_offsets[ring] = used
        if ring > before:
            outline += 1
            outline_offsets[outline] = ring
