"""A slide as Deep Zoom Image tiles for the viewer.

Promises: the geometry of the DZI format (254-pixel tiles with 1 pixel of overlap, levels that halve down to
1 x 1) and bounded memory for every tile, also of slides without a pyramid.
Refuses: addresses that are not in the pyramid, as `NotFound`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from microtome.errors import NotFound
from microtome.slides.opening import cached_slide
from microtome.slides.thumbnail import Pixels, cached_thumbnail, encode_jpeg, view_at

TILE_SIZE = 254
OVERLAP = 1
# The coarsest tiles are cut from one kept overview: each of them would otherwise read the whole of a flat slide.
_OVERVIEW = 2048


@dataclass(frozen=True, slots=True)
class DeepZoom:
    """The Deep Zoom pyramid of one slide."""

    path: Path
    width: int
    height: int

    @classmethod
    def of(cls, path: Path) -> DeepZoom:
        """The pyramid of the slide at `path`. Raises `UnreadableSlide`."""
        width, height = cached_slide(path).dimensions
        return cls(path, width, height)

    @property
    def level_count(self) -> int:
        """Levels 0 (1 x 1) to `level_count - 1` (full size)."""
        return (max(self.width, self.height) - 1).bit_length() + 1

    def level_size(self, level: int) -> tuple[int, int]:
        """Width and height of a level in pixels."""
        shift = self.level_count - 1 - level
        return -(-self.width >> shift), -(-self.height >> shift)

    def descriptor(self) -> str:
        """The `.dzi` document."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<Image xmlns="http://schemas.microsoft.com/deepzoom/2008" '
            f'Format="jpeg" Overlap="{OVERLAP}" TileSize="{TILE_SIZE}">'
            f'<Size Width="{self.width}" Height="{self.height}"/></Image>'
        )

    def tile(self, level: int, column: int, row: int, quality: int = 80) -> bytes:
        """One tile as JPEG. Raises `NotFound` for an address outside of the pyramid."""
        return encode_jpeg(self.tile_pixels(level, column, row), quality)

    def tile_pixels(self, level: int, column: int, row: int) -> Pixels:
        """One tile as `[h, w, 3]` uint8."""
        if not 0 <= level < self.level_count:
            raise NotFound(f"The slide has Deep Zoom levels 0 to {self.level_count - 1}, not {level}.")
        width, height = self.level_size(level)
        columns, rows = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
        if not (0 <= column < columns and 0 <= row < rows):
            raise NotFound(f"Level {level} has {columns} x {rows} tiles; there is none at {column}, {row}.")
        left, right = _span(column, width)
        top, bottom = _span(row, height)
        if max(width, height) <= _OVERVIEW:
            return self._overview(width, height)[top:bottom, left:right]
        view = view_at(self.path, float(1 << (self.level_count - 1 - level)))
        # A level of the file that is rounded down may be one pixel short; its last pixel is repeated.
        right_in, bottom_in = min(right, view.width), min(bottom, view.height)
        pixels = view.read(left, top, right_in - left, bottom_in - top)
        return np.pad(pixels, ((0, bottom - bottom_in), (0, right - right_in), (0, 0)), mode="edge")

    def _overview(self, width: int, height: int) -> Pixels:
        picture = cached_thumbnail(self.path, min(_OVERVIEW, max(self.width, self.height)))
        if picture.shape[:2] == (height, width):
            return picture
        resized: Pixels = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        return resized


def _span(index: int, length: int) -> tuple[int, int]:
    """First and one past the last pixel of a tile along one axis, its overlap included."""
    start = index * TILE_SIZE
    return max(0, start - OVERLAP), min(length, start + TILE_SIZE + OVERLAP)
