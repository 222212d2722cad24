"""The files of cells, opened by readers that know nothing of their writers."""

from __future__ import annotations

import itertools
import json
import tracemalloc
import uuid
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.artifacts import geojson, geoparquet
from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import Outlines, outlines
from microtome.artifacts.wkb import polygons_wkb
from microtome.segmentation.measuring import MEASUREMENTS, measurements_of
from microtome.segmentation.stains import HDAB
from tests.unit.artifacts.cells_on_slide import KEY, discs, tile_of

NONE = np.zeros((8, 8), np.int32)


def tiles(scale: float) -> list[Outlines]:
    """Two tiles with cells and, between them, one without."""
    places = [(discs(seed=1), 0, 0), (NONE, 256, 0), (discs(seed=2), 0, 256)]
    return [outlines(tile_of(labels, x, y), scale, KEY, mpp=0.25) for labels, x, y in places]


def write(folder: Path, of: list[Outlines]) -> tuple[Path, Path]:
    parquet, features = folder / "cells.parquet", folder / "cells.geojson"
    with CellsParquet(parquet, {"content_key": KEY}) as first, CellsGeoJson(features) as second:
        for cells in of:
            first.append(cells)
            second.append(cells)
    return parquet, features


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.9803])
def test_parquet_holds_every_cell_as_a_valid_polygon(tmp_path: Path, scale: float) -> None:
    given_ = tiles(scale)
    table = pq.read_table(write(tmp_path, given_)[0])
    assert table.num_rows == 80
    assert table.column("id").to_pylist() == [id_ for cells in given_ for id_ in cells.ids]
    polygons = shapely.from_wkb(table.column("geometry").to_numpy())
    assert shapely.is_valid(polygons).all()
    assert set(shapely.get_type_id(polygons)) == {shapely.GeometryType.POLYGON}
    rings = [cells.ring(index) for cells in given_ for index in range(len(cells))]
    for polygon, ring in zip(polygons, rings, strict=True):
        assert np.array_equal(shapely.get_coordinates(polygon)[:-1], ring)
    for number, measurement in enumerate(MEASUREMENTS):
        expected = np.concatenate([cells.measured[:, number] for cells in given_])
        assert np.array_equal(table.column(measurement.column).to_numpy(), expected, equal_nan=True)
    centres = shapely.get_coordinates(shapely.centroid(polygons))
    assert np.abs(centres[:, 0] - table.column("centroid_x").to_numpy()).max() < 0.002
    assert np.abs(centres[:, 1] - table.column("centroid_y").to_numpy()).max() < 0.002
    assert table.column("score").type == pa.float32()


def test_parquet_boxes_cover_their_polygons_closely(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path, tiles(1.9803))[0])
    bounds = shapely.bounds(shapely.from_wkb(table.column("geometry").to_numpy()))
    boxes = np.array([[box[edge] for edge in ("xmin", "ymin", "xmax", "ymax")] for box in table["bbox"].to_pylist()])
    assert (boxes[:, :2] <= bounds[:, :2]).all()
    assert (boxes[:, 2:] >= bounds[:, 2:]).all()
    assert np.abs(boxes - bounds).max() < 0.001


def test_parquet_says_what_geoparquet_wants(tmp_path: Path) -> None:
    path = write(tmp_path, tiles(2.0))[0]
    schema = pq.read_schema(path)
    geo = json.loads(schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"][geo["primary_column"]]
    assert schema.field(geo["primary_column"]).type == pa.binary()
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    # Null, not absent: absent would mean longitude and latitude.
    assert column["crs"] is None
    for edge, way in column["covering"]["bbox"].items():
        parent, child = way
        assert pa.types.is_floating(schema.field(parent).type.field(child).type)
        assert edge == child
    polygons = shapely.from_wkb(pq.read_table(path).column("geometry").to_numpy())
    assert column["bbox"] == shapely.total_bounds(polygons).tolist()
    assert json.loads(schema.metadata[b"microtome"]) == {"content_key": KEY}


def test_a_reader_can_leave_out_row_groups_by_their_boxes(tmp_path: Path) -> None:
    """Many tiles along a row: a narrow strip must not need the whole file."""
    first = tile_of(discs(count=80))
    path = tmp_path / "cells.parquet"
    with CellsParquet(path, {}) as file:
        for x in range(0, 256 * 500, 256):
            shift = np.array([2 * x, 0], np.int32)
            moved = replace(first, seed_x=first.seed_x + np.int32(x), ring_points=first.ring_points + shift)
            file.append(outlines(moved, 1.0, KEY))
    file = pq.ParquetFile(path)
    assert file.metadata.num_rows == 80 * 500
    assert max(file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)) < 20_000
    left = file.schema_arrow.names.index("bbox") + 0
    spans = [
        (statistics.min, statistics.max)
        for group in range(file.metadata.num_row_groups)
        if (statistics := file.metadata.row_group(group).column(left).statistics)
    ]
    assert file.metadata.row_group(0).column(left).path_in_schema == "bbox.xmin"
    assert len(spans) > 1
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))
    found = pq.read_table(path, filters=pc.field("bbox", "xmin") > 127_000)
    assert 0 < found.num_rows < 400
    window = (64_000.0, 40.0, 64_300.0, 120.0)
    cells = geopandas.read_parquet(path, bbox=window)
    assert cells.crs is None
    everything = geopandas.read_parquet(path).set_index("id")
    inside = everything[everything.intersects(shapely.box(*window))]
    assert 0 < len(inside) <= len(cells) < 60
    assert set(inside.index) <= set(cells["id"])


