"""cells.geojson: what QuPath opens.

Promises: a valid FeatureCollection with one detection for each cell, UUID ids, level-0 pixels and
measurements under the names that QuPath shows, written as a stream. Refuses: to hold more than one tile's cells.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines
from microtome.artifacts.text import NUMBER, as_bytes, joined, put_bytes, put_number
from microtome.segmentation.measuring import measurements_of
from microtome.segmentation.shares import in_shares
from microtome.segmentation.stains import HE, Stain

PROBABILITY = "Detection probability"
# Hundredths of a pixel, thousandths of a µm, ten-thousandths of what has no unit.
_PIXEL_DECIMALS = 2
_DECIMALS = {"µm": 3, "µm^2": 3}
_OTHER_DECIMALS = 4

# Cells that are not worth a thread of their own.
_FEW = 512

_HEAD = as_bytes('{"type":"Feature","id":"')
_SHAPE = as_bytes('","geometry":{"type":"Polygon","coordinates":[[')
_KIND = as_bytes(
    ']]},"properties":{"objectType":"detection","classification":{"name":"Nucleus","color":[38,115,255]},'
    '"measurements":{'
)
_TAIL = as_bytes("}}}")


def decimals_of(unit: str) -> int:
    """How many decimals a measurement in `unit` is written with."""
    return _DECIMALS.get(unit, _OTHER_DECIMALS)


class CellsGeoJson:
    """Writes outlines as they come; a context manager. The file is valid when it closes."""

    def __init__(self, path: Path, stain: Stain = HE, threads: int = 1) -> None:
        """`stain`: what the measurements are named after; `threads` share a tile's cells."""
        self._threads = threads
        self._file = path.open("wb")
        measurements = measurements_of(stain)
        names = [*(each.name for each in measurements), PROBABILITY]
        self._keys = joined([json.dumps(name, ensure_ascii=False) + ":" for name in names])
        self._decimals = np.array([*(decimals_of(each.unit) for each in measurements), _OTHER_DECIMALS], np.int64)
        self._first = True

    def __enter__(self) -> CellsGeoJson:
        self._file.write(b'{"type":"FeatureCollection","features":[')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._file.write(b"\n]}\n")
        self._file.close()

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile."""
        if not len(cells):
            return
        values = np.column_stack([cells.measured, cells.score])
        parts = in_shares(lambda first, last: self._text(cells, values, first, last), len(cells), self._threads, _FEW)
        # Each feature begins with a comma and a new line.
        self._file.write(parts[0][1:].data if self._first else parts[0].data)
        for part in parts[1:]:
            self._file.write(part.data)
        self._first = False

    def _text(self, cells: Outlines, values: NDArray[np.float32], first: int, last: int) -> NDArray[np.uint8]:
        """The features of cells `first` to before `last`."""
        keys, key_offsets = self._keys
        count, offsets = last - first, cells.offsets[first : last + 1]
        fixed = count * (_HEAD.size + cells.id_text.shape[1] + _SHAPE.size + _KIND.size + _TAIL.size + 2)
        closed = int(offsets[-1] - offsets[0]) + count
        room = fixed + closed * (2 * NUMBER + 4) + count * (keys.size + values.shape[1] * (NUMBER + 1))
        out = np.empty(room, np.uint8)
        end = _features(
            out, cells.id_text[first:last], cells.points, offsets, values[first:last], self._decimals, keys,
            key_offsets, _HEAD, _SHAPE, _KIND, _TAIL,
        )  # fmt: skip
        return out[:end]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _features(
    out: NDArray[np.uint8],
    ids: NDArray[np.uint8],
    points: NDArray[np.float64],
    offsets: NDArray[np.int64],
    values: NDArray[np.float32],
    decimals: NDArray[np.int64],
    keys: NDArray[np.uint8],
    key_offsets: NDArray[np.int64],
    head: NDArray[np.uint8],
    shape: NDArray[np.uint8],
    kind: NDArray[np.uint8],
    tail: NDArray[np.uint8],
) -> int:
    """Write all features; return where they end."""
    at = 0
    for index in range(ids.shape[0]):
        out[at], out[at + 1] = 44, 10
        at = put_bytes(out, at + 2, head)
        at = put_bytes(out, at, ids[index])
        at = put_bytes(out, at, shape)
        first, last = offsets[index], offsets[index + 1]
        for step in range(last - first + 1):
            point = first if step == last - first else first + step
            if step > 0:
                out[at] = 44
                at += 1
            out[at] = 91
            at = put_number(out, at + 1, points[point, 0], _PIXEL_DECIMALS)
            out[at] = 44
            at = put_number(out, at + 1, points[point, 1], _PIXEL_DECIMALS)
            out[at] = 93
            at += 1
        at = put_bytes(out, at, kind)
        measured = False
        for column in range(decimals.size):
            value = values[index, column]
            # JSON has no word for what could not be measured.
            if not np.isfinite(value):
                continue
            if measured:
                out[at] = 44
                at += 1
            measured = True
            at = put_bytes(out, at, keys[key_offsets[column] : key_offsets[column + 1]])
            at = put_number(out, at, value, decimals[column])
        at = put_bytes(out, at, tail)
    return at
