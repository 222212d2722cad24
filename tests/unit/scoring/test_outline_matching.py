"""Matching outlines: against shapely, against label images, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import InvalidRequest
from microtome.scoring import match
from microtome.scoring.outlines import OutlineSet, match_outlines

SQUARE = np.array([[0, 0], [10, 0], [10, 10], [0, 10]], float)


def moved(dx: float) -> np.ndarray:
    """The square further to the right."""
    return SQUARE + np.array([dx, 0])


def outlines(rings: list[np.ndarray]) -> OutlineSet:
    offsets = np.cumsum([0, *map(len, rings)]).astype(np.int64)
    return OutlineSet.simple(np.concatenate([np.empty((0, 2)), *rings]), offsets)


def stars(count: int, side: float, seed: int) -> list[np.ndarray]:
    """Simple polygons with dents, some the size of their neighbours' distance, in both directions of going around."""
    random = np.random.default_rng(seed)
    rings = []
    for _ in range(count):
        angles = (
            (np.arange(corners := int(random.integers(3, 40))) + 0.8 * random.random(corners)) * 2 * np.pi / corners
        )
        radius = random.uniform(4, 14) * random.uniform(0.6, 1, corners)
        ring = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] + random.random(2) * side
        rings.append(ring[::-1] if random.random() < 0.5 else ring)
    return rings


def test_overlaps_are_those_of_shapely_and_none_is_lost() -> None:
    random = np.random.default_rng(7)
    a = stars(600, 500, seed=1)
    b = [ring + random.normal(0, 1.2, 2) for ring in a] + stars(300, 500, seed=2)
    polygons_a, polygons_b = (np.array([shapely.Polygon(ring) for ring in rings]) for rings in (a, b))
    assert shapely.is_valid(polygons_a).all()
    assert shapely.is_valid(polygons_b).all()
    of_a, of_b = shapely.STRtree(polygons_b).query(polygons_a)
    shared = shapely.area(shapely.intersection(polygons_a[of_a], polygons_b[of_b]))
    iou = shared / (shapely.area(polygons_a[of_a]) + shapely.area(polygons_b[of_b]) - shared)
    expected = {(i, j): value for i, j, value in zip(of_a.tolist(), of_b.tolist(), iou.tolist(), strict=True)}
    found = match_outlines(outlines(a), outlines(b))
    for (i, j), value in zip(found.pairs.tolist(), found.iou.tolist(), strict=True):
        assert value == pytest.approx(expected[i, j], abs=1e-6)
    # Greedily, the best first: what that leaves alone has no free partner above the threshold.
    alone_a, alone_b = set(found.only_a.tolist()), set(found.only_b.tolist())
    assert len(found.pairs) > 400
    assert not [
        pair for pair, value in expected.items() if value > 0.5001 and pair[0] in alone_a and pair[1] in alone_b
    ]
    assert alone_a | set(found.pairs[:, 0].tolist()) == set(range(len(a)))
    assert alone_b | set(found.pairs[:, 1].tolist()) == set(range(len(b)))


@pytest.mark.parametrize("place", [0.0, 250_000.375])
def test_identical_outlines_overlap_by_exactly_one(place: float) -> None:
    a = outlines([np.round(ring + place, 3) for ring in stars(300, 2000, seed=3)])
    found = match_outlines(a, a)
    assert (found.iou == 1.0).all()
    assert (found.pairs[:, 0] == found.pairs[:, 1]).all()
    assert len(found.pairs) == 300


@pytest.mark.parametrize(("shift", "iou"), [(0, 1.0), (1, 9 / 11), (3, 7 / 13), (3.3, 6.7 / 13.3)])
def test_a_known_shift(shift: float, iou: float) -> None:
    found = match_outlines(outlines([SQUARE]), outlines([moved(shift)]))
    assert found.pairs.tolist() == [[0, 0]]
    assert found.iou[0] == pytest.approx(iou, abs=1e-6)


