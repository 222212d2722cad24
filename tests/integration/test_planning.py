"""Planning a job: the same for every attempt of one tenant, and never stopped by what an earlier attempt left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.reading import pad_reflect
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import write_synthetic_slide
from microtome.tilestore import LocalPixelStore, ResultStore
from services.tiler.planning import SlideSource, TilePlan, decode_tiles, plan_tiles, plan_tissue


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SlideSource:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=1024, seed=3)
    return SlideSource(tenant="alice", path=path, sha256="a" * 64, mpp=0.5)


def planned(source: SlideSource, results: Path) -> TilePlan:
    return plan_tiles(source, plan_tissue(source, results).tissue_key, "embedded", 512, 96, 4, results)


def test_a_damaged_tissue_mask_is_found_anew(source: SlideSource, tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    key = plan_tissue(source, tmp_path).tissue_key
    path = store.tissue(key)
    whole = path.read_bytes()
    found = path.stat().st_mtime_ns
    assert plan_tissue(source, tmp_path).tissue_key == key
    assert path.stat().st_mtime_ns == found, "a mask that is there is not looked for again"
    for damage in (b"", whole[: len(whole) // 2], b"no mask"):
        path.write_bytes(damage)
        assert plan_tissue(source, tmp_path).tissue_key == key
        assert path.read_bytes() == whole


def test_tenants_share_nothing(source: SlideSource, tmp_path: Path) -> None:
    mine = planned(source, tmp_path)
    again = planned(source, tmp_path)
    theirs = planned(replace(source, tenant="bob"), tmp_path)
    assert again.content_key == mine.content_key
    assert theirs.content_key != mine.content_key
    assert theirs.wanted == mine.wanted
    assert len(list((tmp_path / "tissue").glob("*.npz"))) == 2


def test_tiles_are_decoded_as_the_bare_engine_reads_them(source: SlideSource, tmp_path: Path) -> None:
    plan = planned(source, tmp_path / "results")
    model = load_model("embedded")
    keys, _ = decode_tiles(source, model.mpp, plan, plan.wanted, "job", 1, tmp_path / "pixels")
    store, reader = LocalPixelStore(tmp_path / "pixels"), SlideReader(source.path, source.mpp, model.mpp)
    grid = Grid(plan.width, plan.height, plan.tile_size, plan.halo)
    for key, (row, column) in zip(keys, plan.wanted, strict=True):
        assert np.array_equal(store.get(key), pad_reflect(reader, grid.tile(row, column).padded))
