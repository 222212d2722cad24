"""The label image of a small image, drawn from its cells' outlines.

Promises: 0 is background, label n is the n-th row of `cells.parquet`, if tiles come in its order; a cell covers the
pixels that the network gave it, holes filled; a cell in another one's hole stays visible.
Refuses: to be kept for images that do not fit into memory; the caller decides.
"""

from __future__ import annotations

import math
from pathlib import Path

import numba
import numpy as np
import tifffile
from numpy.typing import NDArray

from microtome.artifacts.outlines import file_order
from microtome.segmentation.cells import TileCells

# Parts of the file that are compressed at once.
_WORKERS = 2


class LabelImage:
    """Labels int32 [height, width] of an image in model pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._labels = np.zeros((height, width), np.int32)
        self._count = 0

    def draw(self, cells: TileCells) -> None:
        """Draw the cells of one tile; they get the next labels in the order of the files."""
        names = np.empty(len(cells), np.int64)
        names[file_order(cells)] = np.arange(self._count + 1, self._count + 1 + len(cells))
        # A cell in a hole of another one is the smaller one.
        order = np.argsort(-cells.area_px, kind="stable")
        _fill(self._labels, cells.ring_offsets, cells.ring_points, order, names)
        self._count += len(cells)

    @property
    def pixels(self) -> NDArray[np.int32]:
        """What was drawn so far."""
        return self._labels

    def save(self, path: Path, mpp: float) -> None:
        """Write a tiled, compressed TIFF with the pixel size in its tags; `mpp`: µm per pixel of the image."""
        tifffile.imwrite(
            path,
            self._labels,
            tile=(512, 512),
            compression="zlib",
            compressionargs={"level": 1},
            predictor=True,
            maxworkers=_WORKERS,
            resolution=(10_000 / mpp, 10_000 / mpp),
            resolutionunit="CENTIMETER",
        )


@numba.njit(cache=True, nogil=True)
def _fill(
    labels: NDArray[np.int32],
    offsets: NDArray[np.int32],
    points: NDArray[np.int32],
    order: NDArray[np.int64],
    names: NDArray[np.int64],
) -> None:
    """Give label names[i] to the pixels whose middles are in ring i, (x, y) in half pixels, one ring after the other.

    In half pixels the middle of pixel (x, y) is (2x + 1, 2y + 1), and never on a ring.
    """
    crossings = np.empty(64, np.float64)
    for index in order:
        ring = points[offsets[index] : offsets[index + 1]]
        top, bottom = max(ring[:, 1].min() // 2, 0), min(ring[:, 1].max() // 2 + 1, labels.shape[0])
        for y in range(top, bottom):
            middle, count = 2 * y + 1, 0
            for k in range(len(ring)):
                x0, y0 = ring[k - 1]
                x1, y1 = ring[k]
                if (y0 <= middle) == (y1 <= middle):
                    continue
                if count == len(crossings):
                    crossings = np.concatenate((crossings, np.empty_like(crossings)))
                crossings[count] = x0 + (middle - y0) * (x1 - x0) / (y1 - y0)
                count += 1
            found = np.sort(crossings[:count])
            for k in range(0, count - 1, 2):
                left = max(math.ceil((found[k] - 1) / 2), 0)
                right = min(math.floor((found[k + 1] - 1) / 2), labels.shape[1] - 1)
                labels[y, left : right + 1] = names[index]
