"""Cells in the slide's own coordinates.

The engine thinks in model pixels; users think in level-0 pixels. This is the one place where the
first become the second: level0 = model x scale, both with the origin at the upper left corner of
the upper left pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.hilbert import hilbert_index
from microtome.segmentation.cells import TileCells
from microtome.segmentation.measuring import Measurement, in_micrometres, measurements_of

ID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class Outlines:
    """The cells of one tile, on the slide, in Hilbert order.

    `id_text`: uint8 [n, 36], one UUID each. `seed_x`, `seed_y`: int32 [n], model pixels. `area`: float64 [n],
    level-0 pixels² of the mask. `score`: float32 [n], 0 to 1. `offsets`: int64 [n + 1] into `points`: float64
    [m, 2], x and y in level-0 pixels; rings are open (the first point is not repeated). `lower`, `upper`: float64
    [n, 2], the corners of each cell's box; `centroid`: float64 [n, 2], of the outline's area; all level-0 pixels.
    `measured`: float32 [n, k], columns as `measurements` names them.
    """

    id_text: NDArray[np.uint8]
    seed_x: NDArray[np.int32]
    seed_y: NDArray[np.int32]
    area: NDArray[np.float64]
    score: NDArray[np.float32]
    offsets: NDArray[np.int64]
    points: NDArray[np.float64]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]
    centroid: NDArray[np.float64]
    measured: NDArray[np.float32]
    measurements: tuple[Measurement, ...]

    def __len__(self) -> int:
        return len(self.area)

    @property
    def ids(self) -> list[str]:
        """The cells' UUIDs."""
        text = self.id_text.tobytes().decode()
        return [text[start : start + ID_LENGTH] for start in range(0, len(text), ID_LENGTH)]

    def ring(self, index: int) -> NDArray[np.float64]:
        """Return the open ring of one cell, float64 [k, 2]."""
        return self.points[self.offsets[index] : self.offsets[index + 1]]


def file_order(cells: TileCells) -> NDArray[np.int64]:
    """Return the order in which a tile's cells stand in every file, int64 [n]: along a Hilbert curve by their seeds."""
    return np.argsort(hilbert_index(cells.seed_x.astype(np.int64), cells.seed_y.astype(np.int64), 31), kind="stable")


def outlines(cells: TileCells, scale: float, content_key: str, mpp: float | None = None) -> Outlines:
    """Return a tile's cells on the slide; `scale` is level-0 pixels per model pixel, `mpp` µm per level-0 pixel.

    Without `mpp`, lengths and areas in µm are NaN.
    """
    order = file_order(cells)
    lengths = np.diff(cells.ring_offsets)[order]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
    points = np.empty((int(offsets[-1]), 2))
    lower, upper, centroid = (np.empty((len(cells), 2)) for _ in range(3))
    # Rings are in half model pixels.
    _place(
        np.ascontiguousarray(cells.ring_points), cells.ring_offsets, order, scale / 2.0, points, lower, upper, centroid
    )
    seed_x, seed_y = cells.seed_x[order], cells.seed_y[order]
    return Outlines(
        id_text=cell_ids(content_key, seed_x, seed_y),
        seed_x=seed_x,
        seed_y=seed_y,
        area=cells.area_px[order].astype(np.float64) * scale * scale,
        score=cells.score[order],
        offsets=offsets,
        points=points,
        lower=lower,
        upper=upper,
        centroid=centroid,
        measured=in_micrometres(cells.measurements[order], None if mpp is None else scale * mpp),
        measurements=measurements_of(cells.stain),
    )


def cell_ids(content_key: str, seed_x: NDArray[np.int32], seed_y: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Return a UUID (version 8, RFC 9562) for each seed, uint8 [n, 36]: the same cell of the same content always has
    the same id.

    Layout: 60 bits of the content key, then 32 bits of the seed's x and 28 of its y.
    """
    key = content_key[:15]
    out = np.empty((len(seed_x), ID_LENGTH), np.uint8)
    out[:] = np.frombuffer(f"{key[:8]}-{key[8:12]}-8{key[12:15]}-8000-000000000000".encode(), np.uint8)
    _number(out, seed_x, seed_y)
    return out


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _place(
    ring_points: NDArray[np.int32],
    ring_offsets: NDArray[np.int32],
    order: NDArray[np.int64],
    half: float,
    points: NDArray[np.float64],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    centroid: NDArray[np.float64],
) -> None:
    """Scale the rings in their new order, to thousandths of a pixel; give each one's box and centre of area."""
    at = 0
    for index in range(order.size):
        start, end = ring_offsets[order[index]], ring_offsets[order[index] + 1]
        # In whole half pixels, from the first point: exact, wherever on the slide it is.
        x0, y0 = np.int64(ring_points[start, 0]), np.int64(ring_points[start, 1])
        twice, along_x, along_y = np.int64(0), np.int64(0), np.int64(0)
        for axis in range(2):
            lower[index, axis], upper[index, axis] = np.inf, -np.inf
        for source in range(start, end):
            for axis in range(2):
                value = np.rint(ring_points[source, axis] * half * 1000.0) / 1000.0
                points[at, axis] = value
                lower[index, axis] = min(lower[index, axis], value)
                upper[index, axis] = max(upper[index, axis], value)
            at += 1
            after = source + 1 if source + 1 < end else start
            x, y = ring_points[source, 0] - x0, ring_points[source, 1] - y0
            next_x, next_y = ring_points[after, 0] - x0, ring_points[after, 1] - y0
            cross = x * next_y - next_x * y
            twice += cross
            along_x += (x + next_x) * cross
            along_y += (y + next_y) * cross
        centroid[index, 0] = np.rint((x0 + along_x / (3.0 * twice)) * half * 1000.0) / 1000.0
        centroid[index, 1] = np.rint((y0 + along_y / (3.0 * twice)) * half * 1000.0) / 1000.0


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _number(out: NDArray[np.uint8], seed_x: NDArray[np.int32], seed_y: NDArray[np.int32]) -> None:
    """Write three and five hexadecimal digits of x, and seven of y, where a UUID has its last sixteen."""
    for index in range(seed_x.size):
        bits = (np.uint64(np.uint32(seed_x[index])) << np.uint64(28)) | np.uint64(seed_y[index] & 0xFFFFFFF)
        for place in range(35, 19, -1):
            if place == 23:
                continue
            digit = bits & np.uint64(15)
            out[index, place] = 48 + digit if digit < 10 else 87 + digit
            bits >>= np.uint64(4)
