"""How files come to be from tile results that other runs made, that are damaged or gone, or when a merger dies."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from microtome.artifacts.store import ArtifactStore, Readers
from microtome.errors import UnreadableSlide
from microtome.segmentation.cells import write_cells
from microtome.tilestore import ResultGone, ResultStore
from microtome.tissue.mask import find_tissue
from microtome.tissue.store import save_mask
from services.merger.making import Order, make_artifacts
from tests.integration.merge_order import CELL_FILES, FILES, KEY, MPP, TISSUE, Segmented


def remade(order: Order, results: ResultStore, makers: list[tuple[str, str]]) -> Order:
    """The same job on a copy of its tiles, as if these (engine, run) had made them in turns."""
    mask = order.results.mask(TISSUE)
    save_mask(mask, results.tissue(TISSUE))
    for at, address in enumerate(sorted(order.results.known(KEY))):
        cells = order.results.read(KEY, *address)
        write_cells(cells.made(*makers[at % len(makers)]), results.tile(KEY, *address), durable=False)
    return replace(order, results=results)


def test_engines_and_seconds_are_those_of_who_made_the_tiles(segmented: Segmented, tmp_path: Path) -> None:
    order = remade(
        segmented.order,
        ResultStore(tmp_path / "results"),
        [("onnxruntime-cpu-fp32", "job/1"), ("tensorrt-fp16", "b/1")],
    )
    (tmp_path / "out").mkdir()
    result = make_artifacts(order, tmp_path / "out", lambda _tiles, _cells: None)
    tiles = [order.results.read(KEY, *address) for address in order.results.known(KEY)]
    mine = [cells for cells in tiles if cells.made_by == "job/1"]
    assert result.engine == "onnxruntime-cpu-fp32, tensorrt-fp16"
    assert result.tiles_cached == len(tiles) - len(mine) > 0 < len(mine)
    took = {stage.stage: stage.seconds for stage in result.stage_seconds}
    for stage in ("network", "head", "idle"):
        assert took[stage] == pytest.approx(sum(cells.seconds[stage] for cells in mine), abs=1e-3)
    (engines,) = (note for note in result.notes if "More than one engine" in note)
    assert f"{len(mine)} on onnxruntime-cpu-fp32, {len(tiles) - len(mine)} on tensorrt-fp16" in engines
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["engine"], summary["tiles_cached"]) == (result.engine, result.tiles_cached)


def test_a_job_that_computed_no_tile_spent_no_time_on_any(segmented: Segmented, tmp_path: Path) -> None:
    """It still says which engine found its cells: an earlier attempt counts as another run, too."""
    order = remade(segmented.order, ResultStore(tmp_path / "results"), [("tensorrt-fp16", "job/0")])
    (tmp_path / "out").mkdir()
    result = make_artifacts(order, tmp_path / "out", lambda _tiles, _cells: None)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["engine_idle_fraction"] is None
    assert set(summary["stage_seconds"]) == {"plan", "merge"}
    assert (result.engine, result.tiles_cached) == ("tensorrt-fp16", result.tiles_processed)
    assert any("is not in the seconds" in note for note in result.notes)
    assert not any("More than one engine" in note for note in result.notes)


def test_cells_that_no_window_held_are_told(segmented: Segmented, tmp_path: Path) -> None:
    order = remade(segmented.order, ResultStore(tmp_path / "results"), [("onnxruntime-cpu-fp32", "job/1")])
    told = []
    for name, cut in (("some", 1), ("none", 0)):
        for address in order.results.known(KEY):
            cells = replace(order.results.read(KEY, *address), regrown=3, cut=cut)
            write_cells(cells, order.results.tile(KEY, *address), durable=False)
        (tmp_path / name).mkdir()
        make_artifacts(order, tmp_path / name, lambda _tiles, _cells: None)
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        tiles = summary["tiles_processed"]
        assert (summary["regrown"], summary["cut"]) == (3 * tiles, cut * tiles)
        told.append([note for note in summary["notes"] if "larger than the largest window" in note])
    (said,), none = told
    assert said.startswith(f"{tiles} cells are larger than the largest window that a halo of 128 pixels leaves room")
    assert none == []


def _make_and_die(order: Order, folder: Path, after: int) -> None:
    def die(tiles: int, _cells: int) -> None:
        if tiles == after:
            os.kill(os.getpid(), signal.SIGKILL)

    with ArtifactStore(folder).draft("job", 1) as draft:
        make_artifacts(order, draft, die)


def test_a_killed_merger_leaves_what_the_next_attempt_sweeps_and_makes_again(
    segmented: Segmented, tmp_path: Path
) -> None:
    store = ArtifactStore(tmp_path / "killed")
    killed = multiprocessing.get_context("spawn").Process(
        target=_make_and_die, args=(segmented.order, tmp_path / "killed", 2)
    )
    killed.start()
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    # What is put together only at the end had no name yet.
    left = {path.name for path in (tmp_path / "killed").glob("job/.draft-*/*")}
    assert left
    assert "cells.fgb" not in left
    assert left < FILES | CELL_FILES
    assert store.sweep("job", 2) == 1
    undisturbed = ArtifactStore(tmp_path / "undisturbed")
    published = []
    for place in (store, undisturbed):
        # Read as they are told to be whole, and read again: nothing was written to them afterwards.
        with place.draft("job", 2) as draft, Readers() as readers:
            make_artifacts(segmented.order, draft, lambda _tiles, _cells: None, readers.begin)
            published.append(place.publish(draft, "job", 2, readers=readers))
        for file in published[-1]:
            assert file.sha256 == hashlib.sha256(place.path("job", 2, file.name).read_bytes()).hexdigest()
    assert {each.name for each in published[0]} == FILES | CELL_FILES
    for one, other in zip(*published, strict=True):
        assert one == other or one.name == "summary.json"  # which says how long it took


def test_a_slide_without_a_file_cannot_be_read(segmented: Segmented, tmp_path: Path) -> None:
    order = replace(segmented.order, slide_path=tmp_path / "gone" / "slide.tif")
    with pytest.raises(UnreadableSlide, match=r"no file slide\.tif"):
        make_artifacts(order, tmp_path, lambda _tiles, _cells: None)


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


def test_making_stops_when_progress_says_so(segmented: Segmented, tmp_path: Path) -> None:
    def stop(tiles: int, _cells: int) -> None:
        if tiles == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        make_artifacts(segmented.order, tmp_path, stop)
    assert not (tmp_path / "summary.json").exists()