@pytest.mark.parametrize("scale", [1.0, 2.0, 1.9803])
def test_geojson_is_what_qupath_reads(tmp_path: Path, scale: float) -> None:
    given_ = tiles(scale)
    content = json.loads(write(tmp_path, given_)[1].read_text())
    assert content["type"] == "FeatureCollection"
    assert len(content["features"]) == 80
    cells = [(cells, index) for cells in given_ for index in range(len(cells))]
    for feature, (of_tile, index) in zip(content["features"], cells, strict=True):
        assert feature["type"] == "Feature"
        assert feature["id"] == of_tile.ids[index]
        uuid.UUID(feature["id"])
        assert feature["geometry"]["type"] == "Polygon"
        (ring,) = feature["geometry"]["coordinates"]
        assert ring[0] == ring[-1]
        assert np.abs(np.array(ring[:-1]) - of_tile.ring(index)).max() <= 0.005 + 1e-9
        polygon = shapely.geometry.shape(feature["geometry"])
        assert polygon.is_valid
        assert feature["properties"]["objectType"] == "detection"
        assert feature["properties"]["classification"]["name"] == "Nucleus"
        assert all(0 <= channel <= 255 for channel in feature["properties"]["classification"]["color"])
        measurements = feature["properties"]["measurements"]
        assert list(measurements) == [*(each.name for each in MEASUREMENTS), "Detection probability"]
        for value, measurement in zip(of_tile.measured[index].tolist(), MEASUREMENTS, strict=True):
            assert measurements[measurement.name] == pytest.approx(value, abs=0.0006)
        assert measurements["Detection probability"] == pytest.approx(of_tile.score[index], abs=0.0001)


def test_what_could_not_be_measured_is_absent_or_null(tmp_path: Path) -> None:
    cells = tiles(2.0)[0]
    measured = cells.measured.copy()
    measured[3, 6:] = np.nan
    measured[4] = np.nan
    parquet, geojson = write(tmp_path, [replace(cells, measured=measured)])
    features = json.loads(geojson.read_text())["features"]
    assert list(features[3]["properties"]["measurements"]) == [
        *(each.name for each in MEASUREMENTS[:6]),
        "Detection probability",
    ]
    assert list(features[4]["properties"]["measurements"]) == ["Detection probability"]
    table = pq.read_table(parquet)
    nulls = [table.column(each.column).null_count for each in MEASUREMENTS]
    assert nulls == [1] * 6 + [2] * (len(MEASUREMENTS) - 6)


def test_another_stain_has_other_names(tmp_path: Path) -> None:
    with CellsParquet(tmp_path / "p", {}, HDAB), CellsGeoJson(tmp_path / "g", HDAB) as geojson:
        cells = tiles(2.0)[0]
        geojson.append(replace(cells, measurements=measurements_of(HDAB)))
    assert "dab_od_mean" in pq.read_schema(tmp_path / "p").names
    assert "DAB: Mean" in json.loads((tmp_path / "g").read_text())["features"][0]["properties"]["measurements"]


@pytest.mark.parametrize("of", [[], [outlines(tile_of(NONE), 2.0, KEY)]], ids=["no tiles", "no cells"])
def test_files_without_cells_are_valid(tmp_path: Path, of: list[Outlines]) -> None:
    parquet, geojson = write(tmp_path, of)
    table = pq.read_table(parquet)
    assert table.num_rows == 0
    column = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]
    assert "bbox" not in column
    assert json.loads(geojson.read_text()) == {"type": "FeatureCollection", "features": []}


def test_an_error_while_writing_is_not_hidden_by_closing(tmp_path: Path) -> None:
    def fail() -> None:
        with CellsParquet(tmp_path / "cells.parquet", {}), CellsGeoJson(tmp_path / "cells.geojson"):
            raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk is full"):
        fail()
    with pytest.raises(ValueError, match="Expecting"):
        json.loads((tmp_path / "cells.geojson").read_text())


rings = st.lists(
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=3, max_size=9), min_size=0, max_size=8
)


@settings(deadline=None)
@given(rings)
def test_wkb_of_any_rings_is_read_back_as_it_was(of: list[list[tuple[float, float]]]) -> None:
    points = np.array([point for ring in of for point in ring], np.float64).reshape(-1, 2)
    offsets = np.concatenate(([0], np.cumsum([len(ring) for ring in of]))).astype(np.int64)
    encoded = polygons_wkb(points, offsets)
    encoded.validate(full=True)
    read = shapely.from_wkb(encoded.to_pylist())
    assert len(read) == len(of)
    for polygon, ring in zip(read, of, strict=True):
        assert shapely.get_coordinates(polygon).tolist() == [list(point) for point in [*ring, ring[0]]]


def test_memory_does_not_grow_with_the_number_of_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's and numpy's memory; Arrow's own is given back."""
    monkeypatch.setattr(geoparquet, "ROW_GROUP_CELLS", 800)
    cells = outlines(tile_of(discs(count=80)), 2.0, KEY)
    write(tmp_path, [cells] * 10)
    peaks = []
    for repeats in (30, 150):
        tracemalloc.start()
        arrow = pa.total_allocated_bytes()
        write(tmp_path, [cells] * repeats)
        assert pa.total_allocated_bytes() - arrow < 1 << 20
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] + (1 << 16)


def test_threads_that_share_a_tile_write_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geojson, "_FEW", 8)
    for threads in (1, 2, 5):
        with CellsGeoJson(tmp_path / f"{threads}.geojson", threads=threads) as file:
            for cells in tiles(2.0):
                file.append(cells)
    alone = (tmp_path / "1.geojson").read_bytes()
    assert len(json.loads(alone)["features"]) == 80
    assert {(tmp_path / f"{threads}.geojson").read_bytes() for threads in (2, 5)} == {alone}
