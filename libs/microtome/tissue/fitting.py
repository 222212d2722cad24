"""The grid that costs the network least on a slide.

Promises: the same answer wherever it is asked, from the slide's sizes and mask alone. Large tiles spend less on halos,
small ones skip more glass; which matters more depends on the tissue.
Refuses: tiles larger than asked for.
"""

from __future__ import annotations

from microtome.segmentation.grid import STRIDE, Grid
from microtome.tissue.mask import TissueMask
from microtome.tissue.tiles import tiles_with_tissue

# A call of the network costs as much as so many pixels before it computes the first, and a file is written for each.
_PIXELS_PER_CALL = 20_000
# Larger slides have so many tiles that a few candidates must do.
_MANY_PIXELS = 1 << 28
# A tile of the largest edge takes 2 GB while the network runs in bytes or halves, 4 GB in fp32.
LARGEST, SMALLEST = 2304, 512


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
    step = 64 if width * height <= _MANY_PIXELS else 256
    smallest = min(largest, max(SMALLEST, 4 * halo // STRIDE * STRIDE))
    grids = {
        (grid.tile_width, grid.tile_height): grid
        for grid in (Grid(width, height, size, halo) for size in range(largest, smallest - 1, -step))
    }

    def cost(grid: Grid) -> tuple[int, int]:
        tiles = len(tiles_with_tissue(grid, mask, scale))
        return tiles * (grid.tile_width * grid.tile_height + _PIXELS_PER_CALL), tiles

    return min(grids.values(), key=cost)
