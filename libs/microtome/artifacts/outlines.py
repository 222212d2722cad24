"""Cells in the slide's own coordinates.

The engine thinks in model pixels; users think in level-0 pixels. This is the one place where the
first become the second: level0 = model x scale, both with the origin at the upper left corner of
the upper left pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.hilbert import hilbert_index
from microtome.segmentation.cells import TileCells


@dataclass(frozen=True, slots=True)
class Outlines:
    """The cells of one tile, on the slide, in Hilbert order.

    `ids`: one UUID string each. `seed_x`, `seed_y`: int32 [n], model pixels. `area`: float64 [n],
    level-0 pixels². `score`: float32 [n], 0 to 1. `offsets`: int64 [n + 1] into `points`: float64
    [m, 2], x and y in level-0 pixels; rings are open (the first point is not repeated).
    """

    ids: Sequence[str]
    seed_x: NDArray[np.int32]
    seed_y: NDArray[np.int32]
    area: NDArray[np.float64]
    score: NDArray[np.float32]
    offsets: NDArray[np.int64]
    points: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.area)

    def ring(self, index: int) -> NDArray[np.float64]:
        """Return the open ring of one cell, float64 [k, 2]."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and upper corners of every cell, float64 [n, 2] each."""
        if not len(self):
            return np.empty((0, 2)), np.empty((0, 2))
        starts = self.offsets[:-1]
        return np.minimum.reduceat(self.points, starts), np.maximum.reduceat(self.points, starts)


def outlines(cells: TileCells, scale: float, content_key: str) -> Outlines:
    """Return a tile's cells on the slide; `scale` is level-0 pixels per model pixel."""
    order = np.argsort(hilbert_index(cells.seed_x.astype(np.int64), cells.seed_y.astype(np.int64), 31), kind="stable")
    lengths = np.diff(cells.ring_offsets)[order]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    # For each point of the result, the index of the point that it comes from.
    source = np.repeat(cells.ring_offsets[:-1][order] - offsets[:-1], lengths) + np.arange(offsets[-1])
    # Rings are in half model pixels.
    points = np.round(cells.ring_points[source].astype(np.float64) * (scale / 2.0), 3)
    seed_x, seed_y = cells.seed_x[order], cells.seed_y[order]
    return Outlines(
        ids=cell_ids(content_key, seed_x, seed_y),
        seed_x=seed_x,
        seed_y=seed_y,
        area=cells.area_px[order].astype(np.float64) * scale * scale,
        score=cells.score[order],
        offsets=offsets,
        points=points,
    )


def closed_rings(
    points: NDArray[np.float64], offsets: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return all rings with their first point repeated at the end: float64 [m + n, 2] and their offsets, int64 [n + 1].

    Every ring needs at least one point.
    """
    count = len(offsets) - 1
    closed = np.insert(points, offsets[1:], points[offsets[:-1]], axis=0)
    return np.ascontiguousarray(closed), offsets + np.arange(count + 1)


def cell_ids(content_key: str, seed_x: NDArray[np.int32], seed_y: NDArray[np.int32]) -> list[str]:
    """Return a UUID (version 8, RFC 9562) for each seed: the same cell of the same content always has the same id.

    Layout: 60 bits of the content key, then 32 bits of the seed's x and 28 of its y.
    """
    key = content_key[:15]
    prefix = f"{key[:8]}-{key[8:12]}-8{key[12:15]}-8"
    return [
        f"{prefix}{(x >> 20) & 0xFFF:03x}-{x & 0xFFFFF:05x}{y & 0xFFFFFFF:07x}"
        for x, y in zip(seed_x.tolist(), seed_y.tolist(), strict=True)
    ]
