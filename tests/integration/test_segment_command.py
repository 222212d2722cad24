"""`microtome segment`: a job's files without a server, and going on after it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from PIL import Image

from microtome.commandline.main import main
from microtome.segmentation.engine import Engine, OnnxRuntimeEngine
from microtome.segmentation.model import Model, load_model
from microtome.segmentation.run import segment
from microtome.segmentation.stains import HDAB
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import MPP, paint, write_synthetic_slide
from microtome.standalone import running
from microtome.standalone.running import WORK, Wishes, segment_image
from microtome.tissue.fitting import fitting_grid
from microtome.tissue.ground import Ground
from microtome.tissue.mask import find_tissue
from microtome.tissue.tiles import tiles_with_tissue

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FP32 = "onnxruntime-cpu-fp32"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="real images are not at ../shared/data")


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=700, seed=11)
    return path


class Counting(OnnxRuntimeEngine):
    """Counts its calls."""

    calls = 0

    def infer(self, pixels: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        self.calls += 1
        return super().infer(pixels, low, scale)


def typed(*arguments: object) -> int:
    return main(["segment", *map(str, arguments)])


def cells_of(folder: Path) -> set[tuple[int, int, bytes]]:
    table = pq.read_table(folder / "cells.parquet", columns=["seed_x", "seed_y", "geometry"]).to_pydict()
    cells = list(zip(table["seed_x"], table["seed_y"], table["geometry"], strict=True))
    assert len({cell[:2] for cell in cells}) == len(cells)
    return set(cells)


def assert_labels_are_rows(labels: np.ndarray, folder: Path) -> None:
    """Label n lies on the seed of row n of cells.parquet, from 1."""
    table = pq.read_table(folder / "cells.parquet", columns=["seed_x", "seed_y"])
    rows = np.arange(1, len(table) + 1)
    assert np.array_equal(labels[table["seed_y"].to_numpy(), table["seed_x"].to_numpy()], rows)
    assert np.array_equal(np.unique(labels), np.arange(len(rows) + 1))


@pytest.fixture(scope="module")
def whole(slide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The slide, segmented by the command with all defaults but the engine."""
    out = tmp_path_factory.mktemp("out") / "whole"
    assert typed(slide, "--out", out, "--engine", FP32) == 0
    return out


def test_the_files_are_those_of_a_job_and_a_label_image(whole: Path, slide: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert {"cells.parquet", "cells.geojson", "overlay.jpg", "tissue_mask.png", "labels.tif", "summary.json"} <= names
    assert WORK not in names
    summary = json.loads((whole / "summary.json").read_bytes())
    found = cells_of(whole)
    assert summary["cells"] == len(found) > 50
    assert len(json.loads((whole / "cells.geojson").read_bytes())["features"]) == len(found)
    labels = tifffile.imread(whole / "labels.tif")
    assert set(np.unique(labels)) == set(range(len(found) + 1))
    assert_labels_are_rows(labels, whole)
    assert summary["engine"] == FP32
    assert {"open", "tissue", "plan", "network", "head", "merge"} <= summary["stage_seconds"].keys()
    assert 0 <= summary["engine_idle_fraction"] < 1
    # One tile has no seams; that is said, too.
    assert (summary["tiles_total"], summary["seams"]["seam_px"], summary["seams"]["duplicates"]) == (1, 0, 0)


def test_its_cells_are_those_of_the_engine_whatever_the_tiles(whole: Path, slide: Path, tmp_path: Path) -> None:
    model = load_model("embedded")
    reader, mask = SlideReader(slide, MPP, model.mpp), find_tissue(slide, MPP)
    grid = fitting_grid(reader.width, reader.height, model.halo, mask, reader.scale[0])
    tiles = tiles_with_tissue(grid, mask, reader.scale[0])
    ground = Ground(mask, reader.scale[0]).of
    stream = segment(reader, model, OnnxRuntimeEngine(model), grid, tiles=tiles, ground=ground)
    seeds = {seed for _, cells in stream for seed in zip(cells.seed_x.tolist(), cells.seed_y.tolist(), strict=True)}
    assert {cell[:2] for cell in cells_of(whole)} == seeds
    small = tmp_path / "small"
    assert typed(slide, "--out", small, "--engine", FP32, "--tile-size", 384, "--threads", 2) == 0
    summary = json.loads((small / "summary.json").read_bytes())
    assert summary["tiles_total"] == 9
    assert summary["seams"]["seam_px"] == 4 * 700
    assert summary["seams"]["duplicates"] == 0
    assert summary["seams"]["cells_at_seams"] > 10
    assert abs(summary["seams"]["density_ratio"] - 1) < 5 * summary["seams"]["density_error"]
    assert cells_of(small) == cells_of(whole)
    assert_labels_are_rows(tifffile.imread(small / "labels.tif"), small)


def test_killed_and_typed_again_nothing_is_computed_twice(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "microtome", "segment", str(slide), "--out", str(out)]
    command += ["--engine", FP32, "--tile-size", "320"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "libs")}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    patience = time.monotonic() + 120
    while len(done := sorted((out / WORK).rglob("*-*.arrow"))) < 2:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < patience
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = sorted(path for path in (out / WORK).rglob("*-*.arrow") if not path.name.startswith("."))
    assert [path.name for path in out.iterdir()] == [WORK], "nothing is published before it is whole"
    engines: list[Counting] = []

    def opened(model: Model) -> Engine:
        engines.append(Counting(model))
        engines[-1].note = "Chosen for a reason."
        return engines[-1]

    seen: list[tuple[int, int, int]] = []
    wishes = Wishes(image=slide, out=out, tile_size=320)
    summary = segment_image(wishes, opened, lambda *progress: seen.append(progress))
    assert summary.tiles_cached == len(done) >= 2
    assert engines[0].calls == summary.tiles_processed - len(done)
    assert summary.engine == FP32
    assert "Chosen for a reason." in summary.notes
    assert any(f"{len(done)} tiles had a result from another attempt" in note for note in summary.notes)
    assert seen[-1] == (summary.tiles_processed, summary.tiles_processed, summary.cells)
    undisturbed = tmp_path / "undisturbed"
    segment_image(Wishes(image=slide, out=undisturbed, tile_size=320), opened, lambda *_: None)
    for name in ("cells.parquet", "cells.geojson", "labels.tif"):
        assert (undisturbed / name).read_bytes() == (out / name).read_bytes()


