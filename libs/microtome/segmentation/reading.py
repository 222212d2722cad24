"""Pixels for tiles.

Promises: the pixels of a tile are a pure function of the slide and the tile's place: where the plane is larger than the
slide, at its right and lower edge, it goes on as the slide's mirror image, without repeating the edge, and again beyond
that, whatever tile is looking.
Refuses: to open slides. `RegionReader` is what it needs of one; it is only ever asked for what lies inside.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest
from microtome.segmentation.grid import Rect


class RegionReader(Protocol):
    """A slide at the model's pixel size. `read` may be called from several threads."""

    @property
    def width(self) -> int:
        """Model pixels."""

    @property
    def height(self) -> int:
        """Model pixels."""

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Pixels uint8 [height, width, 3] of a region inside the slide. The same pixel must have the same value
        in whatever region it is read.
        """


class ArrayReader:
    """An image in memory as a `RegionReader`."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        """`pixels` uint8 [h, w, 3] at the model's pixel size."""
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
            raise InvalidRequest(f"Pixels must be uint8 [h, w, 3], not {pixels.dtype} {pixels.shape}.")
        self._pixels = pixels
        self.height, self.width = pixels.shape[:2]

    def read(self, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """See `RegionReader.read`."""
        if x < 0 or y < 0 or x + width > self.width or y + height > self.height:
            raise InvalidRequest(f"Region {width} × {height} at ({x}, {y}) is not inside {self.width} × {self.height}.")
        return self._pixels[y : y + height, x : x + width]


def mirrored(start: int, length: int, size: int) -> NDArray[np.intp]:
    """Where the plane's coordinates start, …, start + length - 1 lie in an image of `size`: intp [length]."""
    if size == 1:
        return np.zeros(length, np.intp)
    period = 2 * (size - 1)
    at = np.arange(start, start + length) % period
    return np.where(at < size, at, period - at).astype(np.intp)


def pad_reflect(reader: RegionReader, rect: Rect) -> NDArray[np.uint8]:
    """Pixels uint8 [height, width, 3] of `rect`, which may lie partly or wholly outside the slide."""
    x, y, width, height = rect.x, rect.y, rect.width, rect.height
    across, down = min(width, reader.width - x), min(height, reader.height - y)
    if x >= 0 and y >= 0 and (across, down) == (width, height):
        return reader.read(x, y, width, height)
    columns, rows = mirrored(x, width, reader.width), mirrored(y, height, reader.height)
    left, top = int(columns.min()), int(rows.min())
    if (left, top) != (x, y) or across < 1 or down < 1:
        source = reader.read(left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1)
        return source[np.ix_(rows - top, columns - left)]
    # A tile at the right or lower edge: a few columns and rows to copy, not every pixel to look up.
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:down, :across] = reader.read(x, y, across, down)
    pixels[:down, across:] = pixels[:down, columns[across:] - x]
    pixels[down:] = pixels[rows[down:] - y]
    return pixels
