"""A part of a slide that somebody asked for.

Promises: every cell of the slide is inside of a region or outside of it, by its seed alone, so that regions that
partition a slide partition its cells; a tile that owns a cell of a region meets the region.
Refuses: to change what is found. A region chooses among the cells of the whole slide.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from microtome.errors import InvalidRequest
from microtome.segmentation.cells import TileCells
from microtome.segmentation.grid import Rect
from microtome.tissue.mask import Bits, TissueMask


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

    def clip(self, mask: TissueMask) -> TissueMask:
        """Return the mask with tissue only where a mask pixel's centre lies inside; its size stays the slide's."""
        return replace(mask, bits=mask.bits & np.outer(*self._within(mask)))

    def fraction(self, mask: TissueMask) -> float:
        """Return the share of the region, as far as it lies on the slide, that is tissue."""
        rows, columns = self._within(mask)
        pixels = int(rows.sum()) * int(columns.sum())
        return int(self.clip(mask).bits.sum()) / pixels if pixels else 0.0

    def _within(self, mask: TissueMask) -> tuple[Bits, Bits]:
        """Which rows and which columns of the mask have their centre inside; bool [h] and bool [w]."""
        height, width = mask.bits.shape
        across, down = mask.downsample
        # The last row or column may have its centre beyond the slide's edge, and belongs to the edge all the same.
        y = np.minimum((np.arange(height) + 0.5) * down, mask.level0_height - 0.5)
        x = np.minimum((np.arange(width) + 0.5) * across, mask.level0_width - 0.5)
        return (y >= self.y) & (y < self.y + self.height), (x >= self.x) & (x < self.x + self.width)
