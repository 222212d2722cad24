"""Measurements of cells: against shapely on the outlines, against scikit-image and numpy on real tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from PIL import Image
from skimage import color, measure, morphology

from microtome.errors import InvalidRequest
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.measuring import MEASUREMENTS, in_micrometres, measure_cells, measurements_of
from microtome.segmentation.stains import HDAB, HE, Stain, stain_named

ROOT = Path(__file__).parents[3]
CROP = ROOT / "tests" / "data" / "cmu-1-small-region-crop.jpg"
LABELLED = ROOT.parent / "shared" / "data" / "labelled" / "tnbc"
MPP = 0.5
COLUMN = {each.column: index for index, each in enumerate(MEASUREMENTS)}


@dataclass(frozen=True, eq=False)
class Measured:
    """Real nuclei: pixels, label image, what was measured, outlines in pixels, and scikit-image's view of them."""

    pixels: np.ndarray
    labels: np.ndarray
    table: np.ndarray
    polygons: list[shapely.Polygon]
    regions: list[Any]

    def column(self, name: str) -> np.ndarray:
        return self.table[:, COLUMN[name]].astype(np.float64)


def measured(
    labels: np.ndarray, pixels: np.ndarray, stain: Stain = HE, mpp: float = MPP
) -> tuple[np.ndarray, list[shapely.Polygon]]:
    """Measurements of all labels in ascending order, float32 [n, k], and outlines in pixels."""
    labels = np.ascontiguousarray(labels, np.int32)
    regions = measure.regionprops(labels)
    names, box = np.array([r.label for r in regions], np.int32), np.array([r.bbox for r in regions], np.int32)
    area, offsets, points = trace_contours(labels, names, box)
    table = in_micrometres(measure_cells(labels, names, box, area, offsets, points, pixels, stain), mpp)
    return table, [shapely.Polygon(ring) for ring in np.split(points / 2, offsets[1:-1])]


def of_one_piece(labels: np.ndarray, smallest: int = 20) -> np.ndarray:
    """The labels that scikit-image sees as we do: one 8-connected piece without holes; others become background."""
    kept = np.zeros_like(labels)
    for region in measure.regionprops(labels):
        if region.area >= smallest and region.euler_number == 1:
            kept[region.slice][region.image] = region.label
    return kept


@pytest.fixture(scope="module", params=["crop", "01_1", "03_2", "05_1"])
def nuclei(request: pytest.FixtureRequest) -> Measured:
    """Nuclei of real H&E tiles: hand-drawn ones, and dark blobs of the crop in this repository."""
    if request.param == "crop":
        pixels = np.asarray(Image.open(CROP).convert("RGB"))[:512, :512]
        dark = morphology.opening(HE.densities(pixels)[..., 0] > 0.25, morphology.disk(2))
        labels = measure.label(dark, connectivity=2)
    else:
        image = LABELLED / "images" / f"{request.param}.png"
        if not image.is_file():
            pytest.skip(f"no {image}: the labelled sets are not here")
        pixels = np.asarray(Image.open(image).convert("RGB"))
        labels = np.asarray(Image.open(LABELLED / "labels" / image.name))
    labels = of_one_piece(labels.astype(np.int32))
    table, polygons = measured(labels, pixels)
    assert len(polygons) >= 20
    return Measured(pixels, labels, table, polygons, measure.regionprops(labels))


