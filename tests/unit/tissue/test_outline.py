"""A drawn outline says of every point whether it is tissue, refuses what is no area, and is a mask when drawn."""

from __future__ import annotations

import itertools
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import InvalidTissue, NotFound
from microtome.tissue import edges
from microtome.tissue import outline as outlines
from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.outline import TissueOutline, load_outline, read_outline
from microtome.tissue.polygons import geojson
from microtome.tissue.store import outline_of, save_outline

WIDTH, HEIGHT = 1000, 800


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]


def polygon(*rings: list[list[float]]) -> dict[str, Any]:
    return {"type": "Polygon", "coordinates": list(rings)}


def feature(geometry: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}


def zigzag(teeth: int, height: float) -> list[list[float]]:
    """A ring up and down so often, across the slide."""
    ring = [[round(WIDTH * at / teeth, 2), -1.0 if at % 2 else height] for at in range(teeth)]
    return [*ring, [WIDTH, -2.0], ring[0]]


def nested(depth: int) -> dict[str, Any]:
    """Features in features."""
    inner = polygon(square(0, 0, 100))
    for _ in range(depth):
        inner = {"type": "FeatureCollection", "features": [inner]}
    return inner


def empty_mask(bits_across: int = 250) -> TissueMask:
    downsample = WIDTH / bits_across
    bits = np.zeros((round(HEIGHT / downsample), bits_across), np.bool_)
    return TissueMask(bits, WIDTH, HEIGHT, (downsample, downsample), 2.0, 0.1, TissueParameters(), ())


def read(document: object) -> TissueOutline:
    return read_outline(document, WIDTH, HEIGHT)


RINGS = st.lists(
    st.tuples(st.integers(-50, WIDTH + 50), st.integers(-50, HEIGHT + 50)), min_size=3, max_size=9, unique=True
)


@given(RINGS, st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=80)
def test_points_area_and_mask_agree_with_geometry_by_others(ring: list[tuple[int, int]], seed: int) -> None:
    shape = shapely.Polygon(ring)
    if not shape.is_valid or shape.area < 50:
        return
    on_slide = shape.intersection(shapely.box(0, 0, WIDTH, HEIGHT))
    closed = [list(map(float, point)) for point in [*ring, ring[0]]]
    if on_slide.area < 1:
        with pytest.raises(InvalidTissue, match="nothing of it lies on the slide"):
            read(polygon(closed))
        return
    outline = read(polygon(closed))
    assert outline.area_px((0, 0, WIDTH, HEIGHT)) == pytest.approx(on_slide.area, rel=0.01, abs=2)
    box = (WIDTH * 0.3, HEIGHT * 0.25, WIDTH * 0.7, HEIGHT * 0.9)
    assert outline.area_px(box) == pytest.approx(on_slide.intersection(shapely.box(*box)).area, rel=0.01, abs=2)
    x, y = np.random.default_rng(seed).uniform(0, 1, (2, 300)) * [[WIDTH], [HEIGHT]]
    assert np.array_equal(outline.holds(x, y), shapely.contains_xy(shape, x, y))
    mask = outline.drawn(empty_mask())
    down, across = np.mgrid[0 : mask.bits.shape[0], 0 : mask.bits.shape[1]] * 4.0 + 2.0
    expected = outline.holds(across.ravel(), down.ravel()).reshape(mask.bits.shape)
    assert np.array_equal(mask.bits, expected)
    touched = outline.touched(empty_mask()).bits
    assert not (mask.bits & ~touched).any()
    inside = outline.holds(x, y)
    assert touched[(y[inside] / 4).astype(int), (x[inside] / 4).astype(int)].all()


