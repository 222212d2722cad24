"""Planning a job: the same for every attempt of one tenant, and never stopped by what an earlier attempt left."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from microtome.contracts.messages import Staining
from microtome.errors import InvalidRequest, NotFound
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import pad_reflect
from microtome.segmentation.sampling import sample_histogram, sampling_grid
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import MPP, write_synthetic_slide
from microtome.tilestore import LocalPixelStore, ResultStore
from microtome.tissue.outline import read_outline
from microtome.tissue.region import Region
from microtome.tissue.store import save_outline
from services.tiler.planning import (
    Layout,
    SlideSource,
    decode_tiles,
    lay_out,
    plan_tissue,
    results_key,
    sample_tiles,
)
from tests.acceptance.conftest import write_on_glass

MODEL = load_model("embedded")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> SlideSource:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=1024, seed=3)
    return SlideSource(tenant="alice", path=path, sha256="a" * 64, mpp=0.5)


def planned(
    source: SlideSource,
    results: Path,
    region: Region | None = None,
    drawn: str | None = None,
    *,
    tile_size: int = 512,
    halo: int = 96,
) -> tuple[Layout, str]:
    """The tiles and their content key."""
    key = plan_tissue(source, results).tissue_key
    layout = lay_out(source, key, MODEL, tile_size, False, halo, 4, region, drawn, results)
    histogram, _ = sample_tiles(source, MODEL.mpp, layout.samples)
    normalisation = Normalisation.from_histogram(histogram, MODEL.percentiles)
    where = layout.grid, layout.scale, layout.on_ground
    return layout, results_key(source, MODEL, *where, normalisation, Staining.HE, "auto")


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
    mine, my_key = planned(source, tmp_path)
    _, again = planned(source, tmp_path)
    theirs, their_key = planned(replace(source, tenant="bob"), tmp_path)
    assert again == my_key
    assert their_key != my_key
    assert theirs.wanted == mine.wanted
    assert len(list((tmp_path / "tissue").glob("*.npz"))) == 2


def test_whatever_can_change_a_cell_changes_the_key(source: SlideSource) -> None:
    grid, given = Grid(1024, 1024, 512, 96), Normalisation((10.0, 10.0, 10.0), (240.0, 240.0, 240.0))
    first = (source, MODEL, grid, 1.0, True, given, Staining.HE, "auto")
    others = (
        (replace(source, tenant="bob"), 0), (replace(source, sha256="b" * 64), 0), (replace(MODEL, digest="0" * 64), 1),
        (Grid(1024, 1024, 384, 96), 2), (Grid(1024, 1024, 512, 112), 2), (2.0, 3), (False, 4),
        (replace(given, low=(10.0, 10.0, 11.0)), 5), (replace(given, high=(241.0, 240.0, 240.0)), 5),
        (Staining.HDAB, 6), ("onnxruntime-cpu-fp32", 7),
    )  # fmt: skip
    keys = {results_key(*first)} | {results_key(*first[:at], other, *first[at + 1 :]) for other, at in others}  # type: ignore[arg-type]
    assert len(keys) == 1 + len(others)
    assert results_key(*first) in keys


def test_tiles_are_decoded_as_the_bare_engine_reads_them(source: SlideSource, tmp_path: Path) -> None:
    layout, _ = planned(source, tmp_path / "results")
    keys, _ = decode_tiles(source, MODEL.mpp, layout.grid, layout.wanted, "job", 1, tmp_path / "pixels")
    store, reader = LocalPixelStore(tmp_path / "pixels"), SlideReader(source.path, source.mpp, MODEL.mpp)
    for key, (row, column) in zip(keys, layout.wanted, strict=True):
        assert np.array_equal(store.get(key), pad_reflect(reader, layout.grid.tile(row, column).padded))


def test_a_normalisation_is_the_slides_whatever_the_tiles(source: SlideSource, tmp_path: Path) -> None:
    layout, _ = planned(source, tmp_path)
    others, _ = planned(source, tmp_path, tile_size=352, halo=144)
    assert others.samples == layout.samples
    assert len(layout.samples) == 4
    assert len(others.wanted) > len(layout.wanted) > 0
    reader = SlideReader(source.path, source.mpp, MODEL.mpp)
    blocks = sampling_grid(reader.width, reader.height)
    whole, _ = sample_tiles(source, MODEL.mpp, layout.samples)
    assert (whole.counts == sample_histogram(reader, [blocks.tile(*at) for at in layout.samples]).counts).all()
    parts = [sample_tiles(source, MODEL.mpp, (address,))[0] for address in layout.samples]
    assert (sum(parts, Histogram.empty()).counts == whole.counts).all()


def test_a_region_has_tiles_of_the_slides_grid_and_shares_their_results(source: SlideSource, tmp_path: Path) -> None:
    everything, key = planned(source, tmp_path)
    # The cores of the first tiles end at 384 model pixels, which are level-0 pixels here.
    part, its_key = planned(source, tmp_path, Region(300, 390, 100, 20))
    assert its_key == key
    assert part.samples == everything.samples
    assert part.grid == everything.grid
    assert part.wanted == ((1, 0), (1, 1))
    assert (part.tiles_total, part.tiles_skipped) == (2, 0)
    just_one, _ = planned(source, tmp_path, Region(384, 384, 1, 1))
    assert just_one.wanted == ((1, 1),)
    with pytest.raises(InvalidRequest, match="1024 x 1024"):
        planned(source, tmp_path, Region(1024, 0, 10, 10))


def test_drawn_tissue_chooses_tiles_and_shares_their_results(source: SlideSource, tmp_path: Path) -> None:
    everything, key = planned(source, tmp_path)
    ring = [[700, 700], [740, 700], [740, 730], [700, 700]]
    outline = read_outline({"type": "Polygon", "coordinates": [ring]}, 1024, 1024)
    save_outline(outline, source.path)
    part, its_key = planned(source, tmp_path, drawn=outline.sha256)
    assert its_key == key, "the normalisation is the slide's own, and so are the tiles"
    assert part.grid == everything.grid
    assert (1, 1) in part.wanted
    assert len(part.wanted) < len(everything.wanted)
    assert part.tiles_total == everything.tiles_total
    assert part.on_ground
    within, _ = planned(source, tmp_path, Region(0, 0, 300, 300), outline.sha256)
    assert within.wanted == ()
    with pytest.raises(NotFound, match="Submit the job again"):
        planned(source, tmp_path, drawn="0" * 64)


def test_jobs_whose_tissue_was_drawn_on_glass_share_their_tiles_with_each_other(tmp_path: Path) -> None:
    path = tmp_path / "glass.tif"
    write_on_glass(path, tissue=300, edge=1400, seed=3)
    source = SlideSource(tenant="alice", path=path, sha256="b" * 64, mpp=MPP)
    found, key = planned(source, tmp_path)
    keys = set()
    for x in (900, 1000):
        ring = [[x, 900], [x + 100, 900], [x, 1000], [x, 900]]
        outline = read_outline({"type": "Polygon", "coordinates": [ring]}, 1400, 1400)
        save_outline(outline, path)
        drawn, its_key = planned(source, tmp_path, drawn=outline.sha256)
        assert not drawn.on_ground
        assert not set(drawn.wanted) & set(found.wanted)
        keys.add(its_key)
    assert found.on_ground
    assert len(keys - {key}) == 1
