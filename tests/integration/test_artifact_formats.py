"""From a slide to its files, without the stack: the merger's part, on results of the real network."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import dataclass, replace
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
from microtome.artifacts.making import PREVIEW_PIXELS, THUMBNAIL_PIXELS
from microtome.artifacts.store import ArtifactStore
from microtome.contracts.messages import JobType, MergeWork, MppSource, Normalisation, SlideRegistered, StageSeconds
from microtome.errors import UnreadableSlide
from microtome.segmentation.cells import write_cells
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation as Range
from microtome.segmentation.run import segment
from microtome.segmentation.sampling import sample_histogram
from microtome.slides.mosaic import write_mosaic
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import write_synthetic_slide
from microtome.tilestore import ResultGone, ResultStore
from microtome.tissue.mask import find_tissue
from microtome.tissue.region import Region
from microtome.tissue.store import save_mask
from microtome.tissue.tiles import tiles_with_tissue
from services.merger.making import Order, make_artifacts

# Not half of the model's pixel size: level-0 coordinates are no whole multiples of the model's.
MPP = 0.37
CELL_FILES = {
    "cells.parquet", "cells.geojson", "cells.csv", "cells.fgb", "density.png", "density.tif", "combined.jpg",
}  # fmt: skip
KEY, TISSUE = "ab" * 32, "cd" * 32
FILES = {"tissue_mask.png", "tissue.geojson", "thumbnail.jpg", "overlay.jpg", "summary.json"}


@dataclass(frozen=True)
class Segmented:
    order: Order
    seeds: frozenset[tuple[int, int]]


@pytest.fixture(scope="module")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Segmented:
    folder = tmp_path_factory.mktemp("merger")
    path = folder / "slide.tif"
    write_synthetic_slide(folder / "source.tif", size=1024, seed=3)
    write_mosaic(folder / "source.tif", path, width=2600, height=900, mpp=MPP)
    model = load_model("embedded")
    reader = SlideReader(path, MPP, model.mpp)
    results = ResultStore(folder / "results")
    mask = find_tissue(path, MPP)
    save_mask(mask, results.tissue(TISSUE))
    grid = Grid(reader.width, reader.height, 512, 128)
    wanted = tiles_with_tissue(grid, mask, reader.scale[0])
    assert 1 < len(wanted) <= len(grid)
    normalisation = Range.from_histogram(sample_histogram(reader, wanted), model.percentiles)
    seeds: set[tuple[int, int]] = set()
    chosen = {(tile.row, tile.column) for tile in wanted}
    engine = OnnxRuntimeEngine(model, "cpu")
    for tile, cells in segment(
        reader, model, engine, grid, normalisation=normalisation, wanted=lambda t: (t.row, t.column) in chosen
    ):
        write_cells(cells.made(engine.name, "job/1"), results.tile(KEY, tile.row, tile.column))
        seeds |= set(zip(cells.seed_x.tolist(), cells.seed_y.tolist(), strict=True))
    work = MergeWork(
        job_id="job",
        workflow_id="workflow",
        user_id="alice",
        attempt=1,
        content_key=KEY,
        tissue_key=TISSUE,
        grid_width=reader.width,
        grid_height=reader.height,
        tile_size=512,
        halo=128,
        scale=reader.scale[0],
        mpp=MPP,
        mpp_source=MppSource.ASSUMED,
        tiles_total=len(grid),
        tiles_skipped=len(grid) - len(wanted),
        model=model.name,
        model_digest=model.digest,
        normalisation=Normalisation(low=normalisation.low, high=normalisation.high),
        stage_seconds=(StageSeconds(stage="plan", seconds=0.5),),
    )
    slide = SlideRegistered(slide_id="slide", user_id="alice", sha256="0" * 64, width=2600, height=900, mpp=None)
    order = Order(
        work=work,
        job_type=JobType.SEGMENT_CELLS,
        slide=slide,
        slide_path=path,
        results=results,
        region=None,
        formats=CELL_FORMATS,
    )
    return Segmented(order, frozenset(seeds))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_every_cell_is_in_every_file_once(segmented: Segmented, folder: Path) -> None:
    told: list[tuple[int, int]] = []
    result = make_artifacts(segmented.order, folder, lambda tiles, cells: told.append((tiles, cells)))
    assert {path.name for path in folder.iterdir()} == FILES | CELL_FILES
    table = pq.read_table(folder / "cells.parquet")
    seeds = list(zip(table["seed_x"].to_pylist(), table["seed_y"].to_pylist(), strict=True))
    assert len(seeds) == result.cells == len(set(table["id"].to_pylist())) > 100
    assert set(seeds) == segmented.seeds
    features = json.loads((folder / "cells.geojson").read_text())["features"]
    assert [feature["id"] for feature in features] == table["id"].to_pylist()
    assert geopandas.read_file(folder / "cells.fgb")["id"].tolist() == table["id"].to_pylist()
    assert pd.read_csv(folder / "cells.csv")["id"].tolist() == table["id"].to_pylist()
    density = tifffile.imread(folder / "density.tif")
    step = 100 / MPP
    down, across = (np.diff([*np.arange(0, size, step), size]) for size in (900, 2600))
    assert (density * np.outer(down, across) * MPP**2 / 1e6).sum() == pytest.approx(result.cells, rel=1e-4)
    assert told[-1] == (result.tiles_processed, result.cells)
    # Once after each tile, and once more now and then while the files close.
    counts = [tiles for tiles, _ in told]
    assert counts[: result.tiles_processed] == list(range(1, result.tiles_processed + 1))
    assert set(told[result.tiles_processed :]) <= {(result.tiles_processed, result.cells)}


def test_what_is_not_chosen_is_exported_later_to_the_byte(segmented: Segmented, folder: Path) -> None:
    every, usual = folder / "every", folder / "usual"
    for target, formats in ((every, CELL_FORMATS), (usual, EVERY_JOBS)):
        target.mkdir()
        make_artifacts(replace(segmented.order, formats=formats), target, lambda _tiles, _cells: None)
    assert {path.name for path in usual.iterdir()} == FILES | CELL_FILES - {"cells.fgb"}
    assert export(usual, "fgb").read_bytes() == (every / "cells.fgb").read_bytes()


def test_outlines_lie_on_the_nuclei_of_the_slide(segmented: Segmented, folder: Path) -> None:
    """The pixels of level 0 inside the outlines are darker than those outside: coordinates are not off by a scale."""
    make_artifacts(segmented.order, folder, lambda _tiles, _cells: None)
    polygons = shapely.from_wkb(pq.read_table(folder / "cells.parquet")["geometry"].to_numpy())
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


def test_pictures_and_summary(segmented: Segmented, folder: Path) -> None:
    result = make_artifacts(segmented.order, folder, lambda _tiles, _cells: None)
    sizes = {}
    for name, form in (
        ("tissue_mask.png", "PNG"),
        ("thumbnail.jpg", "JPEG"),
        ("overlay.jpg", "JPEG"),
        ("combined.jpg", "JPEG"),
    ):
        with Image.open(folder / name) as opened:
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
    summary = json.loads((folder / "summary.json").read_text())
    assert [name for name, value in summary.items() if value is None] == ["region"]
    assert summary["cells"] == result.cells
    assert summary["cells_per_mm2"] == pytest.approx(result.cells / summary["tissue_mm2"], rel=1e-3)
    mask = segmented.order.results.mask(TISSUE)
    table = pq.read_table(folder / "cells.parquet", columns=["seed_x", "seed_y"])
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
    assert summary["regrown"] >= 0
    # One shape for all tiles, no halo where the slide ends: whatever the seams, no cell shows them.
    assert summary["seams"]["seam_px"] > 0
    assert summary["seams"]["duplicates"] == 0
    assert all(value >= 0 for value in seconds.values())
    assert any("assumption" in note for note in summary["notes"])
    assert summary["scale"] == segmented.order.work.scale != 1
    assert (summary["width"], summary["height"]) == (2600, 900)


def remade(order: Order, results: ResultStore, makers: list[tuple[str, str]]) -> Order:
    """The same job on a copy of its tiles, as if these (engine, run) had made them in turns."""
    mask = order.results.mask(TISSUE)
    save_mask(mask, results.tissue(TISSUE))
    for at, address in enumerate(sorted(order.results.known(KEY))):
        cells = order.results.read(KEY, *address)
        write_cells(cells.made(*makers[at % len(makers)]), results.tile(KEY, *address), durable=False)
    return replace(order, results=results)


def test_engines_and_seconds_are_those_of_who_made_the_tiles(segmented: Segmented, folder: Path) -> None:
    order = remade(
        segmented.order, ResultStore(folder / "results"), [("onnxruntime-cpu-fp32", "job/1"), ("tensorrt-fp16", "b/1")]
    )
    (folder / "out").mkdir()
    result = make_artifacts(order, folder / "out", lambda _tiles, _cells: None)
    tiles = [order.results.read(KEY, *address) for address in order.results.known(KEY)]
    mine = [cells for cells in tiles if cells.made_by == "job/1"]
    assert result.engine == "onnxruntime-cpu-fp32, tensorrt-fp16"
    assert result.tiles_cached == len(tiles) - len(mine) > 0 < len(mine)
    took = {stage.stage: stage.seconds for stage in result.stage_seconds}
    for stage in ("network", "head", "idle"):
        assert took[stage] == pytest.approx(sum(cells.seconds[stage] for cells in mine), abs=1e-3)
    (engines,) = (note for note in result.notes if "More than one engine" in note)
    assert f"{len(mine)} on onnxruntime-cpu-fp32, {len(tiles) - len(mine)} on tensorrt-fp16" in engines
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert (summary["engine"], summary["tiles_cached"]) == (result.engine, result.tiles_cached)


def test_a_job_that_computed_no_tile_spent_no_time_on_any(segmented: Segmented, folder: Path) -> None:
    """It still says which engine found its cells: an earlier attempt counts as another run, too."""
    order = remade(segmented.order, ResultStore(folder / "results"), [("tensorrt-fp16", "job/0")])
    (folder / "out").mkdir()
    result = make_artifacts(order, folder / "out", lambda _tiles, _cells: None)
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["engine_idle_fraction"] is None
    assert set(summary["stage_seconds"]) == {"plan", "merge"}
    assert (result.engine, result.tiles_cached) == ("tensorrt-fp16", result.tiles_processed)
    assert any("is not in the seconds" in note for note in result.notes)
    assert not any("More than one engine" in note for note in result.notes)


def test_the_same_results_make_the_same_files(segmented: Segmented, folder: Path) -> None:
    once, again = folder / "once", folder / "again"
    for target in (once, again):
        target.mkdir()
        make_artifacts(segmented.order, target, lambda _tiles, _cells: None)
    for path in once.iterdir():
        if path.name != "summary.json":  # which says how long it took
            assert path.read_bytes() == (again / path.name).read_bytes()


def _make_and_die(order: Order, folder: Path, after: int) -> None:
    def die(tiles: int, _cells: int) -> None:
        if tiles == after:
            os.kill(os.getpid(), signal.SIGKILL)

    with ArtifactStore(folder).draft("job", 1) as draft:
        make_artifacts(order, draft, die)


def test_a_killed_merger_leaves_what_the_next_attempt_sweeps_and_makes_again(
    segmented: Segmented, folder: Path
) -> None:
    store = ArtifactStore(folder / "killed")
    killed = multiprocessing.get_context("spawn").Process(
        target=_make_and_die, args=(segmented.order, folder / "killed", 2)
    )
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    # What is put together only at the end had no name yet.
    left = {path.name for path in (folder / "killed").glob("job/.draft-*/*")}
    assert left
    assert "cells.fgb" not in left
    assert left < FILES | CELL_FILES
    assert store.sweep("job", 2) == 1
    undisturbed = ArtifactStore(folder / "undisturbed")
    published = []
    for place in (store, undisturbed):
        with place.draft("job", 2) as draft:
            make_artifacts(segmented.order, draft, lambda _tiles, _cells: None)
            published.append(place.publish(draft, "job", 2))
    assert {each.name for each in published[0]} == FILES | CELL_FILES
    for one, other in zip(*published, strict=True):
        assert one == other or one.name == "summary.json"  # which says how long it took


def test_regions_that_partition_a_slide_partition_its_cells(segmented: Segmented, folder: Path) -> None:
    """And each cell of a region is the very cell of the whole slide, whatever tile the border runs through."""
    whole = folder / "whole"
    whole.mkdir()
    everything = make_artifacts(segmented.order, whole, lambda _tiles, _cells: None)
    rows = {row["id"]: row for row in pq.read_table(whole / "cells.parquet").to_pylist()}
    found: dict[str, dict[str, object]] = {}
    tissue = 0.0
    for number, (x, width) in enumerate(((0, 777), (777, 1000), (1777, 823))):
        part = folder / str(number)
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


def test_a_tissue_job_on_a_region_tells_the_regions_tissue(segmented: Segmented, folder: Path) -> None:
    mask = segmented.order.results.mask(TISSUE)
    region = Region(500, 100, 640, 480)
    order = replace(segmented.order, job_type=JobType.TISSUE_MASK, region=region)
    result = make_artifacts(order, folder, lambda _tiles, _cells: None)
    summary = json.loads((folder / "summary.json").read_text())
    with Image.open(folder / "tissue_mask.png") as picture:
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


def test_a_slide_without_a_file_cannot_be_read(segmented: Segmented, folder: Path) -> None:
    order = replace(segmented.order, slide_path=folder / "gone" / "slide.tif")
    with pytest.raises(UnreadableSlide, match=r"no file slide\.tif"):
        make_artifacts(order, folder, lambda _tiles, _cells: None)


def test_a_tissue_job_has_no_cells(segmented: Segmented, folder: Path) -> None:
    order = replace(segmented.order, job_type=JobType.TISSUE_MASK)
    result = make_artifacts(order, folder, lambda _tiles, _cells: None)
    assert {path.name for path in folder.iterdir()} == FILES
    assert result.cells is None
    assert result.tissue_mm2 is not None
    assert result.tissue_mm2 > 0
    assert json.loads((folder / "summary.json").read_text())["cells"] is None


@pytest.fixture
def damaged(segmented: Segmented, tmp_path: Path) -> Order:
    """The same order on a copy of the results that a test may spoil."""
    root = segmented.order.results.tile(KEY, 0, 0).parents[1]
    shutil.copytree(root, tmp_path / "results")
    return replace(segmented.order, results=ResultStore(tmp_path / "results"))


def test_a_tile_without_its_result_is_never_skipped(damaged: Order, tmp_path: Path) -> None:
    row, column = min(damaged.results.known(KEY))
    path = damaged.results.tile(KEY, row, column)
    target = tmp_path / "draft"
    target.mkdir()
    path.write_bytes(b"no arrow")
    for _ in range(2):
        with pytest.raises(ResultGone):
            make_artifacts(damaged, target, lambda _tiles, _cells: None)
        assert (row, column) not in damaged.results.known(KEY)


def test_one_attempt_finds_every_damaged_tile(damaged: Order, tmp_path: Path) -> None:
    spoiled = sorted(damaged.results.known(KEY))[::2]
    whole = damaged.results.known(KEY) - set(spoiled)
    assert len(spoiled) > 1
    for address in spoiled:
        path = damaged.results.tile(KEY, *address)
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ResultGone) as gone:
        make_artifacts(damaged, tmp_path, lambda _tiles, _cells: None)
    assert gone.value.transient
    assert damaged.results.known(KEY) == whole


def test_without_the_mask_nothing_is_made_and_a_damaged_one_is_removed(damaged: Order, tmp_path: Path) -> None:
    mask = damaged.results.tissue(TISSUE)
    mask.write_bytes(mask.read_bytes()[:100])
    for _ in range(2):
        with pytest.raises(ResultGone):
            make_artifacts(damaged, tmp_path, lambda _tiles, _cells: None)
        assert not mask.exists()


def test_an_empty_slide_says_so(damaged: Order, tmp_path: Path) -> None:
    mask = find_tissue(damaged.slide_path, MPP)
    save_mask(replace(mask, bits=np.zeros_like(mask.bits)), damaged.results.tissue(TISSUE))
    target = tmp_path / "draft"
    target.mkdir()
    result = make_artifacts(damaged, target, lambda _tiles, _cells: None)
    assert result.cells == 0
    assert result.cells_per_mm2 is None
    assert any("Without tissue" in note for note in result.notes)
    assert pq.read_table(target / "cells.parquet").num_rows == 0
    assert json.loads((target / "cells.geojson").read_text())["features"] == []


def test_making_stops_when_progress_says_so(segmented: Segmented, folder: Path) -> None:
    def stop(tiles: int, _cells: int) -> None:
        if tiles == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make_artifacts(segmented.order, folder, stop)
    assert not (folder / "summary.json").exists()
