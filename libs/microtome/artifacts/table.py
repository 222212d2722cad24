"""cells.csv: one row for each cell, for spreadsheets, R and whatever reads text.

Promises: RFC 4180 with a header and without a single quote or comma inside of a field, UTF-8, `.` for decimals, LF;
centres in level-0 pixels and in µm; what could not be measured is an empty field. Written as a stream.
Refuses: outlines; the other files have them.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.geojson import decimals_of
from microtome.artifacts.outlines import Outlines
from microtome.artifacts.text import NUMBER, put_bytes, put_number
from microtome.segmentation.measuring import measurements_of
from microtome.segmentation.stains import HE, Stain

_PLACES = ("centroid_x_px", "centroid_y_px", "centroid_x_um", "centroid_y_um")
_BEFORE = (*_PLACES, "area_px", "score")
# Hundredths of a pixel, thousandths of a µm, then area and score.
_DECIMALS_BEFORE = (2, 2, 3, 3, 3, 4)


class CellsCsv:
    """Writes cells as they come; a context manager."""

    def __init__(self, path: Path, mpp: float | None, stain: Stain = HE) -> None:
        """`mpp`: µm per level-0 pixel (None: centres in µm stay empty); `stain`: names the measurements."""
        measurements = measurements_of(stain)
        self._mpp = np.nan if mpp is None else mpp
        self._decimals = np.array([*_DECIMALS_BEFORE, *(decimals_of(each.unit) for each in measurements)], np.int64)
        self._header = ",".join(["id", *_BEFORE, *(each.column for each in measurements)]) + "\n"
        self._file = path.open("wb")

    def __enter__(self) -> CellsCsv:
        self._file.write(self._header.encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def append(self, cells: Outlines) -> None:
        """Add the cells of one tile."""
        if not len(cells):
            return
        values = np.column_stack(
            [cells.centroid, cells.centroid * self._mpp, cells.area, cells.score.astype(np.float64), cells.measured]
        )
        out = np.empty(len(cells) * (cells.id_text.shape[1] + 1 + values.shape[1] * (NUMBER + 1)), np.uint8)
        end = _rows(out, cells.id_text, values, self._decimals)
        self._file.write(out[:end].data)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _rows(
    out: NDArray[np.uint8], ids: NDArray[np.uint8], values: NDArray[np.float64], decimals: NDArray[np.int64]
) -> int:
    """Write all rows; return where they end."""
    at = 0
    for index in range(ids.shape[0]):
        at = put_bytes(out, at, ids[index])
        for column in range(decimals.size):
            out[at] = 44
            at = put_number(out, at + 1, values[index, column], decimals[column])
        out[at] = 10
        at += 1
    return at
