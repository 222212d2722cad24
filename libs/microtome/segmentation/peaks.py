"""Where nuclei begin: local maxima of the seed map.

Promises: the same peaks as a maximum filter of width 2·distance+1 in which, of equal values, the first in scan
order wins. Two peaks are never closer than `distance` + 1 pixels (Chebyshev), and the rule does not depend on
where the image was cut: far enough from the cut, a shifted image has shifted peaks.
Refuses: to smooth, to refine below a pixel, or to cap how many peaks there are.
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.shares import in_shares


@nb.njit(cache=True, nogil=True, error_model="numpy")
def seed_map(logit: NDArray[np.float32], height: int, width: int) -> NDArray[np.float32]:
    """Undo the scaling of the distance target: logits float32, of which the first `height` × `width` are taken, to seed
    values, float32 [height, width].

    Both roundings of float32 are kept, because they make the ties that the peak rule must break.
    """
    out = np.empty((height, width), np.float32)
    for y in range(height):
        for x in range(width):
            out[y, x] = logit[y, x] / np.float32(15.0) + np.float32(0.5)
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _is_peak(seeds: NDArray[np.float32], y: int, x: int, distance: int) -> bool:
    height, width = seeds.shape
    value = seeds[y, x]
    # The rows next to the pixel decide nearly always; look there first.
    for step in range(distance + 1):
        for side in range(2):
            if side == 0:
                row = y - step
            elif step == 0:
                continue
            else:
                row = y + step
            if row < 0 or row >= height:
                continue
            for column in range(max(0, x - distance), min(width, x + distance + 1)):
                other = seeds[row, column]
                if other > value:
                    return False
                if other == value and (row < y or (row == y and column < x)):
                    return False
    return True


def find_peaks(seeds: NDArray[np.float32], distance: int, threshold: np.float32, threads: int = 1) -> NDArray[np.int32]:
    """Peaks above `threshold`, in scan order: int32 [n, 2] of (y, x)."""
    bands = in_shares(
        lambda top, bottom: _peaks_between(seeds, top, bottom, distance, threshold), seeds.shape[0], threads
    )
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _peaks_between(
    seeds: NDArray[np.float32], top: int, bottom: int, distance: int, threshold: np.float32
) -> NDArray[np.int32]:
    """Peaks in the rows from `top` to before `bottom`."""
    width = seeds.shape[1]
    # No two peaks share a block of distance + 1, so this holds them all.
    room = ((bottom - top) // (distance + 1) + 1) * (width // (distance + 1) + 1)
    out = np.empty((room, 2), np.int32)
    count = 0
    for y in range(top, bottom):
        for x in range(width):
            value = seeds[y, x]
            if not value > threshold:
                continue
            if x > 0 and seeds[y, x - 1] >= value:
                continue
            if x + 1 < width and seeds[y, x + 1] > value:
                continue
            if _is_peak(seeds, y, x, distance):
                out[count, 0] = y
                out[count, 1] = x
                count += 1
    return out[:count].copy()
