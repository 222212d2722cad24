"""Order on a Hilbert curve, so that cells that are close on the slide are close in the file."""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray


def hilbert_index(x: NDArray[np.int64], y: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return the distance along the Hilbert curve of 2^order x 2^order cells.

    `x`, `y`: int64 [n], 0 ≤ value < 2^order. Iterative form of Hilbert's construction: at each
    scale the quadrant contributes its position, then the square is turned so that the curve of
    the next scale begins and ends at the right corners.
    """
    distance = np.empty(x.size, np.int64)
    _walk(np.asarray(x, np.int64), np.asarray(y, np.int64), order, distance)
    return distance


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _walk(xs: NDArray[np.int64], ys: NDArray[np.int64], order: int, distance: NDArray[np.int64]) -> None:
    for index in range(xs.size):
        x, y, total = xs[index], ys[index], np.int64(0)
        for bit in range(order - 1, -1, -1):
            side = np.int64(1) << bit
            right, lower = (x & side) > 0, (y & side) > 0
            total += side * side * ((3 if right else 0) ^ (1 if lower else 0))
            if not lower:
                if right:
                    x = side - 1 - (x & (side - 1))
                    y = side - 1 - (y & (side - 1))
                x, y = y, x
            x &= side - 1
            y &= side - 1
        distance[index] = total
