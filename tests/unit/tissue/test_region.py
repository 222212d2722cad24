"""Regions: what of a mask is inside, to a part of its pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.region import Region


def mask_of(bits: np.ndarray, width: int, height: int, step: float) -> TissueMask:
    return TissueMask(bits, width, height, (step, step), step * 0.25, 0.05, TissueParameters(), ())


@pytest.fixture
def mask() -> TissueMask:
    """16 level-0 pixels a mask pixel; the last row and column reach over the slide's edge."""
    return mask_of(np.random.default_rng(1).random((38, 63)) < 0.4, 1000, 600, 16.0)


def test_a_pixel_that_is_inside_in_part_counts_by_that_part(mask: TissueMask) -> None:
    everywhere = mask_of(np.ones((38, 63), np.bool_), 1000, 600, 16.0)
    for region in (Region(5, 7, 3, 2), Region(10, 20, 100, 37), Region(500, 300, 1, 1)):
        assert region.tissue_pixels(everywhere) * 16**2 == pytest.approx(region.width * region.height)
        assert region.fraction(everywhere) == pytest.approx(1)
    row, column = map(int, np.argwhere(mask.bits[:-1, 1:-1] & ~mask.bits[:-1, :-2])[0])
    # Half of it on what is none, half on the tissue to the right.
    half = Region(16 * (column + 1) - 4, 16 * row, 8, 16)
    assert half.fraction(mask) == pytest.approx(0.5)


def test_regions_that_partition_a_slide_partition_its_tissue(mask: TissueMask) -> None:
    columns, rows = [0, 3, 77, 500, 993, 1000], [0, 250, 595, 600]
    parts = [Region(x, y, right - x, bottom - y) for x, right in pairwise(columns) for y, bottom in pairwise(rows)]
    assert sum(part.tissue_pixels(mask) for part in parts) == pytest.approx(int(mask.bits.sum()))
    whole = Region(-50, -50, 2000, 2000)
    assert whole.fraction(mask) == pytest.approx(mask.fraction)


def test_a_mask_that_ends_before_the_slide_does_goes_on_to_its_edge() -> None:
    short = mask_of(np.ones((10, 10), np.bool_), 164, 160, 16.0)
    left, right = Region(0, 0, 100, 160), Region(100, 0, 64, 160)
    assert left.tissue_pixels(short) + right.tissue_pixels(short) == pytest.approx(100)
    assert Region(161, 0, 3, 160).fraction(short) == 0
