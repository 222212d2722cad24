"""Label images of tiles, drawn from the outlines of their cells.

Promises: each cell of a job is in exactly one mask, the one of the tile that owns its seed, and covers exactly the
pixels that the network gave it, holes filled; memory is bounded by one tile and one row group, however large the
slide. Refuses: to invent what outlines do not say: holes are lost.

A mask is a 16-bit PNG in model pixels and shows the tile with its halo, as the network saw it: pixel (0, 0) of the mask
of (row, column) is model pixel (column · core - halo, row · core - halo). 0 is background; label n is the n-th cell in
cells.parquet whose seed lies in the core of the tile. Tiles without cells have no mask.
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

# What 16 bits can name. A tile with more cells has more than one mask.
MAX_LABEL = 65_535
# Byte order, type, number of rings, number of points: then come the coordinates.
_WKB_HEADER = 13
# Strongly compressed it takes three times as long and saves little: there are few values in long runs.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3)

Labels = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a job cut its slide, in model pixels, and how many level-0 pixels one of these is."""

    tile_size: int
    halo: int
    scale: float

    @classmethod
    def of(cls, summary: dict[str, Any]) -> Tiling | None:
        """What summary.json says; None of a job that looked for no cells."""
        if not summary.get("tile_size") or summary.get("halo") is None or not summary.get("scale"):
            return None
        return cls(int(summary["tile_size"]), int(summary["halo"]), float(summary["scale"]))

    @property
    def core(self) -> int:
        """Edge of what a tile owns."""
        return self.tile_size - 2 * self.halo


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
            rows = batch.column("seed_y").to_numpy() // tiling.core
            columns = batch.column("seed_x").to_numpy() // tiling.core
            geometry = batch.column("geometry")
            for index in range(len(batch)):
                address = (int(rows[index]), int(columns[index]))
                if current is None or address != (current.row, current.column) or len(current.rings) == MAX_LABEL:
                    if current is not None:
                        yield current
                    current = TileOutlines(*address, parts[address], [])
                    parts[address] += 1
                points = np.frombuffer(geometry[index].as_buffer(), "<f8", offset=_WKB_HEADER)
                current.rings.append(points.reshape(-1, 2))
    if current is not None:
        yield current


def draw(tile: TileOutlines, tiling: Tiling) -> Labels:
    """The label image uint16 [tile_size, tile_size] of a tile. Blocks."""
    labels = np.zeros((tiling.tile_size, tiling.tile_size), np.uint16)
    # In half model pixels, rings have whole coordinates, and the middle of pixel x is at 2x + 1.
    origin = 2 * (np.array([tile.column, tile.row]) * tiling.core - tiling.halo)
    rings = [np.rint(ring * (2 / tiling.scale)).astype(np.int32) - origin for ring in tile.rings]
    # A cell in a hole of another one stays visible.
    sizes = [float(cv2.contourArea(ring.astype(np.float32))) for ring in rings]
    for index in np.argsort(sizes, kind="stable")[::-1]:
        _fill(labels, rings[index], int(index) + 1)
    return labels


def png(labels: Labels) -> bytes:
    """The image as a 16-bit PNG. Blocks."""
    done, encoded = cv2.imencode(".png", labels, _PNG)
    assert done, "an array of 16 bits can always be a PNG"
    return bytes(encoded)


def _fill(labels: Labels, ring: npt.NDArray[np.int64], label: int) -> None:
    """Give `label` to the pixels whose middles are in the ring, given in half pixels."""
    size = labels.shape[0]
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
