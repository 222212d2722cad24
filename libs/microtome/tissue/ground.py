"""The ground of a slide: where cells are looked for.

Promises: the found tissue and `MARGIN` model pixels around it, on a lattice of 16 model pixels: a pure function of the
mask and the scale, the same wherever it is asked and whatever the grid, so that what the tiler sends is what the merger
expects. Any mask pixel that a cell of the lattice, grown by the margin, touches is enough.
Refuses: to look at pixels, and to keep the lattice of a whole slide.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.grid import STRIDE, Rect, Tile
from microtome.segmentation.patches import Bits
from microtome.tissue.mask import TissueMask

# Model pixels, 16 µm: a nucleus at the edge of what the mask, of pixels of 8 µm, says is tissue.
MARGIN = 32


@dataclass(frozen=True, eq=False, slots=True)
class Ground:
    """Where cells are looked for on one slide; `scale`: level-0 pixels per model pixel."""

    mask: TissueMask
    scale: float

    def of(self, tile: Tile) -> Bits:
        """The ground of `tile.padded`, bool [height / 16, width / 16]."""
        return self.lattice(tile.padded)

    def meets(self, core: Rect) -> bool:
        """Whether the ground has a cell in a tile's core: whether it may own cells."""
        (top, bottom), (left, right) = (
            _touched(start - MARGIN, start + length + MARGIN, self.scale / downsample, pixels)
            for start, length, downsample, pixels in (
                (core.y, _up(core.height), self.mask.downsample[1], self.mask.bits.shape[0]),
                (core.x, _up(core.width), self.mask.downsample[0], self.mask.bits.shape[1]),
            )
        )
        return bool(self.mask.bits[top:bottom, left:right].any())

    def holds(self, drawn: TissueMask, tiles: Iterable[Tile]) -> bool:
        """Whether what was drawn lies on the ground, as far as it lies in the cores of `tiles`.

        `drawn`: the mask of what it touches (`TissueOutline.touched`), which reaches a pixel further than the drawing.
        """
        other, reach = Ground(drawn, self.scale), MARGIN + math.ceil(max(drawn.downsample) / self.scale)
        return not any((other.lattice(tile.core, 0) & ~self.lattice(tile.core, reach)).any() for tile in tiles)

    def lattice(self, rect: Rect, margin: int = MARGIN, step: int = STRIDE) -> Bits:
        """Which cells of `step` pixels in `rect` have tissue within `margin`, bool [height / step, width / step].

        `rect` begins at a multiple of 16; a last cell may reach beyond it.
        """
        bits, (across, down) = self.mask.bits, self.mask.downsample
        begin_y, end_y = _spans(rect.y, rect.height, margin, step, self.scale / down, bits.shape[0])
        begin_x, end_x = _spans(rect.x, rect.width, margin, step, self.scale / across, bits.shape[1])
        top, left = int(begin_y[0]), int(begin_x[0])
        part = bits[top : int(end_y[-1]), left : int(end_x[-1])]
        sums = np.zeros((part.shape[0] + 1, part.shape[1] + 1), np.int32)
        np.cumsum(np.cumsum(part, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
        rows = sums[end_y - top] - sums[begin_y - top]
        found: Bits = rows[:, end_x - left] > rows[:, begin_x - left]
        return found


def _spans(
    start: int, length: int, margin: int, step: int, scale: float, pixels: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which mask pixels each cell of a lattice touches: first and past the last, int64 [n] each."""
    spans = [_touched(at - margin, at + step + margin, scale, pixels) for at in range(start, start + length, step)]
    begin, end = np.array(spans, np.int64).T
    return begin, end


def _touched(begin: int, end: int, scale: float, pixels: int) -> tuple[int, int]:
    """The mask pixels between two positions, within the mask; `scale`: mask pixels per model pixel."""
    first = min(max(0, math.floor(begin * scale)), pixels)
    return first, max(first, min(pixels, math.ceil(end * scale)))


def _up(length: int) -> int:
    return -(-length // STRIDE) * STRIDE
