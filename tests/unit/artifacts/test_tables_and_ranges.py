"""cells.csv and cells.fgb, opened by pandas, csv and GDAL, which know nothing of their writers."""

from __future__ import annotations

import csv
import errno
import io
import os
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from microtome.artifacts import flatgeobuf as module
from microtome.artifacts.flatgeobuf import MAGIC, NODE_SIZE, CellsFlatGeobuf
from microtome.artifacts.outlines import Outlines, outlines
from microtome.artifacts.table import CellsCsv
from microtome.segmentation.measuring import MEASUREMENTS
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of

MPP = 0.25
NONE = np.zeros((8, 8), np.int32)


def tiles(scale: float = 1.9803) -> list[Outlines]:
    """Two tiles with cells and, between them, one without."""
    places = [(discs(seed=1), 0, 0), (NONE, 256, 0), (discs(seed=2), 0, 256)]
    return [outlines(tile_of(labels, x, y), scale, KEY) for labels, x, y in places]


def unmeasured(cells: Outlines) -> Outlines:
    """The same cells, one of them with numbers missing."""
    measured = cells.measured.copy()
    measured[5, 2:] = np.nan
    return replace(cells, measured=measured)


def flatgeobuf(path: Path, of: list[Outlines]) -> Path:
    with CellsFlatGeobuf(path) as file:
        for cells in of:
            file.append(cells)
    return path


@pytest.mark.parametrize("mpp", [MPP, None])
def test_a_table_has_a_row_for_each_cell(tmp_path: Path, mpp: float | None) -> None:
    path, of = tmp_path / "cells.csv", [unmeasured(cells) if len(cells) else cells for cells in tiles()]
    with CellsCsv(path, mpp) as file:
        for cells in of:
            file.append(cells)
    table = pd.read_csv(path)
    assert table["id"].tolist() == [id_ for cells in of for id_ in cells.ids]
    centres = np.concatenate([cells.centroid for cells in of])
    assert np.abs(table[["centroid_x_px", "centroid_y_px"]].to_numpy() - centres).max() < 0.006
    if mpp is None:
        assert table[["centroid_x_um", "centroid_y_um"]].isna().all(axis=None)
    else:
        assert np.abs(table[["centroid_x_um", "centroid_y_um"]].to_numpy() - centres * MPP).max() < 0.001
    assert np.allclose(table["area_px"], np.concatenate([cells.area for cells in of]), atol=0.001)
    measured = np.concatenate([cells.measured for cells in of])
    for number, measurement in enumerate(MEASUREMENTS):
        assert np.allclose(table[measurement.column], measured[:, number], atol=0.0006, equal_nan=True)
    assert table.isna().sum()["circularity"] == 2
    # A reader that knows only commas and lines understands the same.
    rows = list(csv.reader(io.StringIO(path.read_text())))
    assert {len(row) for row in rows} == {7 + len(MEASUREMENTS)}
    assert '"' not in path.read_text()


def test_gdal_reads_every_cell_with_every_number(tmp_path: Path) -> None:
    of = [unmeasured(cells) if len(cells) else cells for cells in tiles()]
    path = flatgeobuf(tmp_path / "cells.fgb", of)
    table = geopandas.read_file(path)
    assert table["id"].tolist() == [id_ for cells in of for id_ in cells.ids]
    assert table.geometry.is_valid.all()
    rings = [cells.ring(index) for cells in of for index in range(len(cells))]
    for polygon, ring in zip(table.geometry, rings, strict=True):
        assert np.array_equal(shapely.get_coordinates(polygon)[:-1], ring)
    assert np.array_equal(table["area_px"], np.concatenate([cells.area for cells in of]))
    assert np.array_equal(table["score"].astype(np.float32), np.concatenate([cells.score for cells in of]))
    measured = np.concatenate([cells.measured for cells in of])
    for number, measurement in enumerate(MEASUREMENTS):
        assert np.array_equal(table[measurement.column].astype(np.float32), measured[:, number], equal_nan=True)
    info = pyogrio.read_info(path)
    assert info["features"] == 80
    assert info["crs"] is None
    assert info["capabilities"]["fast_spatial_filter"]
    assert info["total_bounds"] == pytest.approx(tuple(shapely.total_bounds(table.geometry)))


# One node, a full one, one more than that, and three levels.
@pytest.mark.parametrize("count", [1, 16, 17, 80, 256, 257, 700])
def test_a_window_gives_exactly_the_cells_in_it(tmp_path: Path, count: int) -> None:
    of, left = [], count
    while left:
        some = outlines(tile_of(discs(min(80, left), seed=left), x=256 * len(of), y=96 * len(of)), 2.0, KEY)
        of.append(some)
        left -= len(some)
    path = flatgeobuf(tmp_path / "cells.fgb", of)
    everything = geopandas.read_file(path)
    assert len(everything) == count
    random = np.random.default_rng(count)
    x0, y0, x1, y1 = everything.total_bounds
    for _ in range(12):
        across, down = np.sort(random.uniform((x0, y0), (x1, y1), (2, 2)), axis=0).T
        window = shapely.box(across[0], down[0], across[1], down[1])
        found = geopandas.read_file(path, bbox=window.bounds)
        assert sorted(found["id"]) == sorted(everything["id"][everything.intersects(window)])


