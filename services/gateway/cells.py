"""The outlines of cells in a part of a slide, for the viewer.

Promises: reads the row groups and rows of `cells.parquet` that meet the rectangle, one row group at a time; returns at
most `MAX_OUTLINES`, an even sample by position when there are more, and says so. Footers are kept.
Refuses: to load a slide's cells whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from microtome.errors import InvalidRequest

MAX_OUTLINES = 20_000
# Byte order, type, number of rings, number of points: then come the coordinates.
_WKB_HEADER = 13
_EDGES = ("xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True, slots=True)
class Rectangle:
    """Level-0 pixels, closed on all sides."""

    x0: float
    y0: float
    x1: float
    y1: float

    @classmethod
    def parse(cls, text: str) -> Rectangle:
        """Read `x0,y0,x1,y1`. Raises `InvalidRequest`."""
        try:
            x0, y0, x1, y1 = (float(part) for part in text.split(","))
        except ValueError:
            raise InvalidRequest("bbox is x0,y0,x1,y1 in level-0 pixels.") from None
        if not all(math.isfinite(value) for value in (x0, y0, x1, y1)) or x1 <= x0 or y1 <= y0:
            raise InvalidRequest("bbox is x0,y0,x1,y1 with x0 < x1 and y0 < y1.")
        return cls(x0, y0, x1, y1)


@dataclass(frozen=True, slots=True)
class Found:
    """How many cells meet the rectangle, and the outlines of (a sample of) them: `x0, y0, x1, y1, …` open rings."""

    count: int
    sampled: bool
    outlines: list[list[float]]


def find(path: Path, rectangle: Rectangle, limit: int = MAX_OUTLINES) -> Found:
    """The cells of the file at `path` whose boxes meet `rectangle`. Blocks. Raises OSError."""
    with pq.ParquetFile(path, metadata=_footer(path, path.stat().st_mtime_ns)) as file:
        groups = [group for group in range(file.metadata.num_row_groups) if _may_meet(file.metadata, group, rectangle)]
        rows = [
            (group, *_matches(file.read_row_group(group, ["bbox", "seed_x", "seed_y"]), rectangle)) for group in groups
        ]
        count = sum(len(found) for _, found, _ in rows)
        chosen = _even_sample([seeds for _, _, seeds in rows], limit)
        outlines: list[list[float]] = []
        start = 0
        for group, found, _ in rows:
            kept = found[chosen[start : start + len(found)]]
            start += len(found)
            if len(kept):
                geometry = file.read_row_group(group, ["geometry"]).column("geometry").combine_chunks()
                outlines += [_ring(wkb.as_buffer()) for wkb in geometry.take(pa.array(kept))]
    return Found(count, count > limit, outlines)


@lru_cache(maxsize=32)
def _footer(path: Path, modified_ns: int) -> pq.FileMetaData:  # noqa: ARG001 - part of the key
    return pq.read_metadata(path)


def _may_meet(footer: pq.FileMetaData, group: int, rectangle: Rectangle) -> bool:
    """Whether the statistics of a row group allow a cell in the rectangle; true where there are none."""
    limits = {}
    row_group = footer.row_group(group)
    for index in range(row_group.num_columns):
        column = row_group.column(index)
        if column.path_in_schema.startswith("bbox."):
            if column.statistics is None or not column.statistics.has_min_max:
                return True
            limits[column.path_in_schema[5:]] = (column.statistics.min, column.statistics.max)
    if set(limits) != set(_EDGES):
        return True
    return bool(
        limits["xmin"][0] <= rectangle.x1
        and limits["xmax"][1] >= rectangle.x0
        and limits["ymin"][0] <= rectangle.y1
        and limits["ymax"][1] >= rectangle.y0
    )


def _matches(table: pa.Table, rectangle: Rectangle) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows of a row group that meet the rectangle, and their seeds as one number each (row-major)."""
    box = table.column("bbox").combine_chunks()
    xmin, ymin, xmax, ymax = (box.field(edge).to_numpy(zero_copy_only=False) for edge in _EDGES)
    meets = (xmin <= rectangle.x1) & (xmax >= rectangle.x0) & (ymin <= rectangle.y1) & (ymax >= rectangle.y0)
    found = np.flatnonzero(meets)
    x, y = (table.column(name).to_numpy().astype(np.int64)[found] for name in ("seed_x", "seed_y"))
    return found, (y << 32) + x


def _even_sample(seeds: list[npt.NDArray[np.int64]], limit: int) -> npt.NDArray[np.bool_]:
    """Which of all found cells to show: all, or `limit` of them at even steps in the order of their ids."""
    order = np.concatenate(seeds) if seeds else np.empty(0, np.int64)
    if len(order) <= limit:
        return np.ones(len(order), np.bool_)
    chosen = np.zeros(len(order), np.bool_)
    ranks = (np.arange(limit) * len(order)) // limit
    chosen[np.argsort(order, kind="stable")[ranks]] = True
    return chosen


def _ring(wkb: pa.Buffer) -> list[float]:
    """The ring of a WKB polygon without its closing point, to one decimal."""
    points = np.frombuffer(wkb, "<f8", offset=_WKB_HEADER)[:-2]
    rounded: list[float] = np.round(points, 1).tolist()
    return rounded
