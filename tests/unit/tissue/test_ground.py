"""The ground: tissue and what is near, the same from wherever it is asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microtome.segmentation.grid import Grid, Rect
from microtome.tissue.ground import MARGIN, Ground
from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.outline import read_outline
from microtome.tissue.tiles import tiles_with_tissue


@st.composite
def grounds(draw: st.DrawFn) -> tuple[Ground, int, int]:
    """A ground, and the slide's width and height in model pixels."""
    bits = draw(arrays.arrays(np.bool_, st.tuples(st.integers(3, 40), st.integers(3, 40))))
    if draw(st.booleans()):
        bits &= np.random.default_rng(draw(st.integers(0, 9))).random(bits.shape) < 0.02
    downsample, scale = draw(st.sampled_from([5.79, 16.0, 33.3, 64.0])), draw(st.sampled_from([0.5, 1.0, 1.98, 4.0]))
    height, width = (round(side * downsample) for side in bits.shape)
    mask = TissueMask(bits, width, height, (downsample, downsample), 8.0, 0.1, TissueParameters(), ())
    return Ground(mask, scale), max(1, int(width / scale)), max(1, int(height / scale))


@settings(max_examples=60, deadline=None)
@given(grounds())
def test_it_is_the_tissue_and_its_margin(given_: tuple[Ground, int, int]) -> None:
    ground, width, height = given_
    found = ground.lattice(Rect(0, 0, width, height))
    assert found.shape == (-(-height // 16), -(-width // 16))
    size = ground.mask.downsample[0] / ground.scale
    rows, columns = np.nonzero(ground.mask.bits)
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            near_y = (rows * size < 16 * y + 16 + MARGIN) & ((rows + 1) * size > 16 * y - MARGIN)
            near_x = (columns * size < 16 * x + 16 + MARGIN) & ((columns + 1) * size > 16 * x - MARGIN)
            assert found[y, x] == (near_y & near_x).any()


@settings(max_examples=60, deadline=None)
@given(grounds(), st.sampled_from([96, 160]), st.sampled_from([0, 16]), st.sampled_from([0, 16, 32]))
def test_every_tile_sees_the_same_and_is_wanted_for_its_core(
    given_: tuple[Ground, int, int], tile_size: int, halo: int, offset: int
) -> None:
    ground, width, height = given_
    grid = Grid(width, height, tile_size, halo, offset)
    everything = ground.lattice(Rect(0, 0, width, height))
    wanted = []
    for tile in grid.tiles():
        (y, x), at = (tile.padded.y // 16, tile.padded.x // 16), ground.of(tile)
        assert np.array_equal(at, everything[y : y + tile.padded.height // 16, x : x + tile.padded.width // 16])
        core = tile.core
        rows = slice(core.y // 16, -(-(core.y + core.height) // 16))
        part = everything[rows, core.x // 16 : -(-(core.x + core.width) // 16)]
        assert ground.meets(core) == part.any()
        if part.any():
            wanted.append(tile)
    assert tiles_with_tissue(grid, ground.mask, ground.scale) == wanted


@pytest.mark.parametrize(("downsample", "scale"), [(5.79, 1.0), (16.0, 1.0), (32.0, 2.0), (48.0, 2.0)])
def test_what_is_drawn_along_the_tissue_lies_on_its_ground(downsample: float, scale: float) -> None:
    bits = np.zeros((60, 80), np.bool_)
    bits[10:40, 20:50] = True
    width, height = round(80 * downsample), round(60 * downsample)
    mask = TissueMask(bits, width, height, (downsample, downsample), 8.0, 0.1, TissueParameters(), ())
    ground, grid = Ground(mask, scale), Grid(int(width / scale), int(height / scale), 320, 96)

    def holds(left: float, top: float, right: float, bottom: float) -> bool:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
        ring = [[x * downsample, y * downsample] for x, y in corners]
        drawn = read_outline({"type": "Polygon", "coordinates": [ring]}, width, height).touched(mask)
        return ground.holds(drawn, tiles_with_tissue(grid, drawn, scale))

    assert holds(20, 10, 50, 40)
    assert holds(25, 12, 30, 39)
    cells = 64 * scale / downsample
    assert not holds(20, 10, 50 + cells, 40)
    assert not holds(20, 40 + cells, 50, 41 + cells)
    assert not holds(70, 50, 70.01, 50.01)
