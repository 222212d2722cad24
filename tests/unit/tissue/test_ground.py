"""The ground: tissue and what is near, the same from wherever it is asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microtome.segmentation.grid import Grid, Rect
from microtome.tissue.ground import MARGIN, Ground
from microtome.tissue.mask import TissueMask, TissueParameters
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
