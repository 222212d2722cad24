"""How a slide is cut into tiles, in model pixels.

The plane is the slide, grown at its right and lower edge to multiples of 16 (its mirror image there, see `reading`).
Promises: the half-open cores partition the slide, so that a pixel, and with it a cell's seed, lies in exactly one;
all tiles share one shape, at most `tile_size` on an edge, and lie inside the plane: nothing is computed outside of the
slide. Where a core does not end at the slide's edge, its tile reaches at least `halo` pixels further. Every tile's
origin is a multiple of 16, because the network is only shift-equivariant for multiples of 8. An image that fits into
one tile is one tile. Pure: no pixels, no I/O.
Refuses: settings with which these promises cannot be kept (`ConfigurationError`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ConfigurationError

STRIDE = 16


@dataclass(frozen=True, slots=True)
class Rect:
    """A half-open rectangle [x, x + width) × [y, y + height) in model pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def empty(self) -> bool:
        """Whether it has no pixel."""
        return self.width == 0 or self.height == 0

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
    """One tile. `core` is what it owns; `padded` is what the network sees, a part of the plane; `valid` is the part of
    `padded` that is slide, without the plane's last few mirrored pixels.
    """

    row: int
    column: int
    core: Rect
    padded: Rect
    valid: Rect


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a grid: `count` tiles of `edge` pixels over a slide of `length`, in a plane of `plane` pixels.

    Tile i begins at i steps less the offset; the first begins, and the last one ends, at the plane's edge.
    """

    length: int
    plane: int
    count: int
    edge: int
    step: int
    halo: int
    offset: int

    @classmethod
    def of(cls, length: int, largest: int, halo: int, offset: int) -> Axis:
        """Cover `length` pixels with as few tiles of at most `largest` as will do, then with the smallest such."""
        plane = _up(length)
        if plane <= largest:
            return cls(length, plane, 1, plane, plane, 0, 0)
        # The outer tiles need a halo on one side only: count steps and two halos reach from edge to edge.
        reach = plane + offset - 2 * halo
        count = max(2, -(-reach // (largest - 2 * halo)))
        edge = _up(-(-reach // count)) + 2 * halo
        return cls(length, plane, count, edge, edge - 2 * halo, halo, offset)

    def origin(self, index: int) -> int:
        """Where tile `index` begins."""
        return 0 if index == 0 else min(index * self.step - self.offset, self.plane - self.edge)

    def seam(self, index: int) -> int:
        """Where the core of tile `index` begins; of `count` where the slide ends."""
        if index == 0:
            return 0
        return self.length if index == self.count else index * self.step + self.halo - self.offset

    def holding(self, positions: NDArray[np.integer]) -> NDArray[np.int64]:
        """Return which tile's core holds each position on the slide."""
        index = (positions.astype(np.int64) - self.halo + self.offset) // self.step
        return np.clip(index, 0, self.count - 1)


@dataclass(frozen=True, slots=True)
class Grid:
    """The tiling of an image of `width` × `height` model pixels.

    `tile_size` is the largest edge that a tile may have, halo included; the tiles are `tile_width` × `tile_height`.
    `offset` moves the seams up and left; results do not depend on it, which is what it is for.
    """

    width: int
    height: int
    tile_size: int = 1024
    halo: int = 96
    offset: int = 0
    across: Axis = field(init=False, repr=False, compare=False)
    down: Axis = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ConfigurationError(f"An image of {self.width} × {self.height} pixels cannot be tiled.")
        for name, value in (("tile_size", self.tile_size), ("halo", self.halo), ("offset", self.offset)):
            if value < 0 or value % STRIDE:
                raise ConfigurationError(f"{name} is {value}; it must be a multiple of {STRIDE}.")
        core = self.tile_size - 2 * self.halo
        if core < STRIDE:
            raise ConfigurationError(
                f"A tile of {self.tile_size} pixels has no core with a halo of {self.halo}; "
                f"the smallest that has one is {2 * self.halo + STRIDE}."
            )
        axes = [Axis.of(length, self.tile_size, self.halo, self.offset) for length in (self.width, self.height)]
        if any(axis.count > 1 and self.offset >= axis.step for axis in axes):
            raise ConfigurationError(f"offset is {self.offset}; it must be less than the core of an inner tile.")
        object.__setattr__(self, "across", axes[0])
        object.__setattr__(self, "down", axes[1])

    @classmethod
    def whole(cls, width: int, height: int, halo: int = 96) -> Grid:
        """One tile over everything: the untiled run that every tiled run must equal."""
        return cls(width, height, max(_up(max(width, height)), 2 * halo + STRIDE), halo)

    @property
    def tile_width(self) -> int:
        """Width of every tile."""
        return self.across.edge

    @property
    def tile_height(self) -> int:
        """Height of every tile."""
        return self.down.edge

    @property
    def rows(self) -> int:
        """Number of rows of tiles."""
        return self.down.count

    @property
    def columns(self) -> int:
        """Number of columns of tiles."""
        return self.across.count

    def __len__(self) -> int:
        return self.rows * self.columns

    def tile(self, row: int, column: int) -> Tile:
        """Give the tile at `row`, `column`; `IndexError` outside the grid."""
        if not (0 <= row < self.rows and 0 <= column < self.columns):
            raise IndexError(f"no tile ({row}, {column}) in a grid of {self.rows} × {self.columns}")
        left, top = self.across.seam(column), self.down.seam(row)
        core = Rect(left, top, self.across.seam(column + 1) - left, self.down.seam(row + 1) - top)
        padded = Rect(self.across.origin(column), self.down.origin(row), self.tile_width, self.tile_height)
        return Tile(row, column, core, padded, padded.intersection(Rect(0, 0, self.width, self.height)))

    def tiles(self) -> Iterator[Tile]:
        """All tiles, row by row."""
        for row in range(self.rows):
            for column in range(self.columns):
                yield self.tile(row, column)


def _up(length: int) -> int:
    return -(-length // STRIDE) * STRIDE
