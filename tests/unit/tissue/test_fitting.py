"""The grid that fits a slide: hardly a pixel more through the network than another grid would need."""

from __future__ import annotations

import time

import numpy as np
import pytest

from microtome.segmentation.grid import Grid
from microtome.segmentation.patches import PIXELS_PER_CALL, View
from microtome.tissue.fitting import LARGEST, fitting_grid
from microtome.tissue.ground import Ground
from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.tiles import tiles_with_tissue

HALO = 96


def mask_of(bits: np.ndarray, downsample: float = 16.0) -> TissueMask:
    height, width = (round(edge * downsample) for edge in bits.shape)
    return TissueMask(bits, width, height, (downsample, downsample), 8.0, 0.1, TissueParameters(), ())


def cost(grid: Grid, mask: TissueMask) -> int:
    """What the network computes, and what its calls cost."""
    views = [
        View.of(Ground(mask, 1.0).of(tile), grid.tile_width, grid.tile_height, HALO)
        for tile in tiles_with_tissue(grid, mask, 1.0)
    ]
    return sum(view.pixels + PIXELS_PER_CALL * len(view.patches) for view in views)


@pytest.mark.parametrize("seed", range(4))
def test_no_square_of_the_candidates_costs_much_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = np.zeros((300, 400), bool)
    for y, x in rng.integers(0, 260, (seed + 1, 2)):
        bits[y : y + 40, x : x + 60] = True
    mask = mask_of(bits)
    best = fitting_grid(mask.level0_width, mask.level0_height, HALO, mask, 1.0)
    assert max(best.tile_width, best.tile_height) <= LARGEST
    others = [cost(Grid(mask.level0_width, mask.level0_height, size, HALO), mask) for size in range(512, LARGEST, 256)]
    # How well patches will cover a tile is not known before they are cut.
    assert cost(best, mask) <= 1.03 * min(others)
    assert cost(best, mask) < 0.7 * max(others)


def test_seams_are_put_where_there_is_glass() -> None:
    bits = np.zeros((275, 100), bool)
    bits[:125] = bits[150:] = True
    mask = mask_of(bits)
    grid = fitting_grid(1600, 4400, HALO, mask, 1.0)
    assert len(grid) == len(tiles_with_tissue(grid, mask, 1.0)) == 2
    assert cost(grid, mask) == 2 * (1600 * 16 * (125 + 2 + 6) + PIXELS_PER_CALL)


def test_a_small_image_is_one_tile_and_a_large_empty_one_has_a_grid() -> None:
    whole = mask_of(np.ones((87, 93), bool))
    assert len(fitting_grid(1484, 1380, HALO, whole, 1.0)) == 1
    empty = mask_of(np.zeros((2000, 2000), bool))
    assert len(fitting_grid(32_000, 32_000, HALO, empty, 1.0)) > 1


def test_the_largest_slides_are_fitted_soon() -> None:
    # 200,000 pixels at 0.25 um, and a mask of 4096.
    mask = mask_of(np.random.default_rng(0).random((4096, 4096)) < 0.01, 200_000 / 4096)
    began = time.process_time()
    grid = fitting_grid(100_000, 100_000, HALO, mask, 2.0)
    assert time.process_time() - began < 3
    assert grid.tile_width > 1500


def test_what_is_asked_for_is_not_exceeded() -> None:
    mask = mask_of(np.ones((200, 200), bool))
    for largest in (256, 512, 1024):
        grid = fitting_grid(3200, 3200, HALO, mask, 1.0, largest)
        assert max(grid.tile_width, grid.tile_height) <= largest