def test_shapes_are_those_of_the_delivered_polygon(nuclei: Measured) -> None:
    area = np.array([p.area for p in nuclei.polygons])
    length = np.array([p.length for p in nuclei.polygons])
    expected = {
        "area_um2": area * MPP**2,
        "perimeter_um": length * MPP,
        "circularity": 4 * math.pi * area / length**2,
        "solidity": area / np.array([p.convex_hull.area for p in nuclei.polygons]),
        "max_diameter_um": 2 * MPP * np.array([shapely.minimum_bounding_radius(p) for p in nuclei.polygons]),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(nuclei.column(name), values, rtol=1e-6, err_msg=name)


def test_the_smallest_diameter_is_the_smallest_width_of_all_directions(nuclei: Measured) -> None:
    angles = np.linspace(0, np.pi, 3600, endpoint=False)
    directions = np.stack([np.cos(angles), np.sin(angles)])
    for polygon, smallest in zip(nuclei.polygons, nuclei.column("min_diameter_um"), strict=True):
        along = shapely.get_coordinates(polygon) @ directions
        widths = along.max(axis=0) - along.min(axis=0)
        # Between two of the tried directions the width grows by at most length · angle.
        slack = MPP * (along.max() - along.min()) * np.pi / 3600
        assert smallest - 1e-5 <= MPP * widths.min() <= smallest + slack


def test_shapes_agree_with_scikit_image(nuclei: Measured) -> None:
    """Where the definitions differ, by what the difference is."""
    area = np.array([r.area for r in nuclei.regions])
    # The outline goes through the middles of edges: it cuts half a pixel off a whole object, and gives back a quarter
    # where two pixels touch at a corner only.
    assert np.abs(nuclei.column("area_um2") / MPP**2 - area).max() <= 1.0 + 0.005 * area.max()
    assert np.median(nuclei.column("area_um2") / MPP**2 - area) == pytest.approx(-0.5, abs=0.01)
    # Crofton's estimate with four directions corrects by a constant for what steps of 45° are longer than a curve.
    steps = 8 * (math.sqrt(2) - 1) / math.pi
    crofton = np.array([r.perimeter_crofton for r in nuclei.regions])
    ratio = nuclei.column("perimeter_um") / MPP / crofton
    assert np.median(ratio) == pytest.approx(steps, rel=1e-5)
    assert np.abs(ratio / steps - 1).max() < 0.05
    # scikit-image fills the hull with whole pixels.
    solidity = np.array([r.solidity for r in nuclei.regions])
    assert np.abs(nuclei.column("solidity") - solidity).max() < 0.04
    # The largest distance of two points is at most the smallest circle's diameter, and at least √3/2 of it.
    feret = np.array([r.feret_diameter_max for r in nuclei.regions])
    assert np.median(np.abs(nuclei.column("max_diameter_um") / MPP / feret - 1)) < 0.02
    ours = [shapely.distance(*_farthest(p)) for p in nuclei.polygons]
    ratio = nuclei.column("max_diameter_um") / MPP / np.array(ours)
    assert ratio.min() > 1 - 1e-6
    assert ratio.max() < 2 / math.sqrt(3) + 1e-6


def _farthest(polygon: shapely.Polygon) -> tuple[shapely.Point, shapely.Point]:
    corners = shapely.get_coordinates(polygon)
    distance = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    a, b = np.unravel_index(distance.argmax(), distance.shape)
    return shapely.Point(corners[a]), shapely.Point(corners[b])


def test_densities_are_those_of_scikit_image(nuclei: Measured) -> None:
    """It scales by the darkest value that it tells apart, 10⁻⁶, and cuts below zero."""
    light = np.maximum(nuclei.pixels, 1)
    theirs = 6 * color.separate_stains(light, np.linalg.inv(HE.matrix()))[..., :2]
    np.testing.assert_allclose(np.maximum(HE.densities(nuclei.pixels), 0), theirs, atol=1e-12)


def test_dyes_are_the_statistics_of_the_mask(nuclei: Measured) -> None:
    densities = HE.densities(nuclei.pixels)
    for dye, name in enumerate(("hematoxylin", "eosin")):
        for row, region in enumerate(nuclei.regions):
            values = densities[nuclei.labels == region.label][:, dye]
            expected = (values.mean(), np.median(values), values.min(), values.max(), values.std(ddof=1))
            found = [nuclei.table[row, COLUMN[f"{name}_od_{what}"]] for what in ("mean", "median", "min", "max", "std")]
            np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


def test_numbers_do_not_depend_on_the_place(nuclei: Measured) -> None:
    """Not in the last bit: what a tile measures is what the untiled run measures."""
    labels = np.pad(nuclei.labels, ((37, 5), (1003, 11)))
    pixels = np.pad(nuclei.pixels, ((37, 5), (1003, 11), (0, 0)))
    assert measured(labels, pixels)[0].tobytes() == nuclei.table.tobytes()


def test_known_shapes() -> None:
    y, x = np.mgrid[:80, :80]
    labels = np.zeros((80, 80), np.int32)
    labels[(y - 25) ** 2 + (x - 25) ** 2 <= 20.5**2] = 1
    labels[60:70, 10:40] = 2
    pixels = np.full((80, 80, 3), 200, np.uint8)
    (disc, block), _ = measured(labels, pixels, mpp=0.25)
    assert disc[COLUMN["area_um2"]] == pytest.approx(math.pi * 20.5**2 / 16, rel=0.01)
    assert disc[COLUMN["max_diameter_um"]] == pytest.approx(41 / 4, rel=0.02)
    assert disc[COLUMN["min_diameter_um"]] == pytest.approx(41 / 4, rel=0.02)
    assert 0.88 < disc[COLUMN["circularity"]] < 0.92
    assert disc[COLUMN["solidity"]] > 0.98
    # A block without its four corners, each half a pixel wide and high.
    assert block[COLUMN["area_um2"]] == np.float32((300 - 0.5) / 16)
    assert block[COLUMN["perimeter_um"]] == pytest.approx((2 * (29 + 9) + 4 * math.sqrt(0.5)) / 4)
    assert block[COLUMN["min_diameter_um"]] == 2.5
    assert block[COLUMN["max_diameter_um"]] == pytest.approx(math.hypot(30, 9) / 4)
    assert block[COLUMN["solidity"]] == 1.0


def test_the_smallest_and_strangest_objects() -> None:
    labels = np.zeros((12, 40), np.int32)
    labels[1, 1] = 1
    labels[3, 3:9] = 2
    np.fill_diagonal(labels[5:11, 12:18], 3)
    # A ring, a piece in it, and a smaller piece apart: neither belongs to the outline.
    labels[1:8, 20:27], labels[2:7, 21:26], labels[4, 23], labels[10, 30] = 4, 0, 4, 4
    pixels = np.full((12, 40, 3), 100, np.uint8)
    pixels[4, 23] = pixels[10, 30] = 0
    table, polygons = measured(labels, pixels)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(table[:, COLUMN["area_um2"]], [p.area * MPP**2 for p in polygons], rtol=1e-6)
    assert table[0, COLUMN["area_um2"]] == 0.5 * MPP**2
    assert (table[:, COLUMN["hematoxylin_od_std"]] < 1e-12).all()
    expected = HE.densities(pixels[:1, :1])[0, 0]
    for name, value in zip(("hematoxylin", "eosin"), expected, strict=True):
        for what in ("mean", "median", "min", "max"):
            np.testing.assert_allclose(table[:, COLUMN[f"{name}_od_{what}"]], value, rtol=1e-6)


def test_an_object_without_a_pixel_is_not_measured() -> None:
    labels = np.zeros((4, 4), np.int32)
    name, box = np.array([1], np.int32), np.array([[0, 0, 4, 4]], np.int32)
    area, offsets, points = trace_contours(labels, name, box)
    table = measure_cells(labels, name, box, area, offsets, points, np.zeros((4, 4, 3), np.uint8), HE)
    assert np.isnan(table).all()


def test_without_a_pixel_size_there_are_no_lengths() -> None:
    table, _ = measured(np.ones((9, 9), np.int32), np.full((9, 9, 3), 100, np.uint8))
    unknown = in_micrometres(table, None)
    for index, each in enumerate(MEASUREMENTS):
        assert np.isnan(unknown[0, index]) == each.unit.startswith("µm")
        assert each.unit.startswith("µm") or unknown[0, index] == table[0, index]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 64, 65, 1000, 5001])
