"""Which tiles of a grid are worth the network's time.

Promises: the same answer wherever it is asked, from the mask, the grid and the scale alone: what the tiler sends is
what the merger expects. Refuses: to look at pixels.
"""

from __future__ import annotations

from collections.abc import Iterator

from microtome.segmentation.grid import Grid, Tile
from microtome.tissue.coverage import tile_has_tissue
from microtome.tissue.ground import Ground
from microtome.tissue.mask import TissueMask
from microtome.tissue.region import Region


def tiles_with_tissue(grid: Grid, mask: TissueMask, scale: float, region: Region | None = None) -> list[Tile]:
    """The tiles that may own cells, since the mask's ground has a part in their core, row by row.

    `scale`: level-0 pixels per model pixel. With a `region` only those that may own cells of it.
    """
    ground = Ground(mask, scale)
    return [tile for tile in tiles_of(grid, scale, region) if ground.meets(tile.core)]


def blocks_with_tissue(lattice: Grid, mask: TissueMask, scale: float) -> list[Tile]:
    """The blocks of a `sampling_grid` that have tissue themselves, row by row."""
    return [block for block in lattice.tiles() if _has_tissue(block, mask, scale)]


def tiles_of(grid: Grid, scale: float, region: Region | None) -> Iterator[Tile]:
    """Yield the tiles that may own cells of the region, row by row; without one all."""
    return (tile for tile in grid.tiles() if region is None or region.meets(tile.core, scale))


def _has_tissue(block: Tile, mask: TissueMask, scale: float) -> bool:
    core = block.core
    right, bottom = core.x + core.width, core.y + core.height
    return tile_has_tissue(mask, core.x * scale, core.y * scale, right * scale, bottom * scale)
