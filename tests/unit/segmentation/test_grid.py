"""The grid's promises: a partition, one shape, aligned origins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import ConfigurationError
from microtome.segmentation.grid import STRIDE, Grid, Rect


@st.composite
def grids(draw: st.DrawFn) -> Grid:
    halo = draw(st.integers(0, 6)) * STRIDE
    core = draw(st.integers(1, 8)) * STRIDE
    offset = draw(st.integers(0, core // STRIDE - 1)) * STRIDE
    return Grid(draw(st.integers(1, 400)), draw(st.integers(1, 400)), core + 2 * halo, halo, offset)


@settings(max_examples=80, deadline=None)
@given(grids())
def test_cores_partition_the_image(grid: Grid) -> None:
    owners = np.zeros((grid.height, grid.width), np.int32)
    tiles = list(grid.tiles())
    for tile in tiles:
        core = tile.core
        assert core.width > 0
        assert core.height > 0
        owners[core.y : core.y + core.height, core.x : core.x + core.width] += 1
    assert (owners == 1).all()
    assert len(tiles) == len(grid)


@settings(max_examples=80, deadline=None)
@given(grids())
def test_tiles_share_one_shape_and_are_aligned(grid: Grid) -> None:
    for tile in grid.tiles():
        assert (tile.padded.width, tile.padded.height) == (grid.tile_size, grid.tile_size)
        assert tile.padded.x % STRIDE == tile.padded.y % STRIDE == 0
        assert tile.valid.intersection(tile.core) == tile.core
        assert tile.valid.intersection(Rect(0, 0, grid.width, grid.height)) == tile.valid
        assert grid.tile(tile.row, tile.column) == tile


def test_one_tile_can_cover_everything() -> None:
    grid = Grid.whole(1484, 1380, 128)
    (tile,) = grid.tiles()
    assert tile.core == tile.valid == Rect(0, 0, 1484, 1380)
    assert grid.tile_size % STRIDE == 0


@pytest.mark.parametrize(
    "settings_",
    [
        {"tile_size": 1000},
        {"halo": 60},
        {"tile_size": 128, "halo": 64},
        {"halo": -16},
        {"offset": 8},
        {"tile_size": 256, "halo": 64, "offset": 128},
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
