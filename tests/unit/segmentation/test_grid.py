"""The grid's promises: a partition, one shape, aligned origins, halos on every inner side, nothing outside."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigurationError
from microtome.segmentation.grid import STRIDE, Grid, Rect


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    halo = draw(st.integers(0, 6)) * STRIDE
    core = draw(st.integers(1, 8)) * STRIDE
    offset = draw(st.one_of(st.just(0), st.integers(0, core // STRIDE - 1))) * STRIDE
    size = draw(st.integers(1, 700)), draw(st.integers(1, 400))
    try:
        return Grid(*size, core + 2 * halo, halo, offset)
    except ConfigurationError:
        # The tiles that fit best may have a core shorter than the offset.
        assume(offset == 0)
        raise


@settings(max_examples=150, deadline=None)
@given(grids())
def test_cores_partition_the_image(grid: Grid) -> None:
    owners = np.zeros((grid.height, grid.width), np.int32)
    tiles = list(grid.tiles())
    for tile in tiles:
        core = tile.core
        assert core.width > 0
        assert core.height > 0
        owners[core.y : core.y + core.height, core.x : core.x + core.width] += 1
        rows = grid.down.holding(np.arange(core.y, core.y + core.height))
        columns = grid.across.holding(np.arange(core.x, core.x + core.width))
        assert (rows == tile.row).all()
        assert (columns == tile.column).all()
    assert (owners == 1).all()
    assert len(tiles) == len(grid)


@settings(max_examples=150, deadline=None)
@given(grids())
def test_tiles_share_one_shape_are_aligned_and_lie_inside_the_plane(grid: Grid) -> None:
    plane = Rect(0, 0, -(-grid.width // STRIDE) * STRIDE, -(-grid.height // STRIDE) * STRIDE)
    assert grid.tile_width <= grid.tile_size
    assert grid.tile_height <= grid.tile_size
    for tile in grid.tiles():
        assert (tile.padded.width, tile.padded.height) == (grid.tile_width, grid.tile_height)
        assert tile.padded.x % STRIDE == tile.padded.y % STRIDE == 0
        assert tile.padded.width % STRIDE == tile.padded.height % STRIDE == 0
        assert plane.intersection(tile.padded) == tile.padded
        assert tile.valid.intersection(tile.core) == tile.core
        assert tile.padded.intersection(Rect(0, 0, grid.width, grid.height)) == tile.valid
        assert grid.tile(tile.row, tile.column) == tile


@settings(max_examples=150, deadline=None)
@given(grids())
def test_every_inner_side_has_its_halo(grid: Grid) -> None:
    for tile in grid.tiles():
        core, padded = tile.core, tile.padded
        right, bottom = core.x + core.width, core.y + core.height
        assert core.x - padded.x >= (grid.halo if core.x > 0 else 0)
        assert core.y - padded.y >= (grid.halo if core.y > 0 else 0)
        assert padded.x + padded.width - right >= (grid.halo if right < grid.width else 0)
        assert padded.y + padded.height - bottom >= (grid.halo if bottom < grid.height else 0)


@settings(max_examples=150, deadline=None)
@given(grids())
def test_neither_fewer_nor_smaller_tiles_would_do(grid: Grid) -> None:
    for axis in (grid.across, grid.down):
        if axis.count == 1:
            assert axis.edge == axis.plane <= grid.tile_size
            continue

        def covered(count: int, edge: int) -> int:
            return edge if count == 1 else 2 * (edge - grid.halo) + (count - 2) * (edge - 2 * grid.halo)

        assert covered(axis.count - 1, grid.tile_size) < axis.plane + grid.offset
        assert covered(axis.count, axis.edge - STRIDE) < axis.plane + grid.offset
        assert covered(axis.count, axis.edge) >= axis.plane + grid.offset


@pytest.mark.parametrize("size", [(1484, 1380), (16, 16), (1, 1), (900, 33)])
def test_an_image_that_fits_one_tile_is_run_without_a_halo(size: tuple[int, int]) -> None:
    for grid in (Grid.whole(*size), Grid(*size, tile_size=1488)):
        (tile,) = grid.tiles()
        assert tile.core == tile.valid == Rect(0, 0, *size)
        assert tile.padded.width - size[0] < STRIDE
        assert tile.padded.height - size[1] < STRIDE


def test_tiles_fit_the_slide() -> None:
    grid = Grid(2216, 2959)
    assert (grid.columns, grid.rows) == (3, 4)
    assert (grid.tile_width, grid.tile_height) == (880, 896)


@pytest.mark.parametrize(
    "settings_",
    [
        {"tile_size": 1000},
        {"halo": 60},
        {"tile_size": 128, "halo": 64},
        {"halo": -16},
        {"offset": 8},
        {"tile_size": 256, "halo": 64, "offset": 128, "width": 1000},
        {"width": 0},
    ],
)
def test_settings_that_cannot_work_are_refused(settings_: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        Grid(**{"width": 100, "height": 100, **settings_})


def test_there_is_no_tile_outside() -> None:
    grid = Grid(100, 100)
    with pytest.raises(IndexError):
        grid.tile(0, grid.columns)
    with pytest.raises(IndexError):
        grid.tile(-1, 0)
