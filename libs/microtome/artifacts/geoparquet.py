"""cells.parquet: the canonical result, GeoParquet 1.1.

Promises: polygons as WKB in level-0 pixels (`crs` is null: these are image coordinates, y down),
a `bbox` column that readers can filter row groups by, every measurement, row groups in the order in which cells
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

from microtome.artifacts.outlines import ID_LENGTH, Outlines
from microtome.artifacts.wkb import polygons_wkb
from microtome.segmentation.measuring import measurements_of
from microtome.segmentation.stains import HE, Stain

ROW_GROUP_CELLS = 16_384

_BBOX = pa.struct([(name, pa.float32()) for name in ("xmin", "ymin", "xmax", "ymax")])
_FIELDS = [
    ("id", pa.string()),
    ("geometry", pa.binary()),
    ("bbox", _BBOX),
    ("seed_x", pa.int32()),
    ("seed_y", pa.int32()),
    ("centroid_x", pa.float64()),
    ("centroid_y", pa.float64()),
    ("area_px", pa.float64()),
    ("score", pa.float32()),
]


class CellsParquet:
    """Writes outlines as they come; a context manager. The file is complete when it closes."""

    def __init__(self, path: Path, properties: dict[str, Any], stain: Stain = HE) -> None:
        """`properties`: said in the file's metadata; `stain`: what the measurements' columns are named after."""
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0
        self._bounds = [np.inf, np.inf, -np.inf, -np.inf]
        measured = [(each.column, pa.float32()) for each in measurements_of(stain)]
        self._schema = pa.schema([*_FIELDS, *measured])
        self._properties = properties
        # Without Arrow's own copy of the schema: readers that find one look for `geo` in it, not in the file's footer,
        # and what goes there is only known at the end. Without dictionaries: hardly a value occurs twice.
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="zstd", use_dictionary=False, store_schema=False
        )

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
        for axis in (0, 1):
            self._bounds[axis] = min(self._bounds[axis], float(cells.lower[:, axis].min()))
            self._bounds[axis + 2] = max(self._bounds[axis + 2], float(cells.upper[:, axis].max()))
        self._waiting.append(self._batch(cells))
        self._rows += len(cells)
        if self._rows >= ROW_GROUP_CELLS:
            self._flush()

    def _batch(self, cells: Outlines) -> pa.RecordBatch:
        low, high = _outwards(cells.lower, -np.inf), _outwards(cells.upper, np.inf)
        bbox = pa.StructArray.from_arrays([low[:, 0], low[:, 1], high[:, 0], high[:, 1]], fields=list(_BBOX))
        columns = [
            _strings(cells.id_text),
            polygons_wkb(cells.points, cells.offsets),
            bbox,
            pa.array(cells.seed_x),
            pa.array(cells.seed_y),
            pa.array(cells.centroid[:, 0]),
            pa.array(cells.centroid[:, 1]),
            pa.array(cells.area),
            pa.array(cells.score),
            # What could not be measured is null.
            *(pa.array(column, from_pandas=True) for column in cells.measured.T),
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


def _strings(text: NDArray[np.uint8]) -> pa.StringArray:
    """Texts of one length, uint8 [n, ID_LENGTH], as strings."""
    ends = np.arange(len(text) + 1, dtype=np.int32) * np.int32(ID_LENGTH)
    return pa.Array.from_buffers(
        pa.string(), len(text), [None, pa.py_buffer(ends), pa.py_buffer(np.ascontiguousarray(text))]
    )


def _outwards(corners: NDArray[np.float64], direction: float) -> NDArray[np.float32]:
    """Return float32 that is never further in than `corners`, so that a filter by box never loses a cell."""
    nearest = corners.astype(np.float32)
    inside = nearest > corners if direction < 0 else nearest < corners
    return np.where(inside, np.nextafter(nearest, np.float32(direction)), nearest)
