"""From a slide to its files, without the stack: the merger's part, on results of the real network."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from PIL import Image

from microtome.artifacts.exports import export
from microtome.artifacts.formats import CELL_FORMATS, EVERY_JOBS
from microtome.artifacts.pictures import PREVIEW_PIXELS, THUMBNAIL_PIXELS
from microtome.contracts.messages import JobType
from microtome.slides.reader import SlideReader
from microtome.tissue.mask import ALGORITHM
from microtome.tissue.region import Region
from services.merger.making import make_artifacts
from tests.integration.merge_order import CELL_FILES, FILES, MPP, TISSUE, Segmented


def test_every_cell_is_in_every_file_once(segmented: Segmented, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    result = make_artifacts(segmented.order, tmp_path, lambda tiles, cells: told.append((tiles, cells)))
    assert {path.name for path in tmp_path.iterdir()} == FILES | CELL_FILES
    table = pq.read_table(tmp_path / "cells.parquet")
    seeds = list(zip(table["seed_x"].to_pylist(), table["seed_y"].to_pylist(), strict=True))
    assert len(seeds) == result.cells == len(set(table["id"].to_pylist())) > 100
    assert set(seeds) == segmented.seeds
    features = json.loads((tmp_path / "cells.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == table["id"].to_pylist()
    assert geopandas.read_file(tmp_path / "cells.fgb")["id"].tolist() == table["id"].to_pylist()
    assert pd.read_csv(tmp_path / "cells.csv")["id"].tolist() == table["id"].to_pylist()
    density = tifffile.imread(tmp_path / "density.tif")
    step = 100 / MPP
    down, across = (np.diff([*np.arange(0, size, step), size]) for size in (900, 2600))
    assert (density * np.outer(down, across) * MPP**2 / 1e6).sum() == pytest.approx(result.cells, rel=1e-4)
    assert told[-1] == (result.tiles_processed, result.cells)
    # Once after each tile, and once more now and then while the files close.
    counts = [tiles for tiles, _ in told]
    assert counts[: result.tiles_processed] == list(range(1, result.tiles_processed + 1))
    assert set(told[result.tiles_processed :]) <= {(result.tiles_processed, result.cells)}


def test_what_is_not_chosen_is_exported_later_to_the_byte(segmented: Segmented, tmp_path: Path) -> None:
    every, usual = tmp_path / "every", tmp_path / "usual"
    for target, formats in ((every, CELL_FORMATS), (usual, EVERY_JOBS)):
        target.mkdir()
        make_artifacts(replace(segmented.order, formats=formats), target, lambda _tiles, _cells: None)
    assert {path.name for path in usual.iterdir()} == FILES | CELL_FILES - {"cells.fgb"}
    assert export(usual, "fgb").read_bytes() == (every / "cells.fgb").read_bytes()


def test_outlines_lie_on_the_nuclei_of_the_slide(segmented: Segmented, tmp_path: Path) -> None:
    """The pixels of level 0 inside the outlines are darker than those outside: coordinates are not off by a scale."""
    make_artifacts(segmented.order, tmp_path, lambda _tiles, _cells: None)
    polygons = shapely.from_wkb(pq.read_table(tmp_path / "cells.parquet")["geometry"].to_numpy())
    assert shapely.is_valid(polygons).all()
    reader = SlideReader(segmented.order.slide_path, MPP, MPP)
    red = reader.read(0, 0, reader.width, reader.height)[..., 0]
    centres = shapely.get_coordinates(shapely.centroid(polygons)).astype(int)
    inside = red[centres[:, 1], centres[:, 0]]
    assert np.median(inside) + 30 < np.median(red)
    left, top, right, bottom = shapely.total_bounds(polygons)
    assert min(left, top) >= 0
    # Model pixels that a slide only half fills may reach over its edge by less than one of them.
    assert right <= 2600 + segmented.order.work.scale
    assert bottom <= 900 + segmented.order.work.scale


def test_pictures_and_summary(segmented: Segmented, tmp_path: Path) -> None:
    result = make_artifacts(segmented.order, tmp_path, lambda _tiles, _cells: None)
    sizes = {}
    for name, form in (
        ("tissue_mask.png", "PNG"),
        ("thumbnail.jpg", "JPEG"),
        ("overlay.jpg", "JPEG"),
        ("combined.jpg", "JPEG"),
    ):
        with Image.open(tmp_path / name) as opened:
            opened.load()
            assert opened.format == form
            sizes[name] = opened.size
    assert max(sizes["thumbnail.jpg"]) == THUMBNAIL_PIXELS
    assert max(sizes["overlay.jpg"]) == PREVIEW_PIXELS
    # Three panels, one below the other, as the slide is wide.
    width, height = sizes.pop("combined.jpg")
    assert 1024 <= width < 1040
    assert height > 3 * 1024 * 900 / 2600
    for width, height in sizes.values():
        assert width / height == pytest.approx(2600 / 900, rel=0.02)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [name for name, value in summary.items() if value is None] == ["region"]
    assert summary["cells"] == result.cells
    assert summary["cells_per_mm2"] == pytest.approx(result.cells / summary["tissue_mm2"], rel=1e-3)
    mask = segmented.order.results.mask(TISSUE)
    table = pq.read_table(tmp_path / "cells.parquet", columns=["seed_x", "seed_y"])
    at = [
        ((table[name].to_numpy() + 0.5) * segmented.order.work.scale / step).astype(int)
        for name, step in zip(("seed_x", "seed_y"), mask.downsample, strict=True)
    ]
    outside = ~mask.bits[np.minimum(at[1], mask.bits.shape[0] - 1), np.minimum(at[0], mask.bits.shape[1] - 1)]
    assert summary["cells_outside_tissue"] == outside.sum() < result.cells / 2
    assert summary["tiles_processed"] + summary["tiles_skipped"] == summary["tiles_total"]
    seconds = summary["stage_seconds"]
    assert set(seconds) == {"plan", "decode", "network", "idle", "head", "contours", "measure", "merge"}
    idle = seconds["idle"] / (seconds["idle"] + seconds["network"])
    assert summary["engine_idle_fraction"] == pytest.approx(idle, abs=1e-3)
    assert summary["stain"] == "he"
    # What the tissue was found with: every number of it.
    assert asdict(mask.parameters).items() <= summary["tissue"].items()
    assert (summary["tissue"]["height"], summary["tissue"]["width"]) == mask.bits.shape
    assert summary["tissue"]["algorithm"] == ALGORITHM
    assert summary["tissue_mm2"] == pytest.approx(mask.bits.sum() * (mask.downsample[0] * MPP / 1000) ** 2, rel=1e-4)
    # One shape for all tiles, no halo where the slide ends: whatever the seams, no cell shows them.
    assert summary["seams"]["seam_px"] > 0
    assert summary["seams"]["duplicates"] == 0
    assert all(value >= 0 for value in seconds.values())
    assert any("assumption" in note for note in summary["notes"])
    assert summary["scale"] == segmented.order.work.scale != 1
    assert (summary["width"], summary["height"]) == (2600, 900)


def test_the_same_results_make_the_same_files(segmented: Segmented, tmp_path: Path) -> None:
    once, again = tmp_path / "once", tmp_path / "again"
    for target in (once, again):
        target.mkdir()
        make_artifacts(segmented.order, target, lambda _tiles, _cells: None)
    for path in once.iterdir():
        if path.name != "summary.json":  # which says how long it took
            assert path.read_bytes() == (again / path.name).read_bytes()


def test_regions_that_partition_a_slide_partition_its_cells(segmented: Segmented, tmp_path: Path) -> None:
    """And each cell of a region is the very cell of the whole slide, whatever tile the border runs through."""
    whole = tmp_path / "whole"
    whole.mkdir()
    everything = make_artifacts(segmented.order, whole, lambda _tiles, _cells: None)
    rows = {row["id"]: row for row in pq.read_table(whole / "cells.parquet").to_pylist()}
    found: dict[str, dict[str, object]] = {}
    tissue = 0.0
    for number, (x, width) in enumerate(((0, 777), (777, 1000), (1777, 823))):
        part = tmp_path / str(number)
        part.mkdir()
        region = Region(x, 0, width, 900)
        result = make_artifacts(replace(segmented.order, region=region), part, lambda _tiles, _cells: None)
        mine = pq.read_table(part / "cells.parquet").to_pylist()
        assert result.cells == len(mine) > 10
        assert all(x <= (row["seed_x"] + 0.5) * segmented.order.work.scale < x + width for row in mine)
        assert not found.keys() & {row["id"] for row in mine}
        found |= {row["id"]: row for row in mine}
        tissue += result.tissue_mm2 or 0.0
        summary = json.loads((part / "summary.json").read_text())
        assert summary["region"] == {"x": x, "y": 0, "width": width, "height": 900}
        assert any("part of the slide" in note for note in summary["notes"])
        with Image.open(part / "tissue_mask.png") as picture, Image.open(whole / "tissue_mask.png") as all_of_it:
            assert picture.size == all_of_it.size
    assert found == rows
    assert everything.tissue_mm2 == pytest.approx(tissue, abs=3e-6)


def test_a_tissue_job_on_a_region_tells_the_regions_tissue(segmented: Segmented, tmp_path: Path) -> None:
    mask = segmented.order.results.mask(TISSUE)
    region = Region(500, 100, 640, 480)
    order = replace(segmented.order, job_type=JobType.TISSUE_MASK, region=region)
    result = make_artifacts(order, tmp_path, lambda _tiles, _cells: None)
    summary = json.loads((tmp_path / "summary.json").read_text())
    with Image.open(tmp_path / "tissue_mask.png") as picture:
        bits = np.asarray(picture)
    step = mask.downsample[0]
    rows, columns = (slice(*(round(edge / step) for edge in span)) for span in ((100, 580), (500, 1140)))
    outside = bits.copy()
    outside[rows, columns] = False
    assert not outside.any()
    assert bits[rows, columns].any()
    # What the mask says of the region's own pixels: pixels of the mask that are inside in part count by that part.
    y, x = (((np.arange(*span) + 0.5) / step).astype(int) for span in ((100, 580), (500, 1140)))
    inside = mask.bits[np.ix_(y, x)]
    assert summary["tissue_fraction"] == pytest.approx(inside.mean(), rel=1e-3)
    assert result.tissue_mm2 == pytest.approx(inside.sum() * (MPP / 1000) ** 2, rel=1e-3)


def test_a_tissue_job_has_no_cells(segmented: Segmented, tmp_path: Path) -> None:
    order = replace(segmented.order, job_type=JobType.TISSUE_MASK)
    result = make_artifacts(order, tmp_path, lambda _tiles, _cells: None)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    assert result.cells is None
    assert result.tissue_mm2 is not None
    assert result.tissue_mm2 > 0
    assert json.loads((tmp_path / "summary.json").read_text())["cells"] is None
