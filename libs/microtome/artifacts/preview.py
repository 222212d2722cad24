"""Small pictures of a whole slide: the thumbnail with the tissue's edge and the cells drawn on it, and pictures side by
side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines

_TISSUE = (64, 160, 72)
_CELLS = (24, 90, 240)
# cv2 draws at 1/16 of a pixel, so that outlines stay smooth where a cell is a few pixels wide.
_SHIFT = 4
_TITLE, _EDGE = 28, 4


class Preview:
    """A canvas over a thumbnail, uint8 RGB [h, w, 3], to which cells are added tile by tile."""

    def __init__(self, thumbnail: NDArray[np.uint8], slide_width: int) -> None:
        """`slide_width`: level-0 pixels that the thumbnail's width stands for."""
        self.thumbnail = thumbnail
        self._canvas = np.array(thumbnail, order="C")
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
        ends = cells.offsets.tolist()
        rings = [fixed[start:end] for start, end in pairwise(ends)]
        cv2.polylines(self._canvas, rings, True, _CELLS, 1, cv2.LINE_AA, _SHIFT)

    @property
    def picture(self) -> NDArray[np.uint8]:
        """What was drawn so far, uint8 RGB [h, w, 3]; not a copy."""
        return self._canvas

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
    # By halves as far as that goes, then bilinear: averages of areas that are no whole pixels take ten times as long.
    while image.shape[0] >= 2 * size[1] and image.shape[1] >= 2 * size[0]:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        whole = image[: 2 * half[1], : 2 * half[0]]
        image = np.asarray(cv2.resize(whole, half, interpolation=cv2.INTER_AREA), np.uint8)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)


def side_by_side(panels: Sequence[tuple[str, NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Put pictures, uint8 RGB, in a row, or one below the other if they are wide.

    Each has its name above it; they may differ by a legend.
    """
    height, width = panels[0][1].shape[:2]
    below = width > 2 * height
    sizes = [(image.shape[0] + _TITLE + _EDGE, image.shape[1] + 2 * _EDGE) for _, image in panels]
    highs, wides = zip(*sizes, strict=True)
    whole = (sum(highs), max(wides)) if below else (max(highs), sum(wides))
    canvas = np.full((*whole, 3), 255, np.uint8)
    top, left = 0, 0
    for (name, image), (high, wide) in zip(panels, sizes, strict=True):
        part = canvas[top : top + high, left : left + wide]
        part[_TITLE : _TITLE + image.shape[0], _EDGE : _EDGE + image.shape[1]] = image
        cv2.putText(
            canvas, name, (left + 6, top + _TITLE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (40, 40, 40), 1, cv2.LINE_AA
        )
        top, left = (top + high, left) if below else (top, left + wide)
    return canvas


def save_jpeg(image: NDArray[np.uint8], path: Path) -> None:
    """Write uint8 RGB [h, w, 3] as JPEG of quality 88."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert done, "OpenCV encodes any uint8 image"
    path.write_bytes(data.tobytes())
