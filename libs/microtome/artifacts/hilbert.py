"""Order on a Hilbert curve, so that cells that are close on the slide are close in the file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def hilbert_index(x: NDArray[np.int64], y: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return the distance along the Hilbert curve of 2^order x 2^order cells.

    `x`, `y`: int64 [n], 0 ≤ value < 2^order. Iterative form of Hilbert's construction: at each
    scale the quadrant contributes its position, then the square is turned so that the curve of
    the next scale begins and ends at the right corners.
    """
    x, y = x.copy(), y.copy()
    distance = np.zeros_like(x)
    side = 1 << (order - 1)
    while side:
        right = (x & side) > 0
        lower = (y & side) > 0
        distance += side * side * ((3 * right) ^ lower)
        flip = ~lower & right
        x[flip] = side - 1 - (x[flip] & (side - 1))
        y[flip] = side - 1 - (y[flip] & (side - 1))
        turn = ~lower
        x[turn], y[turn] = y[turn], x[turn].copy()
        x &= side - 1
        y &= side - 1
        side >>= 1
    return distance
