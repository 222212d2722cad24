"""The label image of a small image, drawn from its cells' outlines.

Promises: 0 is background, label n is the n-th cell in the order of `cells.parquet`'s tiles; a cell covers the pixels
that the network gave it, holes filled; a cell in another one's hole stays visible.
Refuses: to be kept for images that do not fit into memory; the caller decides.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import tifffile

from microtome.segmentation.cells import TileCells


class LabelImage:
    """Labels int32 [height, width] of an image in model pixels."""

    def __init__(self, width: int, height: int) -> None:
        self._labels = np.zeros((height, width), np.int32)
        self._count = 0

    def draw(self, cells: TileCells) -> None:
        """Draw the cells of one tile; they get the next labels in their order."""
        # A cell in a hole of another one is the smaller one.
        for index in np.argsort(-cells.area_px, kind="stable").tolist():
            self._fill(cells.ring(index), self._count + index + 1)
        self._count += len(cells)

    def save(self, path: Path, mpp: float) -> None:
        """Write a tiled, compressed TIFF with the pixel size in its tags; `mpp`: µm per pixel of the image."""
        tifffile.imwrite(
            path,
            self._labels,
            tile=(512, 512),
            compression="zlib",
            compressionargs={"level": 1},
            predictor=True,
            resolution=(10_000 / mpp, 10_000 / mpp),
            resolutionunit="CENTIMETER",
        )

    def _fill(self, ring: np.ndarray, label: int) -> None:
        """Give `label` to the pixels whose middles are in the ring, int32 [k, 2] of (x, y) in half pixels."""
        height, width = self._labels.shape
        left, top = np.maximum(ring.min(axis=0) // 2, 0).tolist()
        right, bottom = np.minimum(-(-ring.max(axis=0) // 2), (width, height)).tolist()
        if right <= left or bottom <= top:
            return
        # At twice the size every middle is a point of its own, never on the ring, so nothing is rounded.
        patch = np.zeros((2 * (bottom - top) + 1, 2 * (right - left) + 1), np.uint8)
        cv2.fillPoly(patch, [ring - np.array([2 * left, 2 * top], np.int32)], 1)
        self._labels[top:bottom, left:right][patch[1::2, 1::2] > 0] = label
