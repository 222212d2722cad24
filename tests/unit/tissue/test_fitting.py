"""The grid that fits a slide: no pixel more through the network than another grid would need."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.segmentation.grid import Grid
from microtome.tissue.fitting import LARGEST, fitting_grid
from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.tiles import tiles_with_tissue

HALO = 96


def mask_of(bits: np.ndarray, downsample: float = 16.0) -> TissueMask:
    height, width = (round(edge * downsample) for edge in bits.shape)
    return TissueMask(bits, width, height, (downsample, downsample), 8.0, 0.1, TissueParameters(), ())


def pixels(grid: Grid, mask: TissueMask) -> int:
    return len(tiles_with_tissue(grid, mask, 1.0)) * grid.tile_width * grid.tile_height


@pytest.mark.parametrize("seed", range(4))
def test_no_square_of_the_candidates_costs_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    bits = np.zeros((300, 400), bool)
    for y, x in rng.integers(0, 260, (seed + 1, 2)):
        bits[y : y + 40, x : x + 60] = True
    mask = mask_of(bits)
    best = fitting_grid(mask.level0_width, mask.level0_height, HALO, mask, 1.0)
    assert max(best.tile_width, best.tile_height) <= LARGEST
    for size in range(512, LARGEST + 1, 256):
        grid = Grid(mask.level0_width, mask.level0_height, size, HALO)
        # A call has its price, too.
        assert pixels(best, mask) <= pixels(grid, mask) + 20_000 * len(tiles_with_tissue(grid, mask, 1.0))


def test_a_small_image_is_one_tile_and_a_large_empty_one_has_a_grid() -> None:
    whole = mask_of(np.ones((87, 93), bool))
    assert len(fitting_grid(1484, 1380, HALO, whole, 1.0)) == 1
    empty = mask_of(np.zeros((2000, 2000), bool))
    assert len(fitting_grid(32_000, 32_000, HALO, empty, 1.0)) > 1


def test_what_is_asked_for_is_not_exceeded() -> None:
    mask = mask_of(np.ones((200, 200), bool))
    for largest in (256, 512, 1024):
        grid = fitting_grid(3200, 3200, HALO, mask, 1.0, largest)
        assert max(grid.tile_width, grid.tile_height) <= largest
