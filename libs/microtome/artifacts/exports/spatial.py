"""cells.spatialdata.zarr: labels, outlines and measurements in one SpatialData store.

Promises: elements `cell_labels` (label image in model pixels), `cells` (polygons in level-0 pixels, index: label) and
`measurements` (AnnData, annotates `cells`), all in the coordinate systems `global` (level-0 pixels of the slide) and,
where the pixel size is known, `micrometres`. Labels pass through a pyramid on disk, not through memory; the polygons
and the table are held in memory, some kilobytes for each cell.
Refuses: the slide's own pixels; they stay in the slide.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import dask.array
import geopandas
import numpy as np
import shapely
import spatialdata
import zarr
from spatialdata.models import Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale

from microtome.artifacts.exports.job import JobFiles
from microtome.artifacts.exports.pyramid import write_label_pyramid
from microtome.artifacts.exports.tables import annotated


def write_spatialdata(job: JobFiles, target: Path) -> None:
    """Write the store."""
    with tempfile.TemporaryDirectory(prefix=".labels-", dir=target.parent) as aside:
        pyramid = Path(aside) / "labels.zarr"
        write_label_pyramid(job, pyramid)
        labels = dask.array.from_zarr(zarr.open_array(pyramid / "0", mode="r"))  # type: ignore[no-untyped-call]
        spatialdata.SpatialData(
            labels={"cell_labels": _labels(job, labels)},
            shapes={"cells": _shapes(job)},
            tables={"measurements": _table(job)},
        ).write(target)


def _systems(job: JobFiles, level0_per_unit: float) -> dict[str, Any]:
    """Where a thing lies whose unit is so many level-0 pixels."""
    mpp = job.summary.get("mpp")
    systems = {"global": _scaled(level0_per_unit)}
    return systems if mpp is None else {**systems, "micrometres": _scaled(level0_per_unit * float(mpp))}


def _scaled(factor: float) -> Scale | Identity:
    return Identity() if factor == 1 else Scale([factor, factor], axes=("x", "y"))


def _labels(job: JobFiles, labels: dask.array.Array) -> Any:  # noqa: ANN401 - an xarray of the library's own kind
    return Labels2DModel.parse(labels, dims=("y", "x"), transformations=_systems(job, job.tiling.scale))


def _shapes(job: JobFiles) -> geopandas.GeoDataFrame:
    table = job.table(["id", "geometry"])
    polygons = shapely.from_wkb(table.column("geometry").to_numpy())
    frame = geopandas.GeoDataFrame({"id": table.column("id").to_pylist()}, geometry=polygons)
    frame.index = np.arange(1, len(frame) + 1)
    return ShapesModel.parse(frame, transformations=_systems(job, 1.0))


def _table(job: JobFiles) -> Any:  # noqa: ANN401 - an AnnData with the library's own marks
    table = annotated(job)
    table.obs["region"] = "cells"
    table.obs["region"] = table.obs["region"].astype("category")
    return TableModel.parse(table, region="cells", region_key="region", instance_key="label")
