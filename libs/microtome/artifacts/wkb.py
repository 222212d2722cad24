"""Polygons of one ring as well-known binary, compiled.

Promises: little-endian WKB with the ring closed, for all cells of a tile in one pass. Refuses: holes; outlines have
none.
"""

from __future__ import annotations

import numba as nb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

# Byte order, type, number of rings, number of points: then come the coordinates.
HEADER = 13
_POLYGON = np.frombuffer(b"\x01\x03\x00\x00\x00\x01\x00\x00\x00", np.uint8)


def polygons_wkb(points: NDArray[np.float64], offsets: NDArray[np.int64]) -> pa.BinaryArray:
    """Return polygons of one ring each as little-endian WKB, a binary array [n].

    Ring i is `points[offsets[i]:offsets[i + 1]]`, x and y, at least one point, open; it is closed here.
    """
    count = len(offsets) - 1
    ends = np.zeros(count + 1, np.int64)
    np.cumsum(HEADER + 16 * (np.diff(offsets) + 1), out=ends[1:])
    data = np.empty(int(ends[-1]), np.uint8)
    coordinates = np.ascontiguousarray(points, "<f8").view(np.uint8).reshape(-1, 16)
    _fill(data, ends, coordinates, offsets, _POLYGON)
    # 32-bit offsets: a tile's cells are some megabytes, never two gigabytes.
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), count, buffers)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _fill(
    data: NDArray[np.uint8],
    ends: NDArray[np.int64],
    coordinates: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    polygon: NDArray[np.uint8],
) -> None:
    for index in range(offsets.size - 1):
        at, first, last = ends[index], offsets[index], offsets[index + 1]
        data[at : at + 9] = polygon
        count = last - first + 1
        for byte in range(4):
            data[at + 9 + byte] = (count >> (8 * byte)) & 255
        at += 13
        for point in range(first, last):
            data[at : at + 16] = coordinates[point]
            at += 16
        data[at : at + 16] = coordinates[first]
