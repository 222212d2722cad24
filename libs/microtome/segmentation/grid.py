"""How a slide is cut into tiles, in model pixels.

Promises: the half-open cores partition the image, so that a pixel, and with it a cell's seed, lies in exactly one;
every tile is its core with `halo` pixels around it; all tiles share one shape; every tile's origin is a multiple of
16, because the network is only shift-equivariant for multiples of 8. Pure: no pixels, no I/O.
Refuses: settings with which these promises cannot be kept (`ConfigurationError`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from microtome.errors import ConfigurationError

STRIDE = 16


@dataclass(frozen=True, slots=True)
class Rect:
    """A half-open rectangle [x, x + width) × [y, y + height) in model pixels."""

    x: int
    y: int
    width: int
    height: int

    def intersection(self, other: Rect) -> Rect:
        """Give the part that both share; of width or height 0 where they share none."""
        x, y = max(self.x, other.x), max(self.y, other.y)
        right = min(self.x + self.width, other.x + other.width)
        bottom = min(self.y + self.height, other.y + other.height)
        return Rect(x, y, max(0, right - x), max(0, bottom - y))

    def grown(self, margin: int) -> Rect:
        """Give the rectangle with `margin` more pixels on each side."""
        return Rect(self.x - margin, self.y - margin, self.width + 2 * margin, self.height + 2 * margin)


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile. `core` is what it owns, cut at the slide's edge; `padded` is what the network sees and may lie
    partly outside the slide; `valid` is the part of `padded` that is slide.
    """

    row: int
    column: int
    core: Rect
    padded: Rect
    valid: Rect


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiling of an image of `width` × `height` model pixels.

    `tile_size` includes the halo on both sides. `offset` moves the grid's lines up and left; results do not depend
    on it, which is what it is for.
    """

    width: int
    height: int
    tile_size: int = 1024
    halo: int = 96
    offset: int = 0

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigurationError(f"An image of {self.width} × {self.height} pixels cannot be tiled.")
        for name, value in (("tile_size", self.tile_size), ("halo", self.halo), ("offset", self.offset)):
            if value < 0 or value % STRIDE:
                raise ConfigurationError(f"{name} is {value}; it must be a multiple of {STRIDE}.")
        if self.core < STRIDE:
            raise ConfigurationError(f"A tile of {self.tile_size} pixels has no core with a halo of {self.halo}.")
        if self.offset >= self.core:
            raise ConfigurationError(f"offset is {self.offset}; it must be less than the core, {self.core}.")

    @classmethod
    def whole(cls, width: int, height: int, halo: int = 96) -> Grid:
        """One tile over everything: the untiled run that every tiled run must equal."""
        edge = -(-max(width, height) // STRIDE) * STRIDE
        return cls(width, height, edge + 2 * halo, halo)

    @property
    def core(self) -> int:
        """Edge of a core that the slide's edge does not cut."""
        return self.tile_size - 2 * self.halo

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return -(-(self.height + self.offset) // self.core)

    @property
    def columns(self) -> int:
        """Number of columns of tiles."""
        return -(-(self.width + self.offset) // self.core)

    def __len__(self) -> int:
        return self.rows * self.columns

    def tile(self, row: int, column: int) -> Tile:
        """Give the tile at `row`, `column`; `IndexError` outside the grid."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"no tile ({row}, {column}) in a grid of {self.rows} × {self.columns}")
        slide = Rect(0, 0, self.width, self.height)
        uncut = Rect(column * self.core - self.offset, row * self.core - self.offset, self.core, self.core)
        padded = uncut.grown(self.halo)
        return Tile(row, column, uncut.intersection(slide), padded, padded.intersection(slide))

    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.tile(row, column)
