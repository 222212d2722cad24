"""The grid that costs the network least on a slide.

Promises: the same answer wherever it is asked, from the slide's sizes and mask alone. What counts is what lies within
the network's sight of the ground: the glass between is not computed (`microtome.segmentation.patches`), but a halo on
both sides of every seam is, where there is ground.
Refuses: tiles larger than asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.grid import STRIDE, Axis, Grid, Rect
from microtome.segmentation.patches import PIXELS_PER_CALL
from microtome.tissue.ground import MARGIN, Ground
from microtome.tissue.mask import TissueMask

# A tile of the largest edge takes 0.7 GB while the network runs in bytes, in each lane, and 4 GB in ONNX Runtime.
LARGEST, SMALLEST = 2304, 512
# Candidates are so many pixels apart; a slide is looked at in at most so many cells, on each edge.
_STEP = 64
_CELLS = 1024


def fitting_grid(
    width: int,
    height: int,
    halo: int,
    mask: TissueMask,
    scale: float,
    largest: int = LARGEST,
) -> Grid:
    """Return the grid with tiles of at most `largest` for which the fewest pixels go through the network.

    `width`, `height`: model pixels; `scale`: level-0 pixels per model pixel.
    """
    smallest = min(largest, max(SMALLEST, 4 * halo // STRIDE * STRIDE))
    grids = {
        (grid.tile_width, grid.tile_height): grid
        for grid in (Grid(width, height, size, halo) for size in range(largest, smallest - 1, -_STEP))
    }
    step = STRIDE * -(-max(width, height) // (STRIDE * _CELLS))
    ground, plane = Ground(mask, scale), Rect(0, 0, width, height)
    near, owning = (
        _sums(ground.lattice(plane, margin, step)) for margin in (MARGIN + -(-halo // STRIDE) * STRIDE, MARGIN)
    )

    def cost(grid: Grid) -> tuple[int, int]:
        wanted = _inside(owning, grid, step, core=True) > 0
        pixels = int(_inside(near, grid, step, core=False)[wanted].sum()) * step**2
        tiles = int(np.count_nonzero(wanted))
        return pixels + tiles * PIXELS_PER_CALL, tiles

    return min(grids.values(), key=cost)


def _sums(cells: NDArray[np.bool_]) -> NDArray[np.int32]:
    """How many cells lie above and to the left of each corner: int32 [h + 1, w + 1]."""
    sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.int32)
    np.cumsum(np.cumsum(cells, axis=0, dtype=np.int32), axis=1, out=sums[1:, 1:])
    return sums


def _inside(sums: NDArray[np.int32], grid: Grid, step: int, *, core: bool) -> NDArray[np.int64]:
    """How many cells lie in the core of each tile, or in all of it: int64 [rows, columns]."""
    (top, bottom), (left, right) = (_ends(axis, step, core=core) for axis in (grid.down, grid.across))
    rows = sums[bottom].astype(np.int64) - sums[top]
    return rows[:, right] - rows[:, left]


def _ends(axis: Axis, step: int, *, core: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where the tiles of an axis begin and end, in cells."""
    tiles = range(axis.count)
    begin = [axis.seam(index) if core else axis.origin(index) for index in tiles]
    end = [axis.seam(index + 1) if core else axis.origin(index) + axis.edge for index in tiles]
    last = -(-axis.length // step)
    return np.array(begin, np.int64) // step, np.minimum(-(-np.array(end, np.int64) // step), last)
