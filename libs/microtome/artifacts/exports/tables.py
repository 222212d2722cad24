"""cells.h5ad: cells as observations and measurements as variables, for scanpy and what builds on AnnData.

Promises: one row for each cell in the order of cells.parquet; `X` float32 holds the measurements under the names that
QuPath shows, `obs` the ids, labels and scores, `obsm["spatial"]` the centres in level-0 pixels, `uns["microtome"]` the
job's summary as JSON. Refuses: outlines; SpatialData has them.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import orjson
import pandas as pd

from microtome.artifacts.exports.job import JobFiles

_OBSERVED = ("id", "seed_x", "seed_y", "area_px", "score")


def annotated(job: JobFiles) -> anndata.AnnData:
    """Return the table in memory: some 150 bytes for each cell."""
    names = job.measurements
    columns = [each.column for each in names]
    table = job.table([*_OBSERVED, "centroid_x", "centroid_y", *columns])
    measured = np.empty((table.num_rows, len(columns)), np.float32)
    for number, column in enumerate(columns):
        measured[:, number] = table.column(column).to_numpy()
    observed = pd.DataFrame({name: table.column(name).to_numpy() for name in _OBSERVED[1:]})
    observed["label"] = np.arange(1, table.num_rows + 1, dtype=np.int64)
    observed.index = pd.Index(table.column("id").to_pylist(), dtype=object)
    variables = pd.DataFrame(
        {"column": columns, "unit": [each.unit for each in names]}, index=pd.Index([each.name for each in names])
    )
    centres = np.column_stack([table.column("centroid_x").to_numpy(), table.column("centroid_y").to_numpy()])
    about = {"microtome": orjson.dumps(job.summary).decode()}
    return anndata.AnnData(X=measured, obs=observed, var=variables, obsm={"spatial": centres}, uns=about)


def write_anndata(job: JobFiles, target: Path) -> None:
    """Write the table as HDF5."""
    annotated(job).write_h5ad(target, compression="gzip")