def test_half_is_not_enough_and_a_stricter_measure_asks_for_more() -> None:
    half = outlines([SQUARE * (0.5, 1)])
    assert match_outlines(outlines([SQUARE]), half).only_a.tolist() == [0]
    third = outlines([moved(2)])
    assert len(match_outlines(outlines([SQUARE]), third, 0.6).pairs) == 1
    assert len(match_outlines(outlines([SQUARE]), third, 0.7).pairs) == 0
    with pytest.raises(InvalidRequest, match=r"not 0\.4"):
        match_outlines(half, half, 0.4)


def test_a_set_that_overlaps_itself_gives_each_outline_one_partner() -> None:
    doubled = outlines([SQUARE, moved(1), moved(1)])
    found = match_outlines(outlines([moved(1), SQUARE]), doubled)
    assert found.pairs.tolist() == [[0, 1], [1, 0]]
    assert found.iou.tolist() == [1.0, 1.0]
    assert found.only_b.tolist() == [2]
    many = outlines([SQUARE] * 50)
    assert len(match_outlines(many, many).pairs) == 50


def test_holes_are_not_area() -> None:
    hole = SQUARE * 0.8 + 1
    points, rings = np.concatenate([SQUARE, hole]), np.array([0, 4, 8])
    holed = OutlineSet.of(points, rings, np.array([0, 2]), np.array([False, True]))
    assert holed.area.tolist() == pytest.approx([36])
    assert match_outlines(holed, holed).iou.tolist() == [1.0]
    assert len(match_outlines(holed, outlines([SQUARE])).pairs) == 0
    # Two parts of one outline against the two squares that they are.
    parts = OutlineSet.of(np.concatenate([SQUARE, SQUARE + 20]), rings, np.array([0, 2]), np.zeros(2, bool))
    assert parts.area.tolist() == [200]
    assert len(match_outlines(parts, outlines([SQUARE, SQUARE + 20])).pairs) == 0
    assert match_outlines(parts, parts).iou.tolist() == [1.0]


def test_one_giant_among_many_and_nothing_at_all() -> None:
    small = [ring * 0.1 for ring in stars(200, 100_000, seed=5)]
    a = outlines([*small, SQUARE * 10_000])
    assert (match_outlines(a, a).iou == 1.0).all()
    nothing = outlines([])
    assert match_outlines(nothing, a).only_b.size == 201
    assert match_outlines(a, nothing).only_a.size == 201
    assert match_outlines(nothing, nothing).pairs.shape == (0, 2)


def test_joined_sets_are_one() -> None:
    rings = stars(60, 200, seed=9)
    joined = OutlineSet.joined([outlines(rings[:20]), outlines([]), outlines(rings[20:])])
    whole = outlines(rings)
    assert len(joined) == 60
    for index in range(60):
        assert np.array_equal(joined.rings(index)[0], whole.rings(index)[0])
    assert (match_outlines(joined, whole).pairs == np.arange(60)[:, None]).all()
    assert len(OutlineSet.joined([])) == 0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 9)] * 2), max_size=12), st.integers(0, 9))
def test_rectangles_match_as_their_pixels_do(boxes: list[tuple[int, int, int, int]], seed: int) -> None:
    """Outlines along the edges of pixels have the area of the pixels."""
    random = np.random.default_rng(seed)
    images, sets = [], []
    for _ in range(2):
        labels, rings = np.zeros((42, 42), np.int32), []
        for left, top, width, height in boxes:
            x, y = left + int(random.integers(0, 3)), top + int(random.integers(0, 3))
            if labels[y : y + height, x : x + width].any():
                continue
            labels[y : y + height, x : x + width] = len(rings) + 1
            rings.append(np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]], float))
        images.append(labels)
        sets.append(outlines(rings))
    by_pixels, by_outlines = match(*images), match_outlines(*sets)
    assert (by_pixels.pairs - 1).tolist() == by_outlines.pairs.tolist()
    np.testing.assert_allclose(by_pixels.iou, by_outlines.iou, atol=1e-9)
    assert (by_pixels.only_a - 1).tolist() == by_outlines.only_a.tolist()
    assert (by_pixels.only_b - 1).tolist() == by_outlines.only_b.tolist()
