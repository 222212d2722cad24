"""Patches: whatever the ground, all of it is taken once, with the network's sight around it, and never at a loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microtome.errors import InvalidRequest
from microtome.segmentation.grid import Rect
from microtome.segmentation.patches import (
    PIXELS_PER_CALL,
    WORTH_A_LANE,
    Bits,
    Patch,
    View,
    lanes_for,
    packed,
    patches_over,
    unpacked,
)

HALO = 96
SHAPES = st.tuples(st.integers(1, 90), st.integers(1, 90))


@st.composite
def grounds(draw: st.DrawFn) -> Bits:
    """Rectangles here and there on a tile, as tissue lies on a slide, or any cells at all."""
    rows, columns = draw(SHAPES)
    if draw(st.booleans()):
        return draw(arrays.arrays(np.bool_, (rows, columns)))
    ground = np.zeros((rows, columns), np.bool_)
    for _ in range(draw(st.integers(0, 6))):
        y, x = draw(st.integers(0, rows - 1)), draw(st.integers(0, columns - 1))
        ground[y : y + draw(st.integers(1, 40)), x : x + draw(st.integers(1, 40))] = True
    return ground


def inside(rect: Rect, outer: Rect) -> bool:
    return rect.intersection(outer) == rect


def assert_lawful(patch: Patch, tile: Rect, halo: int) -> None:
    for rect in (patch.seen, patch.taken):
        assert not rect.empty
        assert not any(side % 16 for side in (rect.x, rect.y, rect.width, rect.height))
    assert inside(patch.seen, tile)
    assert patch.seen == patch.taken.grown(halo).intersection(tile)


@settings(max_examples=150, deadline=None)
@given(grounds(), st.sampled_from([16, HALO, 112]))
def test_all_of_the_ground_is_taken_once(ground: Bits, halo: int) -> None:
    rows, columns = ground.shape
    tile = Rect(0, 0, 16 * columns, 16 * rows)
    taken = np.zeros(ground.shape, int)
    patches = patches_over(ground, halo)
    for patch in patches:
        assert_lawful(patch, tile, halo)
        at = patch.taken
        taken[at.y // 16 : (at.y + at.height) // 16, at.x // 16 : (at.x + at.width) // 16] += 1
    assert (taken <= 1).all()
    assert (taken[ground] == 1).all()
    view = View.of(ground, tile.width, tile.height, halo)
    assert view.pixels == sum(patch.seen.width * patch.seen.height for patch in patches)
    assert view.pixels + PIXELS_PER_CALL * (len(patches) - 1) <= tile.width * tile.height
    assert sorted(patches, key=lambda patch: -patch.seen.width * patch.seen.height) == list(patches)
    assert patches_over(ground.copy(), halo) == patches


@settings(max_examples=100, deadline=None)
@given(grounds(), st.integers(2, 4))
def test_lanes_share_a_tile_out_evenly(ground: Bits, lanes: int) -> None:
    rows, columns = ground.shape
    tile = Rect(0, 0, 16 * columns, 16 * rows)
    patches = View.of(ground, tile.width, tile.height, HALO, lanes=lanes).patches
    assert sorted(patches, key=lambda patch: -patch.seen.width * patch.seen.height) == list(patches)
    taken = np.zeros(ground.shape, int)
    for patch in patches:
        assert_lawful(patch, tile, HALO)
        at = patch.taken
        taken[at.y // 16 : (at.y + at.height) // 16, at.x // 16 : (at.x + at.width) // 16] += 1
    assert (taken <= 1).all()
    assert (taken[ground] == 1).all()
    sizes = [patch.seen.width * patch.seen.height for patch in patches]
    if sizes and sizes[0] >= 2 * WORTH_A_LANE:
        assert sizes[0] <= 1.25 * sum(sizes) / lanes


def test_few_tiles_are_shared_out_among_lanes_and_of_many_each_lane_takes_one() -> None:
    assert [lanes_for(2, tiles) for tiles in (1, 4, 5, 1000)] == [2, 2, 1, 1]
    assert lanes_for(1, 1) == 1
    whole = View.of(None, 1440, 1440, HALO, lanes=lanes_for(2, 1))
    assert [patch.taken for patch in whole.patches] == [Rect(0, 0, 1440, 720), Rect(0, 720, 1440, 720)]
    assert len(View.of(None, 1440, 1440, HALO, whole=True, lanes=2).patches) == 1


def test_a_single_cell_seen_from_afar_is_not_cut() -> None:
    ground = np.zeros((144, 144), np.bool_)
    ground[70, 70] = True
    (patch,) = View.of(ground, 2304, 2304, 512, lanes=2).patches
    assert patch.taken == Rect(1120, 1120, 16, 16)


def test_islands_and_arms_do_not_cost_the_glass_between() -> None:
    ground = np.zeros((144, 144), np.bool_)
    ground[:20, :20] = ground[-20:, -20:] = ground[:20, -20:] = True
    assert View.of(ground, 2304, 2304, HALO).pixels == 3 * (16 * 26) ** 2
    arms = np.zeros((144, 144), np.bool_)
    arms[70:74] = arms[:, 70:74] = True
    # A cross: a bar, and what it leaves of the other.
    assert View.of(arms, 2304, 2304, HALO).pixels < 0.27 * 2304**2
    ring = np.ones((144, 144), np.bool_)
    ring[12:-12, 12:-12] = False
    assert View.of(ring, 2304, 2304, HALO).pixels < 0.6 * 2304**2


def test_a_tile_full_of_tissue_is_looked_at_in_one() -> None:
    whole = Rect(0, 0, 2304, 2304)
    ground = np.ones((144, 144), np.bool_)
    ground[:4, :4] = False
    assert View.of(ground, 2304, 2304, HALO).patches == (Patch(whole, whole),)


def test_without_ground_nothing_is_looked_at_and_without_a_mask_everything() -> None:
    whole = Rect(0, 0, 320, 160)
    nothing = np.zeros((10, 20), np.bool_)
    assert View.of(nothing, 320, 160, HALO).pixels == View.of(nothing, 320, 160, HALO, whole=True).pixels == 0
    assert View.of(None, 320, 160, HALO).patches == (Patch(whole, whole),)
    nothing[3, 3] = True
    assert View.of(nothing, 320, 160, HALO, whole=True).patches == (Patch(whole, whole),)
    with pytest.raises(InvalidRequest, match="ground"):
        View.of(nothing.T, 320, 160, HALO)


@given(arrays.arrays(np.bool_, SHAPES))
def test_a_ground_survives_its_message(ground: Bits) -> None:
    height, width = (16 * cells for cells in ground.shape)
    back = unpacked(packed(ground), width, height)
    assert back is not None
    assert np.array_equal(back, ground)
    assert unpacked(b"", width, height) is None
    with pytest.raises(InvalidRequest, match="bytes"):
        unpacked(packed(ground) + b"\0", width, height)