def test_medians_of_any_number_of_values(count: int) -> None:
    random = np.random.default_rng(count)
    pixels = random.choice([0, 3, 128, 129, 250, 255], (1, count, 3)).astype(np.uint8)
    pixels[random.random((1, count)) < 0.4] = 77
    (row,), _ = measured(np.ones((1, count), np.int32), pixels, HDAB)
    values = HDAB.densities(pixels)[0]
    np.testing.assert_allclose(row[[7, 12]], np.median(values, axis=0), rtol=1e-6)


def test_stains() -> None:
    # Unit vectors as QuPath prints its defaults.
    np.testing.assert_allclose(HE.matrix()[:2], [[0.65111, 0.70119, 0.29049], [0.2159, 0.8012, 0.5581]], atol=5e-5)
    np.testing.assert_allclose(HDAB.matrix()[1], [0.26917, 0.56824, 0.77759], atol=5e-6)
    for stain in (HE, HDAB):
        assert np.abs(stain.matrix()[2] @ stain.matrix()[:2].T).max() < 1e-12
        # White has no dye, black is finite, and a colour made of a dye has that much of it and nothing of the other.
        white, black = stain.densities(np.array([[[255] * 3, [0] * 3]], np.uint8))[0]
        assert (white == 0).all()
        assert np.isfinite(black).all()
        colour = np.round(255 * 10.0 ** -(0.3 * stain.matrix()[0] + 0.2 * stain.matrix()[1])).astype(np.uint8)
        np.testing.assert_allclose(stain.densities(colour[None, None])[0, 0], [0.3, 0.2], atol=0.01)
        assert stain_named(stain.key) is stain
    with pytest.raises(InvalidRequest, match="'pas'"):
        stain_named("pas")


def test_names_are_those_that_qupath_shows() -> None:
    names = [each.name for each in measurements_of(HDAB)]
    assert names[:6] == ["Area µm^2", "Length µm", "Circularity", "Solidity", "Max diameter µm", "Min diameter µm"]
    assert names[10:13] == ["Hematoxylin: Std.Dev.", "DAB: Mean", "DAB: Median"]
    # The micro sign that QuPath writes, not the Greek letter.
    assert "\u00b5" in names[0]
    for stain in (HE, HDAB):
        columns = [each.column for each in measurements_of(stain)]
        assert len(set(columns)) == len(columns) == len(MEASUREMENTS)
        assert all(column.isascii() and column.isidentifier() and column.islower() for column in columns)
