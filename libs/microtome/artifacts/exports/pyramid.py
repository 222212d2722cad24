"""cells.ome.zarr: all cells as one label image with its pyramid, OME-NGFF 0.4.

Promises: label n is the n-th row of cells.parquet; level 0 has the model's pixels, so a label covers exactly the pixels
that the network gave the cell, holes filled; each further level takes every second pixel. Written tile by tile: memory
is bounded by a tile and a few chunks, however large the slide.
Refuses: to smooth labels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from microtome.artifacts.exports.job import JobFiles, LabelTile

CHUNK = 1024
# The coarsest level fits into one chunk.
_SMALLEST = CHUNK


def write_label_pyramid(job: JobFiles, target: Path) -> None:
    """Write the pyramid as a Zarr group (version 2, `/` between chunk numbers)."""
    grid = job.tiling.grid
    root = zarr.create_group(target, zarr_format=2)
    finest = _array(root, 0, grid.height, grid.width)
    for tile in job.label_tiles():
        _lay(finest, tile)
    level, arrays = finest, 1
    while max(level.shape) > _SMALLEST:
        coarser = _array(root, arrays, -(-level.shape[0] // 2), -(-level.shape[1] // 2))
        _halve(level, coarser)
        level, arrays = coarser, arrays + 1
    root.attrs.update(_metadata(job, arrays))


def _array(root: zarr.Group, level: int, height: int, width: int) -> zarr.Array[Any]:
    return root.create_array(
        str(level),
        shape=(height, width),
        chunks=(min(CHUNK, height), min(CHUNK, width)),
        dtype="uint32",
        fill_value=0,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )


def _lay(level: zarr.Array[Any], tile: LabelTile) -> None:
    """Add a tile's cells; they may reach over its neighbours' pixels, which stay."""
    rows, columns = np.flatnonzero(tile.labels.any(axis=1)), np.flatnonzero(tile.labels.any(axis=0))
    if not rows.size:
        return
    part = tile.labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    top, left = tile.y + int(rows[0]), tile.x + int(columns[0])
    where = (slice(top, top + part.shape[0]), slice(left, left + part.shape[1]))
    below = np.asarray(level[where])
    level[where] = np.where(part > 0, part, below)


def _halve(fine: zarr.Array[Any], coarse: zarr.Array[Any]) -> None:
    height, width = coarse.shape
    for y in range(0, height, CHUNK):
        for x in range(0, width, CHUNK):
            block = np.asarray(fine[2 * y : 2 * (y + CHUNK) : 2, 2 * x : 2 * (x + CHUNK) : 2])
            if block.any():
                coarse[y : y + block.shape[0], x : x + block.shape[1]] = block


def _metadata(job: JobFiles, levels: int) -> dict[str, Any]:
    um = job.model_mpp
    # Without a pixel size: level-0 pixels of the slide.
    edge = job.tiling.scale if um is None else um
    axis: dict[str, str] = {"type": "space"} if um is None else {"type": "space", "unit": "micrometer"}
    datasets = []
    for level in range(levels):
        step = edge * 2**level
        # Every second pixel: the first one's centre stays where it was, half a pixel of level 0 from the corner.
        datasets.append(
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [step, step]},
                    {"type": "translation", "translation": [edge / 2, edge / 2]},
                ],
            }
        )
    return {
        "multiscales": [
            {
                "version": "0.4",
                "name": "cells",
                "axes": [{"name": "y", **axis}, {"name": "x", **axis}],
                "datasets": datasets,
                "type": "nearest",
            }
        ],
        "image-label": {"version": "0.4"},
        "microtome": {"labels": "label n is row n of cells.parquet, from 1", "slide_id": job.summary.get("slide_id")},
    }
