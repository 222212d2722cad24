"""cells.fgb of a finished job, from its cells.parquet.

Promises: the very bytes that a job writes which was told to write FlatGeobuf; memory is bounded by some thousand cells
and a sixteenth of the boxes. Refuses: nothing that has cells.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microtome.artifacts.exports.job import JobFiles
from microtome.artifacts.flatgeobuf import CellsFlatGeobuf
from microtome.artifacts.outlines import ID_LENGTH, Outlines
from microtome.artifacts.wkb import HEADER
from microtome.segmentation.measuring import Measurement

_ROWS = 4096
_COLUMNS = ("id", "geometry", "seed_x", "seed_y", "centroid_x", "centroid_y", "area_px", "score")


def write_flatgeobuf(job: JobFiles, target: Path) -> None:
    """Write the file."""
    columns = [*_COLUMNS, *(each.column for each in job.measurements)]
    with pq.ParquetFile(job.cells) as file, CellsFlatGeobuf(target, job.stain) as cells:
        for batch in file.iter_batches(_ROWS, columns=columns):
            cells.append(_outlines(batch, job.measurements))


def _outlines(batch: pa.RecordBatch, measurements: tuple[Measurement, ...]) -> Outlines:
    points, offsets = _rings(batch.column("geometry"))
    starts = offsets[:-1]
    text = "".join(batch.column("id").to_pylist()).encode()
    measured = [batch.column(each.column).to_numpy(zero_copy_only=False) for each in measurements]
    return Outlines(
        id_text=np.frombuffer(text, np.uint8).reshape(-1, ID_LENGTH),
        seed_x=batch.column("seed_x").to_numpy(),
        seed_y=batch.column("seed_y").to_numpy(),
        area=batch.column("area_px").to_numpy(),
        score=batch.column("score").to_numpy(),
        offsets=offsets,
        points=points,
        lower=np.minimum.reduceat(points, starts, axis=0),
        upper=np.maximum.reduceat(points, starts, axis=0),
        centroid=np.column_stack([batch.column(name).to_numpy() for name in ("centroid_x", "centroid_y")]),
        measured=np.column_stack(measured).astype(np.float32),
        measurements=measurements,
    )


def _rings(geometry: pa.BinaryArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Open rings of polygons of one ring each: points float64 [m, 2], offsets int64 [n + 1]."""
    closed = [np.frombuffer(each.as_buffer(), "<f8", offset=HEADER).reshape(-1, 2) for each in geometry]
    offsets = np.concatenate(([0], np.cumsum([len(ring) - 1 for ring in closed]))).astype(np.int64)
    return np.concatenate([ring[:-1] for ring in closed]), offsets
