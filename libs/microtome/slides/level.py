"""One level of a slide seen at a coarser or finer scale.

Promises: the same pixels for the same place whatever region they are asked for in, and memory bounded by
the region asked for, not by what it covers: large regions are put together from parts.
Refuses: regions outside of the level.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from microtome.slides.opening import read_level, whole_level0
from microtome.slides.resample import box_mean, output_length, resample, taps

Pixels = npt.NDArray[np.uint8]

_SOURCE_PIXELS = 1 << 23


@dataclass(frozen=True, slots=True)
class LevelView:
    """Level `level` of the slide at `path`, `step` of its pixels to one of this view's."""

    path: Path
    level: int
    level_width: int
    level_height: int
    step: float

    @property
    def width(self) -> int:
        """In pixels of this view."""
        return output_length(self.level_width, self.step)

    @property
    def height(self) -> int:
        """In pixels of this view."""
        return output_length(self.level_height, self.step)

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """`[height, width, 3]` uint8. Raises `UnreadableSlide` when the data cannot be decoded."""
        if width * height * self.step**2 <= _SOURCE_PIXELS or width * height == 1:
            return self._read_part(x, y, width, height)
        out = np.empty((height, width, 3), np.uint8)
        if width >= height:
            middle = width // 2
            out[:, :middle] = self.read(x, y, middle, height)
            out[:, middle:] = self.read(x + middle, y, width - middle, height)
        else:
            middle = height // 2
            out[:middle] = self.read(x, y, width, middle)
            out[middle:] = self.read(x, y + middle, width, height - middle)
        return out

    def expect(self, pixels: int) -> None:
        """So many pixels of this view will be read: a small slide is decoded as a whole for all of them.

        Raises `UnreadableSlide` when the data cannot be decoded.
        """
        if self.level == 0:
            whole_level0(self.path, round(pixels * self.step**2))

    def _read_part(self, x: int, y: int, width: int, height: int) -> Pixels:
        if self.step == 1:
            return self._read_level(x, y, width, height)
        if self.step == round(self.step):
            factor = round(self.step)
            right = min((x + width) * factor, self.level_width)
            bottom = min((y + height) * factor, self.level_height)
            return box_mean(self._read_level(x * factor, y * factor, right - x * factor, bottom - y * factor), factor)
        columns = taps(x, width, self.step, self.level_width)
        rows = taps(y, height, self.step, self.level_height)
        left, top = columns.begin, rows.begin
        return resample(self._read_level(left, top, columns.end - left, rows.end - top), rows, columns, top, left)

    def _read_level(self, x: int, y: int, width: int, height: int) -> Pixels:
        if self.level == 0 and (kept := whole_level0(self.path, width * height)) is not None:
            return kept[y : y + height, x : x + width].copy()
        return read_level(self.path, self.level, x, y, width, height)
