"""From model pixels to the slide: coordinates, order, ids and areas."""

from __future__ import annotations

import itertools
import uuid

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from shapely import Polygon, box

from microtome.artifacts.hilbert import hilbert_index
from microtome.artifacts.making import along_curve
from microtome.artifacts.outlines import cell_ids, outlines
from microtome.segmentation.grid import Grid
from microtome.segmentation.measuring import in_micrometres
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of

SCALES = [1.0, 2.0, 4.0, 1.9803, 0.75]


@pytest.mark.parametrize("scale", SCALES)
def test_outlines_cover_the_pixels_they_stand_for(scale: float) -> None:
    labels = discs()
    cells = outlines(tile_of(labels, x=1000, y=500), scale, KEY)
    assert len(cells) == 40
    for index in range(len(cells)):
        polygon = Polygon(cells.ring(index))
        name = labels[cells.seed_y[index] - 500, cells.seed_x[index] - 1000]
        rows, columns = np.nonzero(labels == name)
        assert polygon.is_valid
        # Each pixel covers [x, x + 1) times the scale on the slide; the outline passes through the middles of edges.
        left, top = (columns.min() + 1000) * scale, (rows.min() + 500) * scale
        right, bottom = (columns.max() + 1001) * scale, (rows.max() + 501) * scale
        assert polygon.bounds == pytest.approx((left, top, right, bottom), abs=0.001)
        assert cells.area[index] == pytest.approx(len(rows) * scale**2)
        # Each corner that is cut takes an eighth of a pixel, each that is filled gives one; there are four more cuts.
        assert polygon.area == pytest.approx((len(rows) - 0.5) * scale**2, abs=0.01 * scale * len(cells.ring(index)))


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.int32, (12, 12), elements=st.integers(0, 1)), st.sampled_from(SCALES))
def test_any_shape_becomes_one_valid_polygon_of_known_area(labels: np.ndarray, scale: float) -> None:
    pieces, count = ndimage.label(labels, np.ones((3, 3)))
    cells = outlines(tile_of(labels), scale, KEY)
    if count == 0:
        assert len(cells) == 0
        return
    largest = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:]))
    polygon = Polygon(cells.ring(0))
    assert polygon.is_valid
    assert cells.area[0] == pytest.approx(largest.sum() * scale**2)
    filled = ndimage.binary_fill_holes(largest).sum()
    assert polygon.area == pytest.approx((filled - 0.5) * scale**2, abs=0.05)


def test_cells_lie_along_a_hilbert_curve() -> None:
    cells = outlines(tile_of(discs()), 2.0, KEY)
    order = hilbert_index(cells.seed_x.astype(np.int64), cells.seed_y.astype(np.int64), 31)
    assert (np.diff(order) > 0).all()


def test_tiles_lie_along_the_curve_too() -> None:
    tiles = list(Grid(8 * 256, 8 * 256, 256, 0).tiles())
    curve = along_curve(tiles)
    assert curve == along_curve(tiles[::-1])
    assert {(tile.row, tile.column) for tile in curve} == {(row, column) for row in range(8) for column in range(8)}
    steps = [abs(a.row - b.row) + abs(a.column - b.column) for a, b in itertools.pairwise(curve)]
    assert set(steps) == {1}


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_the_hilbert_curve_visits_each_place_once_in_single_steps(order: int) -> None:
    side = 1 << order
    y, x = (places.ravel().astype(np.int64) for places in np.mgrid[:side, :side])
    index = hilbert_index(x, y, order)
    assert np.array_equal(np.sort(index), np.arange(side * side))
    path = np.argsort(index)
    assert (np.abs(np.diff(x[path])) + np.abs(np.diff(y[path])) == 1).all()
    assert (x[path[0]], y[path[0]]) == (0, 0)


def test_the_hilbert_curve_reaches_the_largest_slide() -> None:
    far = np.array([2**31 - 1], np.int64)
    assert hilbert_index(far, np.zeros(1, np.int64), 31)[0] == 2**62 - 1


def as_text(ids: np.ndarray) -> list[str]:
    return [row.tobytes().decode() for row in ids]


seeds = st.lists(st.tuples(st.integers(0, 2**28 - 1), st.integers(0, 2**28 - 1)), unique=True, max_size=50)


@settings(deadline=None)  # The first one compiles.
@given(seeds, st.text("0123456789abcdef", min_size=64, max_size=64))
def test_ids_are_uuids_one_for_each_seed(places: list[tuple[int, int]], key: str) -> None:
    x, y = np.array(places, np.int32).reshape(-1, 2).T
    ids = as_text(cell_ids(key, x, y))
    assert len(set(ids)) == len(places)
    for id_ in ids:
        parsed = uuid.UUID(id_)
        assert str(parsed) == id_
        assert parsed.version == 8
        assert parsed.variant == uuid.RFC_4122
    assert as_text(cell_ids(key, x[::-1], y[::-1])) == ids[::-1]
    for (place_x, place_y), id_ in zip(places, ids, strict=True):
        assert int(id_.replace("-", "")[-15:], 16) == (place_x << 28 | place_y) & (1 << 60) - 1
        assert id_.replace("-", "").startswith(key[:12] + "8" + key[12:15])


def test_ids_of_other_content_are_other_ids() -> None:
    x = y = np.arange(100, dtype=np.int32)
    assert not set(as_text(cell_ids(KEY, x, y))) & set(as_text(cell_ids("f" + KEY[1:], x, y)))


def test_a_tile_without_cells_has_outlines_of_none() -> None:
    cells = outlines(tile_of(np.zeros((8, 8), np.int32)), 2.0, KEY)
    assert len(cells) == 0
    assert cells.ids == []
    assert cells.lower.shape == cells.upper.shape == cells.centroid.shape == (0, 2)
    assert cells.points.shape == (0, 2)
    assert cells.offsets.tolist() == [0]


def test_bounds_are_those_of_the_polygons() -> None:
    cells = outlines(tile_of(discs()), 1.9803, KEY)
    for index in range(len(cells)):
        assert box(*cells.lower[index], *cells.upper[index]).equals(Polygon(cells.ring(index)).envelope)


@pytest.mark.parametrize("scale", SCALES)
def test_centres_are_those_of_the_polygons_wherever_they_lie(scale: float) -> None:
    """Also at the far end of the largest slide, where a float of the position has few digits to spare."""
    far = 2**27
    for x, y in ((0, 0), (far, far)):
        cells = outlines(tile_of(discs(), x, y), scale, KEY)
        for index in range(len(cells)):
            here = cells.ring(index) - cells.ring(index)[0]
            centre = Polygon(here).centroid
            expected = cells.ring(index)[0] + (centre.x, centre.y)
            assert np.abs(cells.centroid[index] - expected).max() < 0.002


def test_measurements_stay_with_their_cells() -> None:
    tile = tile_of(discs())
    cells = outlines(tile, 2.0, KEY, mpp=0.25)
    expected = in_micrometres(tile.measurements, 0.5)
    of_seed = {(x, y): row for x, y, row in zip(tile.seed_x.tolist(), tile.seed_y.tolist(), expected, strict=True)}
    for x, y, row in zip(cells.seed_x.tolist(), cells.seed_y.tolist(), cells.measured, strict=True):
        assert np.array_equal(row, of_seed[x, y])
    assert cells.measurements[0].column == "area_um2"
    for index in range(len(cells)):
        area = Polygon(cells.ring(index)).area * 0.25**2
        assert cells.measured[index, 0] == pytest.approx(area, rel=1e-5)
