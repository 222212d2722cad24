"""How many cells there are where: counts on a grid over the slide.

Promises: every cell is counted once, in the bin that holds the centre of its outline; values are cells per mm² of the
bin's part of the slide (per megapixel at level 0 where no pixel size is known); memory is bounded by the grid, which
has at most `MOST_BINS` a side. `density.tif` holds the values as 32-bit floats, `density.png` shows them in colour,
with a bar that says what the colours mean; both say how large a bin is.
Refuses: smoothing; a bin says what was counted in it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray

from microtome.artifacts.outlines import Outlines

MOST_BINS = 512
# Edges of bins that are round numbers, µm (or level-0 pixels): from what a field of view has to what a slide has.
_EDGES = (100, 200, 250, 500, 1000, 2000, 2500, 5000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
_MM2, _MEGAPIXEL = 1e6, 1e6
# Where colours end: this share of the bins that have cells is below. A few crowded ones do not darken the others.
_SHOWN = 0.995
# What is left over at the right and the lower edge is a bin of its own from this share of a bin: in a sliver one cell
# would be the densest place of the slide.
_LEAST = 0.1
_PICTURE, _BAR_WIDTH, _MARGIN = 1024, 24, 96
_TICKS = 5
# Rows of squares repeat the row above.
_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 3, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)
_WHITE, _INK = (255, 255, 255), (40, 40, 40)


@dataclass(frozen=True, slots=True)
class Density:
    """Values on a grid: `values` float32 [rows, columns] in `unit`, bins of `edge` in `edge_unit`; colours end
    at the value `top`.
    """

    values: NDArray[np.float32]
    edge: float
    edge_unit: str
    unit: str
    top: float
    # Level-0 pixels: edge of a bin, and width and height of the slide.
    step: float
    size: tuple[int, int]

    def save_tiff(self, path: Path) -> None:
        """Write the values; the description says, as JSON, what they mean and where they lie."""
        facts = {
            "unit": self.unit,
            "bin": self.edge,
            "bin_unit": self.edge_unit,
            "bin_level0_pixels": self.step,
            "origin": "upper left corner of the slide",
        }
        # A printer's resolution would be a guess; readers take the description.
        tifffile.imwrite(path, self.values, description=json.dumps(facts), compression="zlib", software="microtome")

    def picture(self, width: int, height: int) -> NDArray[np.uint8]:
        """The values in colour, uint8 RGB [height, width, 3], as they lie on the slide; white without cells."""
        scaled = np.clip(self.values / self.top * 255, 0, 255).astype(np.uint8)
        colours = cv2.cvtColor(cv2.applyColorMap(255 - scaled, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
        colours[self.values == 0] = _WHITE
        down, across = (
            np.minimum(((np.arange(length) + 0.5) / length * whole / self.step).astype(np.intp), bins - 1)
            for length, whole, bins in zip((height, width), self.size[::-1], self.values.shape, strict=True)
        )
        # A row of each bin first: whole rows are repeated a hundred times as fast as pixels, and lie as others expect.
        found: NDArray[np.uint8] = np.take(np.take(colours, across, axis=1), down, axis=0)
        return found

    def with_legend(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Put the bar and what it means under a picture of the values."""
        width = max(picture.shape[1], 360)
        canvas = np.full((picture.shape[0] + _MARGIN, width, 3), 255, np.uint8)
        canvas[: picture.shape[0], : picture.shape[1]] = picture
        cv2.rectangle(canvas, (0, 0), (picture.shape[1] - 1, picture.shape[0] - 1), _INK, 1)
        left, right, upper = 16, width - 48, picture.shape[0] + 34
        ramp = np.linspace(255, 0, right - left).astype(np.uint8)[None].repeat(_BAR_WIDTH, axis=0)
        bar = cv2.cvtColor(cv2.applyColorMap(ramp, cv2.COLORMAP_MAGMA), cv2.COLOR_BGR2RGB)
        canvas[upper : upper + _BAR_WIDTH, left:right] = bar
        title = f"{self.unit}, bins of {self.edge:g} {self.edge_unit}; most: {float(self.values.max(initial=0)):.0f}"
        _write(canvas, title, left, upper - 10)
        for tick in range(_TICKS):
            share = tick / (_TICKS - 1)
            text = f"{self.top * share:.0f}" + (
                "+" if tick == _TICKS - 1 and self.values.max(initial=0) > self.top else ""
            )
            _write(canvas, text, round(left + share * (right - left)) - 8, upper + _BAR_WIDTH + 20)
        return canvas

    def picture_with_legend(self) -> NDArray[np.uint8]:
        """What `density.png` shows, uint8 RGB [h, w, 3]."""
        factor = max(1, _PICTURE // max(self.values.shape)) / self.step
        width, height = (max(1, round(length * factor)) for length in self.size)
        return self.with_legend(self.picture(width, height))

    def save_png(self, path: Path, canvas: NDArray[np.uint8] | None = None) -> None:
        """Write `picture_with_legend`, which may be at hand as `canvas`."""
        canvas = self.picture_with_legend() if canvas is None else canvas
        done, data = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), _PNG)
        assert done, "OpenCV encodes any uint8 image"
        path.write_bytes(data.tobytes())


