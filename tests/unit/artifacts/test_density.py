"""The density map: counts by area, and pictures that say what they show."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from microtome.artifacts.density import MOST_BINS, CellCounts
from microtome.artifacts.outlines import outlines
from microtome.artifacts.preview import side_by_side
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of


def counted(width: int, height: int, mpp: float | None, scale: float = 2.0) -> CellCounts:
    counts = CellCounts(width, height, mpp)
    for x, y in ((0, 0), (256, 0), (256, 256)):
        counts.append(outlines(tile_of(discs(seed=x + y + 1), x, y), scale, KEY))
    return counts


def test_every_cell_is_counted_once_by_the_area_of_its_bin() -> None:
    # 0.5 µm: bins of 100 µm are 200 pixels; the last column has 100 of them, the last row 24.
    density = counted(1100, 1024, 0.5).density()
    assert density.values.shape == (6, 6)
    assert (density.unit, density.edge, density.step) == ("cells/mm2", 100.0, 200.0)
    across, down = np.array([200] * 5 + [100]), np.array([200] * 5 + [24])
    cells = density.values * np.outer(down, across) * 0.25 / 1e6
    assert cells.sum() == pytest.approx(120)
    assert np.allclose(cells, np.round(cells), atol=1e-4)
    expected = np.zeros((6, 6))
    for x, y in ((0, 0), (256, 0), (256, 256)):
        centres = outlines(tile_of(discs(seed=x + y + 1), x, y), 2.0, KEY).centroid
        np.add.at(expected, tuple((centres[:, ::-1] / 200).astype(int).T), 1)
    assert np.allclose(cells, expected, atol=1e-4)
    # The quarter of the slide without cells.
    assert (density.values[3:, :2] == 0).all()


def test_a_sliver_at_the_edge_is_no_bin_of_its_own() -> None:
    # 5.0007 bins a side: one cell in the last seven ten-thousandths would be 140,000 per mm².
    counts = CellCounts(2202, 2202, 0.2271)
    cells = outlines(tile_of(discs(seed=1), 840, 840), 2.2017, KEY)
    assert len(cells)
    counts.append(cells)
    density = counts.density()
    assert density.values.shape == (5, 5)
    edges = np.array([440.33] * 4 + [2202 - 4 * 440.33])
    assert (density.values * np.outer(edges, edges)).sum() * 0.2271**2 / 1e6 == pytest.approx(len(cells), rel=1e-3)


def test_without_a_pixel_size_densities_are_by_pixels() -> None:
    density = counted(1024, 1024, None).density()
    assert density.unit == "cells/Mpx"
    assert (density.edge, density.edge_unit) == (100.0, "px")
    assert density.values.max() <= 40 * 1e6 / 100**2


@pytest.mark.parametrize(("width", "mpp"), [(1, 0.25), (400_000, 0.25), (10_000_000, 1.0), (90_000, None)])
def test_a_slide_of_any_size_has_a_grid_of_bounded_size(width: int, mpp: float | None) -> None:
    density = CellCounts(width, width // 2 + 1, mpp).density()
    assert 1 <= density.values.shape[1] <= MOST_BINS
    assert density.values.shape[0] <= density.values.shape[1]
    assert not density.values.any()


def test_the_files_say_what_they_hold(tmp_path: Path) -> None:
    density = counted(1100, 1024, 0.5).density()
    density.save_tiff(tmp_path / "density.tif")
    density.save_png(tmp_path / "density.png")
    with tifffile.TiffFile(tmp_path / "density.tif") as file:
        assert np.array_equal(file.asarray(), density.values)
        facts = json.loads(file.pages[0].description)
    assert facts["unit"] == "cells/mm2"
    assert facts["bin_level0_pixels"] == 200
    with Image.open(tmp_path / "density.png") as opened:
        picture = np.asarray(opened.convert("RGB")).astype(int)
    # The map, bin by bin: white where nothing is, darker where more is; under it the bar, from light to dark.
    side = 1024 // 6
    high, wide = round(1024 / 200 * side), round(1100 / 200 * side)
    assert picture.shape[1] == wide, "as wide as the slide, not as so many whole bins"
    down = [*range(side // 2, 5 * side, side), (5 * side + high) // 2]
    across = [*range(side // 2, 5 * side, side), (5 * side + wide) // 2]
    shown = picture[np.ix_(down, across)].sum(axis=2)
    assert shown.shape == density.values.shape
    assert (shown[density.values == 0] == 3 * 255).all()
    some = density.values > 0
    order = np.argsort(density.values[some])
    assert (np.diff(shown[some][order]) <= 12).all()
    bar = picture[high + 34 + 10].sum(axis=1)[16 : wide - 48]
    assert bar[0] > 600 > 200 > bar[-1]
    density.save_tiff(tmp_path / "again.tif")
    density.save_png(tmp_path / "again.png")
    assert (tmp_path / "again.tif").read_bytes() == (tmp_path / "density.tif").read_bytes()
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "density.png").read_bytes()


@pytest.mark.parametrize("height", [300, 80])
def test_pictures_side_by_side_show_each_of_them(height: int) -> None:
    panels = [(name, np.full((height, 200, 3), value, np.uint8)) for name, value in (("a", 10), ("b", 60), ("c", 110))]
    panels[2] = ("c", np.pad(panels[2][1], ((0, 40), (0, 0), (0, 0))))
    combined = side_by_side(panels)
    wide = height == 80
    assert (combined.shape[0] > combined.shape[1]) == wide
    for value in (10, 60, 110):
        assert ((combined == value).all(axis=2)).sum() >= 200 * height
