"""cells.parquet: the canonical result, GeoParquet 1.1.

Promises: polygons as WKB in level-0 pixels (`crs` is null: these are image coordinates, y down),
a `bbox` column that readers can filter row groups by, row groups in the order in which cells
arrive. Refuses: to hold more than one row group in memory.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines, closed_rings

ROW_GROUP_CELLS = 16_384

_WKB_HEADER = np.dtype([("order", "u1"), ("type", "<u4"), ("rings", "<u4"), ("points", "<u4")])
_BBOX = pa.struct([(name, pa.float32()) for name in ("xmin", "ymin", "xmax", "ymax")])
_FIELDS = [
    ("id", pa.string()),
    ("geometry", pa.binary()),
    ("bbox", _BBOX),
    ("seed_x", pa.int32()),
    ("seed_y", pa.int32()),
    ("area_px", pa.float64()),
    ("area_um2", pa.float64()),
    ("score", pa.float32()),
]


class CellsParquet:
    """Writes outlines as they come; a context manager. The file is complete when it closes."""

    def __init__(self, path: Path, mpp: float | None, properties: dict[str, Any]) -> None:
        """`mpp`: µm per level-0 pixel (None: areas in µm² stay null); `properties`: said in the file's metadata."""
        self._mpp = mpp
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bounds = [np.inf, np.inf, -np.inf, -np.inf]
        self._schema = pa.schema(_FIELDS)
        self._properties = properties
        # Without Arrow's own copy of the schema: readers that find one look for `geo` in it, not in the file's footer,
        # and what goes there is only known at the end.
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd", store_schema=False)

    def __enter__(self) -> CellsParquet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            self._writer.add_key_value_metadata(
                {"geo": json.dumps(self._geo()), "microtome": json.dumps(self._properties)}
            )
        self._writer.close()

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile."""
        if not len(cells):
            return
        lower, upper = cells.bounds()
        for axis in (0, 1):
            self._bounds[axis] = min(self._bounds[axis], float(lower[:, axis].min()))
            self._bounds[axis + 2] = max(self._bounds[axis + 2], float(upper[:, axis].max()))
        self._waiting.append(self._batch(cells, lower, upper))
        self._rows += len(cells)
        if self._rows >= ROW_GROUP_CELLS:
            self._flush()

    def _batch(self, cells: Outlines, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> pa.RecordBatch:
        low, high = _outwards(lower, -np.inf), _outwards(upper, np.inf)
        bbox = pa.StructArray.from_arrays([low[:, 0], low[:, 1], high[:, 0], high[:, 1]], fields=list(_BBOX))
        area_um2 = (
            pa.nulls(len(cells), pa.float64()) if self._mpp is None else pa.array(cells.area * self._mpp * self._mpp)
        )
        columns = [
            pa.array(cells.ids),
            polygons_wkb(cells.points, cells.offsets),
            bbox,
            pa.array(cells.seed_x),
            pa.array(cells.seed_y),
            pa.array(cells.area),
            area_um2,
            pa.array(cells.score),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self._schema)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=2 * self._rows)
        self._waiting, self._rows = [], 0

    def _geo(self) -> dict[str, Any]:
        corners = ("xmin", "ymin", "xmax", "ymax")
        column: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None,
            "covering": {"bbox": {corner: ["bbox", corner] for corner in corners}},
        }
        if np.isfinite(self._bounds[0]):
            column["bbox"] = self._bounds
        return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def polygons_wkb(points: NDArray[np.float64], offsets: NDArray[np.int64]) -> pa.BinaryArray:
    """Return polygons of one ring each as little-endian WKB, a binary array [n].

    Ring i is `points[offsets[i]:offsets[i + 1]]`, x and y, at least one point, open; it is closed here. All at once,
    since a slide has millions of cells: the coordinates are copied between headers that are laid out first.
    """
    count = len(offsets) - 1
    closed, starts = closed_rings(points, offsets)
    lengths = np.diff(starts)
    headers = np.zeros(count, _WKB_HEADER)
    headers["order"], headers["type"], headers["rings"], headers["points"] = 1, 3, 1, lengths
    ends = np.concatenate(([0], np.cumsum(_WKB_HEADER.itemsize + 16 * lengths)))
    data = np.empty(ends[-1], np.uint8)
    of_points = np.ones(ends[-1], np.bool_)
    at_headers = ends[:-1, None] + np.arange(_WKB_HEADER.itemsize)
    of_points[at_headers] = False
    data[at_headers] = headers.view(np.uint8).reshape(count, _WKB_HEADER.itemsize)
    data[of_points] = closed.astype("<f8", copy=False).view(np.uint8).ravel()
    # 32-bit offsets: a tile's cells are some megabytes, never two gigabytes.
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.binary(), count, buffers)


def _outwards(corners: NDArray[np.float64], direction: float) -> NDArray[np.float32]:
    """Return float32 that is never further in than `corners`, so that a filter by box never loses a cell."""
    nearest = corners.astype(np.float32)
    inside = nearest > corners if direction < 0 else nearest < corners
    return np.where(inside, np.nextafter(nearest, np.float32(direction)), nearest)