@given(st.sets(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_outlines_that_partition_a_slide_partition_its_points(cuts: set[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    heights = (0, 300, 500, HEIGHT)
    lines = [[(100 * cut + int(random.integers(-30, 30)), y) for y in heights] for cut in sorted(cuts)]
    lines = [[(0, y) for y in heights], *lines, [(WIDTH, y) for y in heights]]
    parts = [
        TissueOutline(((np.array([*left, *reversed(right), left[0]], np.float64),),))
        for left, right in itertools.pairwise(lines)
    ]
    # Points on the cuts themselves as well.
    corners = np.array([point for line in lines for point in line], np.float64)
    x = np.concatenate([random.uniform(0, WIDTH, 200), corners[:, 0]])
    y = np.concatenate([random.uniform(0, HEIGHT, 200), corners[:, 1]])
    counts = np.sum([part.holds(x, y) for part in parts], axis=0)
    assert np.array_equal(counts, (x < WIDTH) & (y < HEIGHT))


def test_holes_overlaps_and_order() -> None:
    holed = polygon(square(100, 100, 200), square(150, 150, 50))
    other = polygon(square(250, 250, 100))
    one = read({"type": "FeatureCollection", "features": [feature(holed), feature(other)]})
    two = read({"type": "MultiPolygon", "coordinates": [other["coordinates"], holed["coordinates"]]})
    assert one.sha256 == two.sha256
    assert len(one.polygons) == 2
    assert one.vertices == 15
    assert load_outline(one.document).sha256 == one.sha256
    # 200² less the hole, and the other square less what both cover.
    assert one.area_px((0, 0, WIDTH, HEIGHT)) == pytest.approx(200**2 - 50**2 + 100**2 - 50**2, rel=0.01)
    x, y = np.array([160.0, 120.0, 320.0, 290.0, 900.0]), np.array([160.0, 120.0, 320.0, 290.0, 50.0])
    assert one.holds(x, y).tolist() == [False, True, True, True, False]
    assert one.holds(np.empty(0), np.empty(0)).size == 0
    bow = read(polygon([[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]))
    assert bow.area_px((0, 0, WIDTH, HEIGHT)) == pytest.approx(5000, rel=0.01)


def test_what_reaches_beyond_the_slide_counts_as_far_as_it_is_on_it() -> None:
    outline = read(polygon(square(900, 700, 400)))
    assert outline.area_px((0, 0, WIDTH, HEIGHT)) == pytest.approx(100 * 100, rel=0.001)
    assert int(outline.drawn(empty_mask()).bits.sum()) * 16 == 100 * 100


def test_a_mask_as_polygons_is_the_same_mask_when_it_is_drawn_again() -> None:
    bits = np.random.default_rng(5).random((200, 250)) < 0.55
    mask = TissueMask(bits, WIDTH, HEIGHT, (4.0, 4.0), 2.0, 0.1, TissueParameters(), ())
    limit = outlines.MAX_VERTICES, outlines.MAX_POLYGONS, outlines.MAX_BYTES
    outlines.MAX_VERTICES, outlines.MAX_POLYGONS, outlines.MAX_BYTES = (10**6,) * 3
    try:
        again = read(json.loads(geojson(mask)))
    finally:
        outlines.MAX_VERTICES, outlines.MAX_POLYGONS, outlines.MAX_BYTES = limit
    assert np.array_equal(again.drawn(empty_mask()).bits, bits)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("POLYGON((0 0))", "must be a GeoJSON object"),
        ({"type": "Point", "coordinates": [1, 2]}, "'Point' is no area"),
        ({}, "'None' is no area"),
        ({"type": "FeatureCollection", "features": []}, "there is no polygon"),
        ({"type": "FeatureCollection"}, "a list of features"),
        ({"type": "FeatureCollection", "features": [feature({"type": "LineString"})]}, r"features\[0\].geometry.type"),
        ({"type": "Feature", "geometry": None}, "must be a GeoJSON object"),
        (polygon(), "at least one ring"),
        (polygon(square(0, 0, 9)[:-1]), "not closed"),
        (polygon([[0, 0], [1, 1], [0, 0]]), "not closed"),
        (polygon([[0, 0], [1, "a"], [0, 1], [0, 0]]), r"\[0\]\[1\]: a point is"),
        (polygon([[0, 0], [1], [0, 1], [0, 0]]), r"\[0\]\[1\]: a point is"),
        (polygon([[0, 0], [1, True], [0, 1], [0, 0]]), r"\[0\]\[1\]: a point is"),
        (polygon([[0, 0], [1, math.nan], [0, 1], [0, 0]]), "finite"),
        (polygon([[0, 0], [1, math.inf], [0, 1], [0, 0]]), "finite"),
        (polygon([[0, 0], [1, 1e300], [0, 1], [0, 0]]), "finite"),
        (polygon([[0, 0], [1, 10**400], [0, 1], [0, 0]]), "finite"),
        (polygon([[0, 0], [1, -(10**400)], [0, 1], [0, 0]]), "finite"),
        (nested(20), "more than 16 deep"),
        (polygon(zigzag(2_009, 1_000)), "times across the slide"),
        (polygon(zigzag(39_996, 700)), "times across the slide"),
        (polygon(zigzag(39_996, 1e7)), "times across the slide"),
        (polygon([[y, x] for x, y in zigzag(39_996, 1e7)]), "times across the slide"),
        (polygon(square(2000, 2000, 50)), "nothing of it lies on the slide"),
        (polygon([[5, 5], [5, 5], [5, 5], [5, 5]]), "nothing of it lies on the slide"),
        ({"type": "Polygon", "coordinates": "abc"}, "list of rings"),
        (polygon([[math.cos(a / 4000), math.sin(a / 4000)] for a in range(45_000)]), "points are more than"),
        ({"type": "MultiPolygon", "coordinates": [[square(1, 1, 5)]] * 5_001}, "polygons are more than"),
    ],
)
def test_what_is_no_area_is_refused_with_what_to_do(document: object, says: str) -> None:
    with pytest.raises(InvalidTissue, match=says):
        read(document)


@pytest.mark.parametrize(
    "ring",
    [
        # Longer than is taken.
        zigzag(6_001, HEIGHT),
        [[y, x] for x, y in zigzag(6_001, HEIGHT)],
        zigzag(30_001, 9.0),
        square(-1e7, -1e7, 2e7),
        square(-9e6, 300.5, 1e7),
    ],
    ids=["down", "across", "flat", "square", "beside"],
)
def test_memory_does_not_grow_with_how_far_edges_go(ring: list[list[float]]) -> None:
    outline = TissueOutline(((np.array(ring, np.float64),),))
    bits = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask = TissueMask(bits, WIDTH, HEIGHT, (1.0, 1.0), 2.0, 0.1, TissueParameters(), ())
    tracemalloc.start()
    try:
        outline.length(WIDTH, HEIGHT)
        area = outline.area_px((0, 0, WIDTH, HEIGHT))
        drawn, touched = outline.drawn(mask).bits, outline.touched(mask).bits
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert 0 < area <= WIDTH * HEIGHT * 1.0000001
    assert not (drawn & ~touched).any()


def test_a_large_square_is_the_whole_slide_and_what_lies_around_one_far_off_is_not_touched() -> None:
    assert read(polygon(square(-1e7, -1e7, 2e7))).touched(empty_mask()).bits.all()
    far_off = TissueOutline(((np.array(square(5_000, 5_000, 1e6), np.float64),),))
    assert not far_off.touched(empty_mask()).bits.any()


@given(st.lists(st.tuples(st.integers(-2000, 3000), st.integers(-2000, 3000)), min_size=2, max_size=30))
@settings(deadline=None, max_examples=60)
def test_a_mask_in_small_blocks_is_the_same_mask(points: list[tuple[int, int]]) -> None:
    ring = np.array([*points, (7, 9), points[0]], np.float64)
    outline = TissueOutline(((ring,), (ring[::-1] + 3,)))
    whole, touched = outline.drawn(empty_mask()).bits, outline.touched(empty_mask()).bits
    area = outline.area_px((0, 0, WIDTH, HEIGHT))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(edges, "_STEPS_AT_ONCE", 40)
        patch.setattr(edges, "_LINES_AT_ONCE", 7)
        assert np.array_equal(outline.drawn(empty_mask()).bits, whole)
        assert np.array_equal(outline.touched(empty_mask()).bits, touched)
        assert outline.area_px((0, 0, WIDTH, HEIGHT)) == pytest.approx(area, rel=1e-9, abs=1e-6)


def test_an_outline_is_kept_once_beside_its_slide_and_known_by_its_digest(tmp_path: Path) -> None:
    outline, slide = read(polygon(square(10, 20, 300.5))), tmp_path / "slide.tif"
    save_outline(outline, slide)
    (path,) = tmp_path.rglob("*.geojson")
    first = path.stat().st_mtime_ns
    save_outline(outline, slide)
    assert path.stat().st_mtime_ns == first
    assert outline_of(slide, outline.sha256).document == outline.document
    path.write_bytes(outline.document[:-9])
    with pytest.raises(NotFound, match="damaged"):
        outline_of(slide, outline.sha256)
    save_outline(outline, slide)
    assert outline_of(slide, outline.sha256).sha256 == outline.sha256
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(NotFound, match="gone"):
        outline_of(slide, "0" * 64)
    with pytest.raises(FileNotFoundError):
        save_outline(outline, tmp_path / "no such slide" / "slide.tif")
