"""Further formats of a job's cells, opened by the libraries they are meant for."""

from __future__ import annotations

import importlib.util
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
from PIL import Image

from microtome.artifacts.exports import FORMATS, JobFiles, export
from microtome.artifacts.making import Order, Segmentation, SourceSlide, along_curve, write_segmentation
from microtome.commandline import exporting
from microtome.commandline.main import main
from microtome.errors import ConfigurationError, Conflict, InvalidRequest
from microtome.segmentation.grid import Grid
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.segmentation.normalisation import Normalisation
from microtome.slides.synthetic import write_synthetic_slide
from microtome.tissue.mask import find_tissue
from tests.unit.artifacts.cells_on_slide import discs, tile_of

# The libraries warn of themselves and of each other; nothing of that is ours.
pytestmark = pytest.mark.filterwarnings("ignore")
MPP, SCALE = 0.25, 2.0
GRID = Grid(1500, 1100, 512, 64)


@pytest.fixture(scope="module")
def label_image() -> np.ndarray:
    """The whole slide's cells, int32 [h, w]: discs everywhere, some of them across seams."""
    labels = np.zeros((GRID.height, GRID.width), np.int32)
    for y in range(0, GRID.height - 256, 250):
        for x in range(0, GRID.width - 256, 250):
            some = discs(60, seed=x + y)
            window = labels[y : y + 256, x : x + 256]
            window[(some > 0) & (window == 0)] = (some + labels.max())[(some > 0) & (window == 0)]
    return labels


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, label_image: np.ndarray) -> Path:
    """The files of a job on that slide."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("job")
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=1024, seed=1)
    everything = tile_of(label_image)
    tiles = []
    for tile in along_curve(GRID.tiles()):
        core = tile.core
        mine = (everything.seed_x >= core.x) & (everything.seed_x < core.x + core.width)
        mine &= (everything.seed_y >= core.y) & (everything.seed_y < core.y + core.height)
        tiles.append(replace(everything.chosen(mine), row=tile.row, column=tile.column))
    slide = SourceSlide(
        slide_id="slide", sha256="0" * 64, path=path, width=3000, height=2200, mpp=MPP, mpp_source="user"
    )
    how = Segmentation(
        grid=GRID, scale=SCALE, content_key="ab" * 32, tiles_total=len(GRID), tiles_skipped=0, model="m",
        model_digest="cd" * 32, normalisation=Normalisation((0, 0, 0), (255, 255, 255)),
    )  # fmt: skip
    mask = find_tissue(path, MPP)
    write_segmentation(iter(tiles), Order(slide=slide, mask=mask), how, folder, lambda _tiles, _cells: None)
    return folder


@pytest.fixture(scope="module")
def expected(job: Path, label_image: np.ndarray) -> np.ndarray:
    """The label image with the numbers of the rows of cells.parquet; discs have no holes and are of one piece."""
    table = pq.read_table(job / "cells.parquet", columns=["seed_x", "seed_y"])
    names = label_image[table["seed_y"].to_numpy(), table["seed_x"].to_numpy()]
    assert len(set(names.tolist())) == len(names) == len(np.unique(label_image)) - 1 > 500
    rows = np.zeros(label_image.max() + 1, np.uint32)
    rows[names] = np.arange(1, len(names) + 1)
    return rows[label_image]


def test_masks_and_their_manifest_make_the_whole_label_image(
    job: Path, label_image: np.ndarray, tmp_path: Path
) -> None:
    target = export(job, "masks", tmp_path / "masks.zip")
    again = export(job, "masks", tmp_path / "again.zip")
    assert target.read_bytes() == again.read_bytes()
    whole = np.zeros_like(label_image, bool)
    cells = 0
    table = pq.read_table(job / "cells.parquet", columns=["seed_x", "seed_y"])
    seeds = np.column_stack([table["seed_x"].to_numpy(), table["seed_y"].to_numpy()])
    with zipfile.ZipFile(target) as archive:
        manifest = json.loads(archive.read("masks/manifest.json"))
        assert {f"masks/{each['file']}" for each in manifest["masks"]} == set(archive.namelist()) - {
            "masks/manifest.json"
        }
        for each in manifest["masks"]:
            with Image.open(io.BytesIO(archive.read(f"masks/{each['file']}"))) as opened:
                mask = np.asarray(opened)
            assert mask.shape == (each["height"], each["width"])
            assert len(np.unique(mask)) == each["cells"] + 1 == mask.max() + 1
            assert (each["level0_x"], each["level0_y"]) == (each["x"] * SCALE, each["y"] * SCALE)
            x, y = (seeds[cells : cells + each["cells"]] - (each["x"], each["y"])).T
            assert np.array_equal(mask[y, x], np.arange(1, each["cells"] + 1)), "labels are rows"
            cells += each["cells"]
            part = whole[each["y"] : each["y"] + each["height"], each["x"] : each["x"] + each["width"]]
            part |= mask[: part.shape[0], : part.shape[1]] > 0
    assert manifest["um_per_pixel"] == MPP * SCALE
    assert cells == len(np.unique(label_image)) - 1
    assert np.array_equal(whole, label_image > 0)


def test_zarr_reads_the_label_image_and_its_pyramid(job: Path, expected: np.ndarray, tmp_path: Path) -> None:
    import zarr

    target = export(job, "ome-zarr", tmp_path / "cells.ome.zarr")
    group = zarr.open_group(target, mode="r")
    assert np.array_equal(group["0"][:], expected)
    assert np.array_equal(group["1"][:], expected[::2, ::2])
    assert set(group.array_keys()) == {"0", "1"}


def test_ome_zarr_finds_labels_axes_and_scales(job: Path, expected: np.ndarray, tmp_path: Path) -> None:
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    target = export(job, "ome-zarr", tmp_path / "cells.ome.zarr")
    location = parse_url(target)
    assert location is not None
    (node,) = list(Reader(location)())
    assert [axis["name"] for axis in node.metadata["axes"]] == ["y", "x"]
    assert {axis["unit"] for axis in node.metadata["axes"]} == {"micrometer"}
    assert [level.shape for level in node.data] == [(1100, 1500), (550, 750)]
    assert np.array_equal(node.data[0].compute(), expected)
    scales = [level[0]["scale"] for level in node.metadata["coordinateTransformations"]]
    assert scales == [[0.5, 0.5], [1.0, 1.0]]


def test_anndata_reads_every_measurement(job: Path, tmp_path: Path) -> None:
    import anndata

    table = anndata.read_h5ad(export(job, "anndata", tmp_path / "cells.h5ad"))
    cells = pq.read_table(job / "cells.parquet")
    assert table.shape == (cells.num_rows, len(MEASUREMENTS))
    assert table.obs_names.tolist() == cells["id"].to_pylist()
    assert table.var_names.tolist() == [each.name for each in MEASUREMENTS]
    for each in MEASUREMENTS:
        assert np.array_equal(table[:, each.name].X.ravel(), cells[each.column].to_numpy(), equal_nan=True)
    assert np.array_equal(table.obsm["spatial"][:, 0], cells["centroid_x"].to_numpy())
    assert json.loads(table.uns["microtome"])["cells"] == cells.num_rows


def test_spatialdata_reads_labels_outlines_and_measurements(job: Path, expected: np.ndarray, tmp_path: Path) -> None:
    import spatialdata
    from spatialdata.transformations import get_transformation

    data = spatialdata.read_zarr(export(job, "spatialdata", tmp_path / "cells.zarr"))
    assert np.array_equal(data.labels["cell_labels"].to_numpy(), expected)
    cells = pq.read_table(job / "cells.parquet")
    assert data.shapes["cells"]["id"].tolist() == cells["id"].to_pylist()
    assert shapely.is_valid(data.shapes["cells"].geometry).all()
    assert set(data.coordinate_systems) == {"global", "micrometres"}
    in_um = get_transformation(data.labels["cell_labels"], "micrometres").to_affine_matrix(("x", "y"), ("x", "y"))
    assert np.allclose(np.diag(in_um), [0.5, 0.5, 1])
    # The table belongs to the outlines: asked for those in a window, it gives their rows.
    found = spatialdata.bounding_box_query(
        data, axes=("x", "y"), min_coordinate=[0, 0], max_coordinate=[1000, 1000], target_coordinate_system="global"
    )
    inside = set(found.shapes["cells"].index.tolist())
    assert 20 < len(inside) < cells.num_rows
    assert set(found.tables["measurements"].obs["label"].tolist()) == inside


def test_the_command_line_exports_and_says_where(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tuple(FORMATS) == exporting.FORMATS
    target = tmp_path / "m.zip"
    assert main(["export", str(job), "--format", "masks", "--out", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert zipfile.is_zipfile(target)
    assert main(["export", str(job), "--format", "masks", "--out", str(target)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["export", str(job), "--format", "masks", "--format", "anndata", "--out", str(target)]) == 1
    assert "one --format at a time" in capsys.readouterr().err


def test_what_cannot_be_exported(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidRequest, match="no folder with the files of a job"):
        JobFiles.at(tmp_path)
    (tmp_path / "summary.json").write_text('{"cells": null}')
    with pytest.raises(InvalidRequest, match="has no cells"):
        export(tmp_path, "masks")
    with pytest.raises(InvalidRequest, match="no format 'tiff'"):
        export(job, "tiff")
    (tmp_path / "there").touch()
    with pytest.raises(Conflict):
        export(job, "masks", tmp_path / "there")
    known = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "zarr" else known(name))
    with pytest.raises(ConfigurationError, match=r"\(zarr\).*microtome\[spatial\]"):
        export(job, "spatialdata", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_export_that_fails_leaves_nothing(job: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bytes:
        raise OSError("the disk is full")

    monkeypatch.setattr("microtome.artifacts.masks.png", full)
    with pytest.raises(OSError, match="full"):
        export(job, "masks", tmp_path / "masks.zip")
    assert not list(tmp_path.iterdir())
