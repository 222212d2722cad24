"""Comparing runs: every kind of file, what must be refused, and where two runs differ most."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import shapely
import tifffile
from PIL import Image
from skimage.measure import regionprops

from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import outlines
from microtome.commandline.main import main
from microtome.comparison import compare, read_run
from microtome.comparison.picture import EXTRA, MATCHED, MISSING, draw
from microtome.errors import InvalidRequest
from microtome.scoring import scores
from microtome.tissue.outline import TissueOutline, read_outline
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of

LABELLED = Path(__file__).parents[4] / "shared" / "data" / "labelled" / "tnbc" / "labels"
SCALE = 2.0
FACTS = {"slide_sha256": "a" * 64, "width": 512, "height": 512, "mpp": 0.25, "scale": SCALE, "model": "embedded"}


def write_run(folder: Path, labels: np.ndarray, **facts: Any) -> Path:
    """A folder as a job leaves it, with cells in all three forms."""
    folder.mkdir(parents=True)
    cells = outlines(tile_of(labels), SCALE, KEY, mpp=0.25)
    with CellsParquet(folder / "cells.parquet", {}) as parquet, CellsGeoJson(folder / "cells.geojson") as geojson:
        parquet.append(cells)
        geojson.append(cells)
    tifffile.imwrite(folder / "labels.tif", labels.astype(np.uint32), compression="zlib")
    (folder / "summary.json").write_text(json.dumps({**FACTS, **facts}))
    return folder


def without(labels: np.ndarray, names: list[int]) -> np.ndarray:
    return np.where(np.isin(labels, names), 0, labels)


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return discs(count=60)


@pytest.fixture(scope="module")
def runs(labels: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """In the second run three cells are missing, one is moved aside by too much, one by little."""
    other = without(labels, [3, 4, 5, 10, 11])
    for name, shift in ((10, 7), (11, 1)):
        rows, columns = np.nonzero(labels == name)
        other[rows, np.minimum(columns + shift, 255)] = name
    home = tmp_path_factory.mktemp("runs")
    return write_run(home / "a", labels), write_run(home / "b", other)


@pytest.mark.parametrize("name", ["", "cells.parquet", "cells.geojson", "labels.tif"])
def test_a_run_agrees_with_itself_in_every_form(runs: tuple[Path, Path], name: str) -> None:
    comparison = compare(read_run(runs[0]), read_run(runs[0] / name))
    assert (len(comparison.pairs), len(comparison.missing), len(comparison.extra)) == (60, 0, 0)
    assert comparison.f1 == 1.0
    # GeoJSON is written to hundredths of a pixel.
    assert comparison.sq > 0.999
    assert comparison.pq == comparison.sq
    if name != "cells.geojson":
        assert comparison.sq == 1.0
        assert comparison.f1_50_90 == 1.0


@pytest.mark.parametrize("name", ["cells.parquet", "cells.geojson", "labels.tif"])
def test_differences_are_counted_as_they_were_made(runs: tuple[Path, Path], labels: np.ndarray, name: str) -> None:
    a, b = (read_run(folder / name) for folder in runs)
    comparison = compare(a, b)
    assert (len(comparison.pairs), len(comparison.missing), len(comparison.extra)) == (56, 4, 1)
    gone = {tuple(a.outlines.centre[index]) for index in comparison.missing}
    expected = set()
    for label in (3, 4, 5, 10):
        rows, columns = np.nonzero(labels == label)
        expected.add((columns.min() + columns.max() + 1.0, rows.min() + rows.max() + 1.0))
    assert gone == expected
    truth, found = (tifffile.imread(folder / "labels.tif").astype(np.int32) for folder in runs)
    by_pixels = scores(truth, found)
    assert comparison.f1 == by_pixels.f1_50
    assert comparison.f1_50_90 == pytest.approx(by_pixels.f1_50_90, abs=0.01)
    assert comparison.pq == pytest.approx(by_pixels.pq, abs=1e-12 if name == "labels.tif" else 0.002)
    assert comparison.worst is not None
    assert comparison.worst.f1 < comparison.f1


@pytest.mark.parametrize("name", ["cells.parquet", "cells.geojson"])
def test_files_are_read_in_parts(runs: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = read_run(runs[0] / name)
    monkeypatch.setattr("microtome.comparison.reading._BATCH", 7)
    parts = read_run(runs[0] / name)
    assert len(parts.outlines) == 60
    for index in range(60):
        assert np.array_equal(parts.outlines.rings(index), whole.outlines.rings(index))


@pytest.mark.parametrize("image", ["01_1", "04_5"])
def test_real_nuclei_score_as_labels_do(image: str, tmp_path: Path) -> None:
    path = LABELLED / f"{image}.png"
    if not path.is_file():
        pytest.skip(f"no {path}: the labelled sets are not here")
    truth = np.asarray(Image.open(path)).astype(np.int32)
    found = np.roll(truth, (2, 1), axis=(0, 1))
    by_labels = scores(truth, found)
    of_labels = compare(*(_labels(tmp_path / name, of) for name, of in (("a.png", truth), ("b.png", found))))
    assert (of_labels.f1, of_labels.f1_50_90) == (by_labels.f1_50, pytest.approx(by_labels.f1_50_90, abs=1e-12))
    assert (of_labels.sq, of_labels.pq) == (pytest.approx(by_labels.sq), pytest.approx(by_labels.pq))
    folders = [write_run(tmp_path / name, of) for name, of in (("a", truth), ("b", found))]
    of_outlines = compare(*(read_run(folder) for folder in folders))
    # Outlines have no holes and one piece; and an object of a few pixels loses a corner of each.
    assert of_outlines.f1 == pytest.approx(by_labels.f1_50, abs=0.02)
    assert of_outlines.pq == pytest.approx(by_labels.pq, abs=0.02)


def _labels(path: Path, labels: np.ndarray) -> Any:
    Image.fromarray(labels.astype(np.uint16)).save(path)
    return read_run(path)


def test_anybodys_polygons_are_read(tmp_path: Path) -> None:
    square, far = shapely.box(0, 0, 10, 10), shapely.box(100, 100, 110, 110)
    holed = shapely.Polygon(square.exterior, [shapely.box(2, 2, 8, 8).exterior])
    geometries = [holed, shapely.MultiPolygon([square, far]), far]
    frame = geopandas.GeoDataFrame(geometry=[*geometries, shapely.Point(1, 1)])
    frame.iloc[:3].to_parquet(tmp_path / "theirs.parquet")
    with pytest.warns(UserWarning, match="crs"):
        frame.to_file(tmp_path / "lines.geojson", driver="GeoJSON")
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(g)} for g in geometries]
    (tmp_path / "pretty.geojson").write_text(json.dumps(features, indent=2))
    (tmp_path / "one.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    # A line each, as we write them, with what others may write: blanks, exponents, heights, nothing.
    (tmp_path / "ours.geojson").write_text(
        '{"type":"FeatureCollection","features":[\n'
        + ",\n".join(json.dumps(feature) for feature in features[:1])
        + ',\n{"type":"Feature","id":"x","geometry":{"type":"Polygon","coordinates":[]},"properties":{}}'
        + ",\n" + json.dumps(features[1]) + ",\n" + json.dumps(features[2]) + "\n]}\n"
    )  # fmt: skip
    (tmp_path / "polygons.geojson").write_text(
        '{"type":"FeatureCollection","features":[\n'
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates": [[[-1e1, +2.5E-1, 7], [0.0,0.25],'
        "[0,10.25],[-10,10.25],[-10,0.25]], [[-8,2.25],[-2,2.25],[-2,8.25],[-8,8.25],[-8,2.25]]]}},\n"
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[1,2],[3,4]]]},"properties":{}},\n'
        '{"type":"Feature","geometry":{"type":"Polygon","coordinates":[[[5,5],[6,5],[6,6]]]},"properties":{}}\n]}\n'
    )
    exact = read_run(tmp_path / "polygons.geojson").outlines
    assert exact.area.tolist() == [64, 0.5]
    assert exact.lower.tolist() == [[-10, 0.25], [5, 5]]
    for name in ("theirs.parquet", "lines.geojson", "pretty.geojson", "one.geojson", "ours.geojson"):
        run = read_run(tmp_path / name)
        assert run.outlines.area.tolist() == [64, 200, 100], name
        comparison = compare(read_run(tmp_path / "theirs.parquet"), run)
        assert comparison.iou.tolist() == [1, 1, 1]
        assert any("Nothing says" in note for note in comparison.notes)


def test_runs_of_different_slides_are_refused(runs: tuple[Path, Path], labels: np.ndarray, tmp_path: Path) -> None:
    first = read_run(runs[0])
    cases = {
        "different slides": {"slide_sha256": "b" * 64},
        "different sizes": {"width": 1000},
        r"0\.25 and 0\.5 µm": {"mpp": 0.5},
    }
    for number, (words, facts) in enumerate(cases.items()):
        with pytest.raises(InvalidRequest, match=words):
            compare(first, read_run(write_run(tmp_path / str(number), labels, **facts)))


def test_what_cannot_be_read_is_refused(tmp_path: Path, labels: np.ndarray, runs: tuple[Path, Path]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "cells.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "cells.geojson").write_text("[1, 2")
    (tmp_path / "cells.doc").write_text("")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(tmp_path / "picture.png")
    (tmp_path / "broken.tif").write_bytes(b"II*\x00")
    for name in ("nowhere", "empty", "cells.parquet", "cells.geojson", "cells.doc", "picture.png", "broken.tif"):
        with pytest.raises(InvalidRequest, match=name):
            read_run(tmp_path / name)
    whole = shapely.to_wkb(shapely.box(0, 0, 10, 10), byte_order=1)
    for number, damaged in enumerate(
        (whole[:-8], whole[:3], b"\x00" + whole[1:], whole[:9] + b"\xff" * 4 + whole[13:])
    ):
        path = tmp_path / f"damaged{number}.parquet"
        geo = {"primary_column": "geometry", "columns": {"geometry": {"encoding": "WKB"}}}
        table = pa.table({"geometry": pa.array([whole, damaged], pa.binary())})
        pq.write_table(table.replace_schema_metadata({"geo": json.dumps(geo)}), path)
        with pytest.raises(InvalidRequest, match="no whole"):
            read_run(path)
    # Labels alone do not say how they lie on the slide.
    alone = _labels(tmp_path / "alone.png", labels)
    with pytest.raises(InvalidRequest, match="label image"):
        compare(read_run(runs[0]), alone)
    with pytest.raises(InvalidRequest, match="size"):
        compare(alone, _labels(tmp_path / "smaller.png", labels[:100]))


def test_where_only_one_looked_nothing_is_missing(runs: tuple[Path, Path], labels: np.ndarray, tmp_path: Path) -> None:
    region = {"x": 0, "y": 0, "width": 256, "height": 512}
    left = without(labels, [r.label for r in regionprops(labels) if r.bbox[1] + r.bbox[3] >= 256])
    part = read_run(write_run(tmp_path / "part", left, region=region))
    whole = read_run(runs[0])
    for a, b, aside in ((whole, part, 0), (part, whole, 1)):
        comparison = compare(a, b)
        assert len(comparison.pairs) == len(part.outlines)
        assert (len(comparison.missing), len(comparison.extra)) == (0, 0)
        assert comparison.aside[aside] == 60 - len(part.outlines)
        assert any("different parts" in note for note in comparison.notes)


def test_the_worst_window_is_where_cells_were_taken_away(tmp_path: Path) -> None:
    many = discs(count=180, side=360)
    y, x = np.mgrid[:360, :360]
    corner = (y > 252) & (x < 108)
    found = compare(
        read_run(write_run(tmp_path / "a", many, width=720, height=720)),
        read_run(write_run(tmp_path / "b", np.where(corner, 0, many), width=720, height=720)),
    )
    window = found.worst
    assert window is not None
    assert window.f1 < 0.8
    assert (window.missing >= 4, window.extra) == (True, 0)
    assert window.x < 216
    assert window.y + window.side > 504


def test_the_picture_has_all_colours_and_only_where_they_belong(runs: tuple[Path, Path]) -> None:
    differ = draw(compare(*(read_run(folder) for folder in runs)))
    same = draw(compare(read_run(runs[0]), read_run(runs[0])))
    assert differ.dtype == np.uint8
    for colour in (MATCHED, MISSING, EXTRA):
        assert (differ[34:] == colour).all(axis=-1).sum() > 20
        assert ((same[34:] == colour).all(axis=-1).sum() > 20) == (colour == MATCHED)


def test_many_small_cells_are_dots(tmp_path: Path) -> None:
    many = discs(count=180, side=360)
    facts = {"width": 60_000, "height": 40_000}
    fewer = without(many, [7, 8])
    picture = draw(compare(*(
        read_run(write_run(tmp_path / name, of, **facts)) for name, of in (("a", many), ("b", fewer))
    )))  # fmt: skip
    overview = picture[34 : 34 + 800, 12:1212]
    assert (overview == MATCHED).all(axis=-1).any()
    assert (overview == MISSING).all(axis=-1).any()


def test_nothing_against_nothing(tmp_path: Path) -> None:
    empty = [read_run(write_run(tmp_path / name, np.zeros((64, 64), np.int32))) for name in "ab"]
    comparison = compare(*empty)
    assert (comparison.f1, comparison.sq, comparison.pq, comparison.worst) == (1.0, 1.0, 1.0, None)
    assert draw(comparison).ndim == 3


def test_the_command(runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "made" / "compare.png"
    paths = [str(path) for path in runs]
    assert main(["compare", *paths, "--picture", str(picture)]) == 0
    said = capsys.readouterr().out
    for word in ("60 cells", "embedded", "Matched", "56", "Missing", "Extra", "PQ 0."):
        assert word in said
    assert cv2.imread(str(picture)).shape[1] > 1000
    for arguments in (["--json", "compare", *paths, "--no-picture"], ["compare", *paths, "--no-picture", "--json"]):
        assert main(arguments) == 0
        answer = json.loads(capsys.readouterr().out)
        assert (answer["matched"], answer["missing"], answer["extra"], answer["picture"]) == (56, 4, 1, None)
        assert answer["f1"] == pytest.approx(112 / 117)
        assert answer["a"]["cells"] == 60
    assert main(["compare", paths[0], str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["compare", *paths, "--iou", "0.3"])


@pytest.mark.parametrize("name", ["slide.tif", "flat.png"])
def test_the_enlarged_part_is_drawn_on_the_slide(runs: tuple[Path, Path], tmp_path: Path, name: str) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    slide = folder / name
    pixels = np.full((512, 512, 3), (120, 60, 140), np.uint8)
    if name == "slide.tif":
        tifffile.imwrite(slide, pixels, tile=(256, 256), photometric="rgb", compression="jpeg")
    else:
        cv2.imwrite(str(slide), pixels[..., ::-1])
    picture = tmp_path / "compare.png"
    assert main(["compare", *map(str, runs), "--picture", str(picture), "--slide", str(slide)]) == 0
    shown = cv2.cvtColor(cv2.imread(str(picture)), cv2.COLOR_BGR2RGB)
    expected = np.array((120, 60, 140)) * 0.65 + 255 * 0.35
    assert (np.abs(shown[100:900, 1300:2100] - expected) < 12).all(axis=-1).mean() > 0.5
    assert list(folder.iterdir()) == [slide]


@pytest.fixture
def drawn(labels: np.ndarray, tmp_path: Path) -> tuple[Path, Path, int, TissueOutline]:
    """A run on the whole slide; one of the cells whose seed is on drawn tissue; how many are not; and the drawing."""
    ring = [[60.0, 40.0], [430.0, 90.0], [300.0, 470.0], [60.0, 40.0]]
    outline = read_outline({"type": "Polygon", "coordinates": [ring]}, 512, 512)
    cells = tile_of(labels)
    kept = outline.choose(cells, SCALE)
    gone = set(zip(cells.seed_x, cells.seed_y, strict=True)) - set(zip(kept.seed_x, kept.seed_y, strict=True))
    other = without(labels, [int(labels[y, x]) for x, y in gone])
    whole = write_run(tmp_path / "whole", labels)
    part = write_run(tmp_path / "part", other, tissue={"drawn": {"sha256": outline.sha256, "polygons": 1}})
    (part / "tissue_drawn.geojson").write_bytes(outline.document)
    return whole, part, len(gone), outline


def test_cells_beside_drawn_tissue_are_not_missing(drawn: tuple[Path, Path, int, TissueOutline]) -> None:
    whole, part, gone, outline = drawn
    a, b = read_run(whole), read_run(part)
    # Some have their seed beside it and the middle of their outline on it.
    lost = [index for index in range(60) if not outline.holds(*a.places[index : index + 1].T)[0]]
    assert outline.holds(*a.outlines.centre[lost].T).any()
    for first, second, aside in ((a, b, (gone, 0)), (b, a, (0, gone))):
        comparison = compare(first, second)
        assert len(comparison.pairs) == 60 - gone > 10
        assert (len(comparison.missing), len(comparison.extra), comparison.aside) == (0, 0, aside)
        assert comparison.f1 == 1.0
        assert any("different parts" in note for note in comparison.notes)
    assert not compare(b, read_run(part)).notes


def test_without_the_drawing_it_is_said(drawn: tuple[Path, Path, int, TissueOutline]) -> None:
    whole, part, gone, _ = drawn
    (part / "tissue_drawn.geojson").write_text('{"type": "MultiPolygon", "coordinates": [[[[0, 0], [1, 0], [0, 1]]]]}')
    with pytest.raises(InvalidRequest, match=r"tissue_drawn\.geojson"):
        read_run(part)
    (part / "tissue_drawn.geojson").unlink()
    comparison = compare(read_run(whole), read_run(part))
    assert len(comparison.missing) == gone
    assert any("drawn tissue" in note for note in comparison.notes)
