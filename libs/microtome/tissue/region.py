"""A part of a slide that somebody asked for.

Promises: every cell of the slide is inside of a region or outside of it, by its seed alone, so that regions that
partition a slide partition its cells; a tile that owns a cell of a region meets the region.
Refuses: to change what is found. A region chooses among the cells of the whole slide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest
from microtome.segmentation.cells import TileCells
from microtome.segmentation.grid import Rect
from microtome.tissue.mask import TissueMask

# Of a mask, that are weighed at once.
_ROWS = 256


class Rectangle(Protocol):
    """What has the shape of a region."""

    @property
    def x(self) -> int:
        """Left edge."""

    @property
    def y(self) -> int:
        """Upper edge."""

    @property
    def width(self) -> int:
        """How far it reaches to the right."""

    @property
    def height(self) -> int:
        """How far it reaches down."""


@dataclass(frozen=True, slots=True)
class Region:
    """A half-open rectangle in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int

    @classmethod
    def like(cls, rectangle: Rectangle | None) -> Region | None:
        """Return the region that a message asks for; None for the whole slide."""
        return None if rectangle is None else cls(rectangle.x, rectangle.y, rectangle.width, rectangle.height)

    def check_on(self, width: int, height: int) -> None:
        """Raise `InvalidRequest` unless some of the region lies on a slide of `width` x `height` level-0 pixels."""
        across = min(self.x + self.width, width) - max(self.x, 0)
        down = min(self.y + self.height, height) - max(self.y, 0)
        if across <= 0 or down <= 0:
            raise InvalidRequest(
                f"The region at ({self.x}, {self.y}) of {self.width} x {self.height} pixels lies outside of the slide, "
                f"which has {width} x {height}."
            )

    def meets(self, core: Rect, scale: float) -> bool:
        """Say whether a tile with this core, in model pixels, may own cells of the region."""
        # What counts are the centres of pixels: half a pixel is not enough.
        left, right = (core.x + 0.5) * scale, (core.x + core.width - 0.5) * scale
        top, bottom = (core.y + 0.5) * scale, (core.y + core.height - 0.5) * scale
        return left < self.x + self.width and right >= self.x and top < self.y + self.height and bottom >= self.y

    def choose(self, cells: TileCells, scale: float) -> TileCells:
        """Return those cells whose seed's centre lies inside; `scale`: level-0 pixels per model pixel."""
        x, y = (cells.seed_x + 0.5) * scale, (cells.seed_y + 0.5) * scale
        inside = (x >= self.x) & (x < self.x + self.width) & (y >= self.y) & (y < self.y + self.height)
        return cells if inside.all() else cells.chosen(inside)

    def on(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return left, top, right and bottom of what lies on a slide of `width` x `height` level-0 pixels."""
        right, bottom = min(self.x + self.width, width), min(self.y + self.height, height)
        return max(self.x, 0), max(self.y, 0), right, bottom

    def clip(self, mask: TissueMask) -> TissueMask:
        """Return the mask with tissue only where a mask pixel's centre lies inside; its size stays the slide's."""
        height, width = mask.bits.shape
        across, down = mask.downsample
        # The last row or column may have its centre beyond the slide's edge, and belongs to the edge all the same.
        y = np.minimum((np.arange(height) + 0.5) * down, mask.level0_height - 0.5)
        x = np.minimum((np.arange(width) + 0.5) * across, mask.level0_width - 0.5)
        rows, columns = (y >= self.y) & (y < self.y + self.height), (x >= self.x) & (x < self.x + self.width)
        return replace(mask, bits=mask.bits & np.outer(rows, columns))

    def tissue_pixels(self, mask: TissueMask) -> float:
        """Return how many of the mask's pixels are tissue inside; one that is inside in part counts by that part.

        Regions that partition a slide partition its tissue.
        """
        rows, columns = self._shares(mask)
        blocks = range(0, len(rows), _ROWS)
        return float(sum(rows[at : at + _ROWS] @ (mask.bits[at : at + _ROWS] @ columns) for at in blocks))

    def fraction(self, mask: TissueMask) -> float:
        """Return the share of the region, as far as it lies on the slide, that is tissue."""
        rows, columns = self._shares(mask)
        pixels = float(rows.sum() * columns.sum())
        return self.tissue_pixels(mask) / pixels if pixels else 0.0

    def _shares(self, mask: TissueMask) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Which part of each row and of each column of the mask is inside, 0 to 1: float64 [h] and [w]."""
        height, width = mask.bits.shape
        across, down = mask.downsample
        left, top, right, bottom = self.on(mask.level0_width, mask.level0_height)
        return (
            _shares(height, top / down, bottom / down if bottom < mask.level0_height else height),
            _shares(width, left / across, right / across if right < mask.level0_width else width),
        )


def _shares(pixels: int, begin: float, end: float) -> NDArray[np.float64]:
    """Which part of each of a line's pixels is between `begin` and `end`, float64 [pixels]."""
    at = np.arange(pixels)
    # A mask of whole pixels may end a part of one before the slide does.
    shares: NDArray[np.float64] = np.clip(np.minimum(at + 1, end) - np.maximum(at, min(begin, pixels)), 0.0, 1.0)
    return shares