class CellCounts:
    """Counts cells as they come; a slide of `width` x `height` level-0 pixels of `mpp` µm (None: unknown)."""

    def __init__(self, width: int, height: int, mpp: float | None) -> None:
        self._mpp = mpp
        self._size = width, height
        pixel = 1.0 if mpp is None else mpp
        longest = max(width, height) * pixel
        self._edge = float(
            next((edge for edge in _EDGES if longest <= edge * MOST_BINS), math.ceil(longest / MOST_BINS))
        )
        self._step = self._edge / pixel
        self._shape = _bins(height / self._step), _bins(width / self._step)
        self._counts = np.zeros(self._shape, np.int64)

    def append(self, cells: Outlines) -> None:
        """Count the cells of one tile."""
        if not len(cells):
            return
        rows, columns = self._shape
        # Model pixels that a slide only half fills may reach over its edge.
        column = np.clip((cells.centroid[:, 0] / self._step).astype(np.int64), 0, columns - 1)
        row = np.clip((cells.centroid[:, 1] / self._step).astype(np.int64), 0, rows - 1)
        # As many bins as the tile touches, not as the slide has.
        low_row, low_column = int(row.min()), int(column.min())
        width = int(column.max()) - low_column + 1
        found = np.bincount((row - low_row) * width + column - low_column)
        found = np.pad(found, (0, -len(found) % width)).reshape(-1, width)
        self._counts[low_row : low_row + len(found), low_column : low_column + width] += found

    def density(self) -> Density:
        """What was counted, by area."""
        rows, columns = self._shape
        width, height = self._size
        # Bins at the right and the lower edge have less of the slide, or a little more.
        across, down = np.full(columns, self._step), np.full(rows, self._step)
        across[-1], down[-1] = width - self._step * (columns - 1), height - self._step * (rows - 1)
        area = np.outer(down, across)
        area = area / _MEGAPIXEL if self._mpp is None else area * (self._mpp * self._mpp) / _MM2
        values = (self._counts / area).astype(np.float32)
        some = values[values > 0]
        unit, edge_unit = ("cells/Mpx", "px") if self._mpp is None else ("cells/mm2", "um")
        return Density(values, self._edge, edge_unit, unit, _round_up(some), self._step, self._size)


def _bins(length: float) -> int:
    """How many bins a slide has that is so many bins long."""
    return max(1, math.ceil(length - _LEAST))


def _round_up(values: NDArray[np.float32]) -> float:
    """A round number that nearly all of the values are below."""
    if not values.size:
        return 1.0
    largest = float(np.quantile(values, _SHOWN))
    unit = 10.0 ** math.floor(math.log10(largest))
    return next(step * unit for step in (1, 2, 4, 5, 8, 10) if step * unit >= largest * (1 - 1e-9))


def _write(canvas: NDArray[np.uint8], text: str, x: int, y: int) -> None:
    cv2.putText(canvas, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, _INK, 1, cv2.LINE_AA)
