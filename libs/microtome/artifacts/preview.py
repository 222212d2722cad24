"""Small pictures of a whole slide: the thumbnail with the tissue's edge and the cells drawn on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines

_TISSUE = (64, 160, 72)
_CELLS = (24, 90, 240)
# cv2 draws at 1/16 of a pixel, so that outlines stay smooth where a cell is a few pixels wide.
_SHIFT = 4


class Preview:
    """A canvas over a thumbnail, uint8 RGB [h, w, 3], to which cells are added tile by tile."""

    def __init__(self, thumbnail: NDArray[np.uint8], slide_width: int) -> None:
        """`slide_width`: level-0 pixels that the thumbnail's width stands for."""
        self._canvas = np.ascontiguousarray(thumbnail.copy())
        self._scale = thumbnail.shape[1] / slide_width

    def tissue(self, mask: NDArray[np.bool_]) -> None:
        """Draw the edge of the tissue; `mask` covers the whole slide at any resolution."""
        height, width = self._canvas.shape[:2]
        fitted = cv2.resize(mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
        edges, _ = cv2.findContours(fitted, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(self._canvas, edges, -1, _TISSUE, 2, cv2.LINE_AA)

    def cells(self, cells: Outlines) -> None:
        """Draw the outlines of one tile's cells."""
        if not len(cells):
            return
        fixed = np.round(cells.points * (self._scale * (1 << _SHIFT))).astype(np.int32)
        rings = np.split(fixed, cells.offsets[1:-1])
        cv2.polylines(self._canvas, rings, True, _CELLS, 1, cv2.LINE_AA, _SHIFT)

    def save(self, path: Path) -> None:
        """Write the canvas as JPEG."""
        save_jpeg(self._canvas, path)


def reduced(image: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Return uint8 RGB [h, w, 3] with neither side over `longest`; never enlarged."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def save_jpeg(image: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 RGB [h, w, 3] as JPEG of quality 88."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done, "OpenCV encodes any uint8 image"
    path.write_bytes(data.tobytes())
