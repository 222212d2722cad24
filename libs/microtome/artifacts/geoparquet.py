"""cells.parquet: the canonical result, GeoParquet 1.1.

Promises: polygons as WKB in level-0 pixels (`crs` is null: these are image coordinates, y down),
a `bbox` column that readers can filter row groups by, row groups in the order in which cells
arrive. Refuses: to hold more than one row group in memory.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines

ROW_GROUP_CELLS = 16_384

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
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

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
        # Bounds are float32: rounded outwards, so that a filter never loses a cell.
        low = np.nextafter(lower.astype(np.float32), np.float32(-np.inf))
        high = np.nextafter(upper.astype(np.float32), np.float32(np.inf))
        bbox = pa.StructArray.from_arrays([low[:, 0], low[:, 1], high[:, 0], high[:, 1]], fields=list(_BBOX))
        area_um2 = (
            pa.nulls(len(cells), pa.float64()) if self._mpp is None else pa.array(cells.area * self._mpp * self._mpp)
        )
        columns = [
            pa.array(cells.ids),
            pa.array([polygon_wkb(cells.ring(index)) for index in range(len(cells))], pa.binary()),
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


def polygon_wkb(ring: NDArray[np.float64]) -> bytes:
    """Return a polygon of one open ring, float64 [k, 2], as little-endian WKB; the ring is closed here."""
    closed = np.concatenate((ring, ring[:1]))
    return struct.pack("<BIII", 1, 3, 1, len(closed)) + closed.astype("<f8").tobytes()