def published(folder: Path) -> dict[str, bytes]:
    """What an image's files hold, but for the one that says how long it took."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "summary.json"}


def killed_before(name: str, wishes: Wishes, open_engine: Callable[[Model], Engine] = OnnxRuntimeEngine) -> None:
    """Run until this file is to appear."""
    replace = Path.replace

    def until(path: Path, target: Path) -> Path:
        if target == wishes.out / name:
            raise KeyboardInterrupt
        return replace(path, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Path, "replace", until)
        with pytest.raises(KeyboardInterrupt):
            segment_image(wishes, open_engine, lambda *_: None)


def test_killed_while_the_files_appear_it_goes_on(whole: Path, slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ring = [[100, 200], [500, 220], [300, 600], [100, 200]]
    drawn = Wishes(image=slide, out=out, tissue={"type": "Polygon", "coordinates": [ring]})
    killed_before("labels.tif", drawn)
    there = {path.name for path in out.iterdir()}
    assert {WORK, "cells.parquet"} < there
    assert not {"labels.tif", "tissue_drawn.geojson", "summary.json"} & there
    killed_before("summary.json", drawn)
    assert (out / "tissue_drawn.geojson").exists()
    (out / "notes.txt").write_text("mine")
    # With other wishes nothing of the earlier run stays.
    summary = segment_image(Wishes(image=slide, out=out), Counting, lambda *_: None)
    assert summary.tiles_cached == summary.tiles_processed > 0
    assert published(out) == {**published(whole), "notes.txt": b"mine"}
    assert typed(slide, "--out", out, "--engine", FP32) == 1


def test_other_dyes_and_another_engine_are_no_results_from_before(slide: Path, tmp_path: Path) -> None:
    picture, out = tmp_path / "flat.png", tmp_path / "out"
    Image.fromarray(SlideReader(slide, MPP).read(0, 0, 256, 256)).save(picture)
    killed_before("summary.json", Wishes(image=picture, out=out, mpp=0.5))

    def renamed(model: Model) -> Engine:
        engine = OnnxRuntimeEngine(model)
        engine.name = "openvino-cpu-fp32"
        return engine

    killed_before("summary.json", Wishes(image=picture, out=out, mpp=0.5), renamed)
    assert len(list((out / WORK).rglob("0-0.arrow"))) == 2
    summary = segment_image(Wishes(image=picture, out=out, mpp=0.5, stain=HDAB), OnnxRuntimeEngine, lambda *_: None)
    assert (summary.tiles_processed, summary.tiles_cached, summary.stain) == (1, 0, "hdab")
    assert "dab_od_mean" in pq.read_schema(out / "cells.parquet").names


def test_what_a_power_cut_damaged_is_computed_again(whole: Path, slide: Path, tmp_path: Path) -> None:
    out, engines = tmp_path / "out", list[Counting]()
    wishes = Wishes(image=slide, out=out, tile_size=384)
    killed_before("summary.json", wishes)
    tiles = sorted((out / WORK).rglob("*-*.arrow"))
    assert len(tiles) > 4
    tiles[0].write_bytes(b"")
    os.truncate(tiles[2], tiles[2].stat().st_size // 2)
    tiles[3].write_bytes(bytes(tiles[3].stat().st_size))
    others = [path for name in ("normalisation.json", "published.json", "*.npz") for path in (out / WORK).rglob(name)]
    assert len(others) == 3
    for torn in others:
        os.truncate(torn, torn.stat().st_size // 2)

    def opened(model: Model) -> Engine:
        engines.append(Counting(model))
        return engines[-1]

    summary = segment_image(wishes, opened, lambda *_: None)
    assert summary.tiles_cached == len(tiles) - 3
    assert engines[0].calls == 3
    assert cells_of(out) == cells_of(whole)


def test_where_no_tissue_is_found_each_drawing_has_its_own_colours(tmp_path: Path) -> None:
    # Grey stripes on glass: no tissue, so the colours are measured where somebody drew.
    picture = np.full((600, 600, 3), 243, np.uint8)
    picture[:, 400::16] = (170, 170, 172)
    Image.fromarray(picture).save(tmp_path / "grey.png")
    measured = []
    for left in (20, 420):
        ring = [[left, 50], [left + 150, 50], [left + 150, 550], [left, 550], [left, 50]]
        drawn = {"type": "Polygon", "coordinates": [ring]}
        killed_before(
            "summary.json",
            Wishes(image=tmp_path / "grey.png", out=tmp_path / "out", mpp=0.5, tissue=drawn, tile_size=320),
        )
        measured.append(len(list((tmp_path / "out" / WORK).rglob("normalisation.json"))))
    assert measured == [1, 2]


def test_a_region_has_the_slides_cells(whole: Path, slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "part"
    assert typed(slide, "--out", out, "--engine", FP32, "--region", "100,200,300,250") == 0
    inside = {cell for cell in cells_of(whole) if 100 <= cell[0] + 0.5 < 400 and 200 <= cell[1] + 0.5 < 450}
    assert cells_of(out) == inside != set()
    assert_labels_are_rows(tifffile.imread(out / "labels.tif"), out)


def test_drawn_tissue_has_the_slides_cells(whole: Path, slide: Path, tmp_path: Path) -> None:
    out, drawn = tmp_path / "drawn", tmp_path / "drawn.geojson"
    ring = [[100, 200], [500, 220], [300, 600], [100, 200]]
    drawn.write_text(json.dumps([{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}]))
    assert typed(slide, "--out", out, "--engine", FP32, "--tissue", drawn) == 0
    area = shapely.Polygon(ring)
    inside = {cell for cell in cells_of(whole) if area.contains(shapely.Point(cell[0] + 0.5, cell[1] + 0.5))}
    assert cells_of(out) == inside != set()
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["tissue_mm2"] == pytest.approx(area.area * (MPP / 1000) ** 2, rel=0.001)
    assert summary["tissue"]["drawn"]["polygons"] == 1
    assert summary["cells_outside_tissue"] == 0
    assert_labels_are_rows(tifffile.imread(out / "labels.tif"), out)


def test_glass_is_not_computed_but_where_somebody_drew_on_it(tmp_path: Path) -> None:
    picture = np.full((1100, 1100, 3), 243, np.uint8)
    picture[700:1000, 60:360], _ = paint(300, 4)
    # A lone cell, too small for tissue.
    lone = np.hypot(*(np.mgrid[:1100, :1100] - np.array([200, 800])[:, None, None])) < 6
    picture[lone] = (95, 60, 130)
    Image.fromarray(picture).save(tmp_path / "glass.png")

    def run(name: str, corner: tuple[int, int] | None) -> tuple[dict[str, Any], set[tuple[int, int, bytes]]]:
        drawn = None
        if corner is not None:
            x, y = corner
            ring = [[x, y], [x + 180, y], [x + 180, y + 180], [x, y + 180], [x, y]]
            drawn = {"type": "Polygon", "coordinates": [ring]}
        out = tmp_path / name
        wishes = Wishes(image=tmp_path / "glass.png", out=out, mpp=MPP, tissue=drawn)
        segment_image(wishes, OnnxRuntimeEngine, lambda *_: None)
        return json.loads((out / "summary.json").read_bytes()), cells_of(out)

    whole, found = run("whole", None)
    assert found
    assert all(y > 600 for _, y, _ in found)
    # The tissue of 300 x 300, and up to 96 + 2 x 32 pixels around it.
    assert 0.2 < whole["network_mpix"] < (300 + 2 * 160) ** 2 / 1e6
    inside, its = run("inside", (100, 760))
    assert inside["content_key"] == whole["content_key"]
    assert its < found
    beside, lonely = run("beside", (710, 110))
    assert beside["content_key"] != whole["content_key"]
    assert beside["network_mpix"] == pytest.approx(1104**2 / 1e6, abs=1e-4)
    assert [np.hypot(x - 800, y - 200) < 6 for x, y, _ in lonely] == [True]


def test_half_the_pixel_size_is_read_at_the_models(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "fine"
    assert typed(slide, "--out", out, "--engine", FP32, "--mpp", "0.25") == 0
    summary = json.loads((out / "summary.json").read_bytes())
    assert (summary["scale"], summary["grid_width"], summary["mpp"], summary["mpp_source"]) == (2.0, 350, 0.25, "user")
    assert tifffile.imread(out / "labels.tif").shape == (350, 350)


def test_a_flat_picture_is_read_and_its_folder_left_alone(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    picture = pictures / "flat.png"
    Image.fromarray(SlideReader(slide, MPP).read(0, 0, 400, 300)).save(picture)
    assert typed(picture, "--out", tmp_path / "none") == 1
    assert "--mpp" in capsys.readouterr().err
    # One pixel more than labels are drawn of.
    monkeypatch.setattr(running, "LABELS_PIXELS", 400 * 300 - 1)
    assert (
        main(["--json", "segment", str(picture), "--out", str(tmp_path / "out"), "--mpp", "0.5", "--engine", FP32]) == 0
    )
    assert json.loads(capsys.readouterr().out)["cells"] > 5
    assert list(pictures.iterdir()) == [picture]
    assert (tmp_path / "out" / "cells.parquet").exists()
    assert not (tmp_path / "out" / "labels.tif").exists()


def refusals(slide: Path, tmp_path: Path) -> Iterator[tuple[list[object], str]]:
    full = tmp_path / "full"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    text = tmp_path / "text.svs"
    text.write_text("no slide")
    new = tmp_path / "new"
    empty = tmp_path / "empty.svs"
    empty.touch()
    yield [slide, "--out", full], "something in it"
    yield [slide, "--out", text], "no folder"
    yield [empty, "--out", text / "below"], "text.svs"
    yield [empty, "--out", new], "is empty"
    yield [full, "--out", new], "is a folder"
    yield [text, "--out", new], "text.svs"
    yield [tmp_path / "missing.svs", "--out", new], "no file"
    yield [slide, "--out", new, "--engine", "steam"], "steam"
    assert not new.exists()
    yield [slide, "--out", new, "--engine", FP32, "--model", "nobodys"], "nobodys"
    yield [slide, "--out", new, "--engine", FP32, "--region", "9000,9000,10,10"], "outside"
    point = tmp_path / "point.geojson"
    point.write_text('{"type": "Point", "coordinates": [1, 2]}')
    yield [slide, "--out", new, "--engine", FP32, "--tissue", point], "no area"
    yield [slide, "--out", new, "--engine", FP32, "--tissue", text], "GeoJSON"
    yield [slide, "--out", new, "--engine", FP32, "--tile-size", "100"], "multiple of 16"
    yield [slide, "--out", new, "--threads", "-1"], "--threads"


def test_what_cannot_be_done_is_said_in_a_sentence(
    slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    for arguments, reason in refusals(slide, tmp_path):
        assert typed(*arguments) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("error: ")
        assert reason in said
        # Of an image that cannot be read nothing is kept; of a wish that cannot be granted what the next run can use.
        assert not new.exists() or [path.name for path in new.iterdir()] == [".tiles"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@needs_shared
def test_fluorescence_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert typed(SHARED / "slides" / "test3-DAPI-2-387.ndpi", "--out", tmp_path / "out", "--engine", FP32) == 1
    assert "fluorescence" in capsys.readouterr().err


@needs_shared
def test_a_jpeg_2000_slide_whose_pixel_size_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    slide = SHARED / "slides" / "TCGA-CR-7395-01A-01-TS1.svs"
    assert typed(slide, "--out", tmp_path / "none", "--engine", FP32) == 1
    assert "--mpp" in capsys.readouterr().err
    out = tmp_path / "out"
    assert typed(slide, "--out", out, "--engine", FP32, "--mpp", "1", "--region", "1500,1500,250,250") == 0
    summary = json.loads((out / "summary.json").read_bytes())
    assert summary["scale"] == 0.5
    assert summary["cells"] == len(cells_of(out)) > 20