def test_a_reader_of_ranges_finds_cells_by_the_index_alone(tmp_path: Path) -> None:
    """As a viewer does: the header, then one way down the tree, then the bytes of one feature."""
    of = [outlines(tile_of(discs(80, seed=x), x=256 * x), 2.0, KEY) for x in range(5)]
    data = flatgeobuf(tmp_path / "cells.fgb", of).read_bytes()
    assert data[:8] == MAGIC
    index_at = 12 + struct.unpack_from("<I", data, 8)[0]
    count, levels = 400, [25, 2, 1]
    node = struct.Struct("<4dQ")
    nodes = [node.unpack_from(data, index_at + number * node.size) for number in range(count + sum(levels))]
    features_at = index_at + len(nodes) * node.size
    wanted = of[3].lower[17]
    reached, features = [0], []
    while reached:
        number = reached.pop()
        x0, y0, x1, y1, offset = nodes[number]
        if not (x0 <= wanted[0] <= x1 and y0 <= wanted[1] <= y1):
            continue
        if number >= sum(levels):
            features.append(offset)
            continue
        last_of_level = 1 if number == 0 else 3 if number < 3 else 28
        end = [3, 28, len(nodes)][[1, 3, 28].index(last_of_level)]
        reached += range(offset, min(offset + NODE_SIZE, end))
    texts = []
    for offset in features:
        at = features_at + offset
        (size,) = struct.unpack_from("<I", data, at)
        assert (at + 4 + size == len(data)) or size % 8 == 4
        texts.append(data[at : at + 4 + size])
    assert any(of[3].ids[17].encode() in text for text in texts)
    assert len(texts) < 5
    # What the index says of a feature's length is where the next one begins.
    offsets = sorted(each[4] for each in nodes[sum(levels) :])
    sizes = [struct.unpack_from("<I", data, features_at + offset)[0] + 4 for offset in offsets]
    assert np.array_equal(np.cumsum([0, *sizes[:-1]]), offsets)
    assert features_at + offsets[-1] + sizes[-1] == len(data)


@pytest.mark.parametrize("of", [[], [outlines(tile_of(NONE), 2.0, KEY)]], ids=["no tiles", "no cells"])
def test_files_without_cells_are_valid(tmp_path: Path, of: list[Outlines]) -> None:
    assert len(geopandas.read_file(flatgeobuf(tmp_path / "cells.fgb", of))) == 0
    with CellsCsv(tmp_path / "cells.csv", MPP) as file:
        for cells in of:
            file.append(cells)
    table = pd.read_csv(tmp_path / "cells.csv")
    assert len(table) == 0
    assert list(table)[-len(MEASUREMENTS) :] == [each.column for each in MEASUREMENTS]


def test_the_same_cells_give_the_same_bytes_and_nothing_is_left_beside_them(tmp_path: Path) -> None:
    once, again = (flatgeobuf(tmp_path / name, tiles()).read_bytes() for name in ("once.fgb", "again.fgb"))
    assert once == again
    assert {path.name for path in tmp_path.iterdir()} == {"once.fgb", "again.fgb"}


def test_a_file_that_failed_does_not_appear(tmp_path: Path) -> None:
    def fail() -> None:
        with CellsFlatGeobuf(tmp_path / "cells.fgb") as file:
            file.append(tiles()[0])
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        fail()
    assert not list(tmp_path.iterdir())


def test_putting_a_file_together_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PIECE", 4096)
    asked = 0

    def stop() -> None:
        nonlocal asked
        asked += 1
        if asked == 5:
            raise InterruptedError

    def write() -> None:
        with CellsFlatGeobuf(tmp_path / "cells.fgb", go_on=stop) as file:
            for cells in tiles():
                file.append(cells)

    with pytest.raises(InterruptedError):
        write()
    assert asked == 5


def test_a_disk_without_copies_of_its_own_gives_the_same_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = flatgeobuf(tmp_path / "usual.fgb", tiles()).read_bytes()
    copy, calls = os.copy_file_range, 0

    def fails(source: int, target: int, count: int, offset_src: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:  # and that only in part
            return copy(source, target, min(count, 1000), offset_src=offset_src)
        raise OSError(errno.EXDEV, "not on this disk")

    monkeypatch.setattr(os, "copy_file_range", fails)
    assert flatgeobuf(tmp_path / "other.fgb", tiles()).read_bytes() == usual
    assert calls == 3


def test_memory_grows_only_with_the_upper_levels_of_the_tree(tmp_path: Path) -> None:
    cells = outlines(tile_of(discs(count=80)), 2.0, KEY)
    flatgeobuf(tmp_path / "warm.fgb", [cells] * 3)
    peaks = []
    for repeats in (100, 500):
        tracemalloc.start()
        flatgeobuf(tmp_path / "cells.fgb", [cells] * repeats)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    # 32,000 more cells are 1.3 MB of boxes and 12 MB of features. The largest chunk of boxes read at once is 2.6 MB.
    assert peaks[1] - peaks[0] < 1 << 20
    assert peaks[1] < 3 << 20
