"""Label images of tiles, drawn from the outlines of their cells.

Promises: each cell of a job is in exactly one mask, the one of the tile that owns its seed, and covers exactly the
pixels that the network gave it, holes filled; memory is bounded by one tile and one row group, however large the
slide. Refuses: to invent what outlines do not say: holes are lost.

A mask is a 16-bit PNG in model pixels and shows the tile with its halo, as the network saw it; where it lies on the
slide, `Tiling.places` says. 0 is background; label n is the n-th cell in cells.parquet whose seed lies in the core of
the tile. Tiles without cells have no mask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from microtome.artifacts.wkb import HEADER
from microtome.segmentation.grid import Grid

# What 16 bits can name. A tile with more cells has more than one mask.
MAX_LABEL = 65_535
# Strongly compressed it takes three times as long and saves little: there are few values in long runs.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3)

Labels = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a job cut its slide, and how many level-0 pixels a model pixel is."""

    grid: Grid
    scale: float

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Tiling | None:
        """What summary.json says; None of a job that looked for no cells, or that an earlier version tiled."""
        if not summary.get("grid_width") or summary.get("halo") is None or not summary.get("scale"):
            return None
        names = ("grid_width", "grid_height", "tile_size", "halo")
        return cls(Grid(*(int(summary[name]) for name in names)), float(summary["scale"]))

    def places(self) -> tuple[str, str]:
        """Return, for x and for y, where tile c begins and which tile owns a seed at s, both in model pixels."""
        x, y = (
            f"tile c begins at min(c * {axis.step}, {axis.plane - axis.edge}) and is {axis.edge} pixels long; "
            f"c = min(max(floor((s - {axis.halo}) / {axis.step}), 0), {axis.count - 1})"
            for axis in (self.grid.across, self.grid.down)
        )
        return x, y


@dataclass(frozen=True, slots=True)
class TileOutlines:
    """Cells of one tile in their order in the file: closed rings, float64 [k, 2], level-0 pixels."""

    row: int
    column: int
    # 0, or how many masks of this tile came before.
    part: int
    rings: list[npt.NDArray[np.float64]]

    @property
    def name(self) -> str:
        """The mask's file name."""
        return f"{self.row}-{self.column}{f'.{self.part + 1}' if self.part else ''}.png"


def tiles(cells: IO[bytes], tiling: Tiling) -> Iterator[TileOutlines]:
    """The tiles with cells, as they come in cells.parquet, where each tile's cells stand together. Blocks."""
    parts: Counter[tuple[int, int]] = Counter()
    current: TileOutlines | None = None
    with pq.ParquetFile(cells) as file:
        for batch in file.iter_batches(4096, columns=["geometry", "seed_x", "seed_y"]):
            rows = tiling.grid.down.holding(batch.column("seed_y").to_numpy())
            columns = tiling.grid.across.holding(batch.column("seed_x").to_numpy())
            geometry = batch.column("geometry")
            for index in range(len(batch)):
                address = (int(rows[index]), int(columns[index]))
                if current is None or address != (current.row, current.column) or len(current.rings) == MAX_LABEL:
                    if current is not None:
                        yield current
                    current = TileOutlines(*address, parts[address], [])
                    parts[address] += 1
                points = np.frombuffer(geometry[index].as_buffer(), "<f8", offset=HEADER)
                current.rings.append(points.reshape(-1, 2))
    if current is not None:
        yield current


def draw(tile: TileOutlines, tiling: Tiling) -> Labels:
    """The label image uint16 [tile_height, tile_width] of a tile. Blocks."""
    grid = tiling.grid
    labels = np.zeros((grid.tile_height, grid.tile_width), np.uint16)
    # In half model pixels, rings have whole coordinates, and the middle of pixel x is at 2x + 1.
    origin = 2 * np.array([grid.across.origin(tile.column), grid.down.origin(tile.row)])
    rings = [np.rint(ring * (2 / tiling.scale)).astype(np.int32) - origin for ring in tile.rings]
    # A cell in a hole of another one stays visible.
    sizes = [float(cv2.contourArea(ring.astype(np.float32))) for ring in rings]
    for index in np.argsort(sizes, kind="stable")[::-1]:
        _fill(labels, rings[index], int(index) + 1)
    return labels


def place(tile: TileOutlines, tiling: Tiling) -> dict[str, Any]:
    """Where a mask lies, for a manifest: its first pixel in model and in level-0 pixels, and its cells."""
    x, y = tiling.grid.across.origin(tile.column), tiling.grid.down.origin(tile.row)
    return {
        "file": tile.name,
        "row": tile.row,
        "column": tile.column,
        "x": x,
        "y": y,
        "width": tiling.grid.tile_width,
        "height": tiling.grid.tile_height,
        "level0_x": x * tiling.scale,
        "level0_y": y * tiling.scale,
        "cells": len(tile.rings),
    }


def png(labels: Labels) -> bytes:
    """The image as a 16-bit PNG. Blocks."""
    done, encoded = cv2.imencode(".png", labels, _PNG)
    assert done, "an array of 16 bits can always be a PNG"
    return bytes(encoded)


def _fill(labels: Labels, ring: npt.NDArray[np.int64], label: int) -> None:
    """Give `label` to the pixels whose middles are in the ring, given in half pixels."""
    size = np.array(labels.shape[::-1])
    low = np.clip(ring.min(axis=0) // 2, 0, size)
    high = np.clip(-(-ring.max(axis=0) // 2), 0, size)
    width, height = (high - low).tolist()
    if width < 1 or height < 1:
        return
    # At twice the size every middle is a point of its own, never on the ring, so nothing is rounded.
    patch = np.zeros((2 * height + 1, 2 * width + 1), np.uint8)
    cv2.fillPoly(patch, [(ring - 2 * low).astype(np.int32)], 1)
    inside = patch[1::2, 1::2].astype(bool)
    (x, y) = low.tolist()
    labels[y : y + height, x : x + width][inside] = label
