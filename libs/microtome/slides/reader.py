"""Regions of a slide at the model's pixel size.

Promises: a region's pixels never depend on how the slide was tiled: any two overlapping reads agree exactly.
Missing parts of a scan are white.
Refuses: to read outside of the slide (what the network sees there is made of what lies inside), to apply ICC profiles
(models were trained without), to guess a pixel size, to read unbounded regions.

Coordinates: model pixel `i` covers level 0 from `i * scale` to `(i + 1) * scale`, measured in pixel edges. So a
polygon whose vertices lie on pixel *edges* maps by `level0 = model * scale`, and one whose vertices are pixel
*centres* (integer coordinates name the centre) by `level0 = (model + 0.5) * scale - 0.5`. The polygon that
is meant by the one is the polygon that is meant by the other.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from microtome.errors import InvalidRequest, TooLarge, UnknownMpp
from microtome.slides.level import LevelView
from microtome.slides.opening import cached_slide

Pixels = npt.NDArray[np.uint8]

SNAP = 0.02
MAX_REGION_PIXELS = 1 << 25


class SlideReader:
    """A slide seen at `target_mpp` µm per pixel; picklable, opened when first used in a process."""

    def __init__(self, path: Path | str, mpp: float | None, target_mpp: float = 0.5) -> None:
        """Raises `UnknownMpp` without a pixel size, `UnreadableSlide` when the slide cannot be opened."""
        if mpp is None:
            raise UnknownMpp
        if not (mpp > 0 and target_mpp > 0):
            raise InvalidRequest(f"Pixel sizes must be positive, not {mpp} and {target_mpp} µm.")
        self.path = Path(path)
        self.slide_mpp = mpp
        self.target_mpp = target_mpp
        scale, self.notes = _scale(mpp, target_mpp)
        #: Level-0 pixels per model pixel, x and y.
        self.scale: tuple[float, float] = (scale, scale)
        slide = cached_slide(self.path)
        self.level0_width, self.level0_height = slide.dimensions
        level = _best_level(slide.dimensions, slide.level_dimensions, scale)
        level_width, level_height = slide.level_dimensions[level]
        step = scale / (self.level0_width // level_width)
        self._view = LevelView(self.path, level, level_width, level_height, step)
        self.width = self._view.width
        self.height = self._view.height

    def __reduce__(self) -> tuple[type[SlideReader], tuple[Path, float, float]]:
        return (SlideReader, (self.path, self.slide_mpp, self.target_mpp))

    @property
    def mpp(self) -> float:
        """µm per model pixel as it really is; differs from the target by at most 2 % after snapping."""
        return self.slide_mpp * self.scale[0]

    def read(self, x: int, y: int, width: int, height: int) -> Pixels:
        """`[height, width, 3]` uint8 at model pixels (`x`, `y`), inside the slide.

        Raises `InvalidRequest` for a region that is not, `UnreadableSlide` when the data cannot be decoded, `TooLarge`
        for more than 2**25 pixels.
        """
        if width < 1 or height < 1:
            raise InvalidRequest(f"A region needs a positive size, not {width} x {height}.")
        if width * height > MAX_REGION_PIXELS:
            raise TooLarge(f"A region of {width} x {height} pixels is more than is read at once.")
        if x < 0 or y < 0 or x + width > self.width or y + height > self.height:
            raise InvalidRequest(f"Region {width} x {height} at ({x}, {y}) is not inside {self.width} x {self.height}.")
        return self._view.read(x, y, width, height)

    def expect(self, pixels: int) -> None:
        """So many model pixels will be read, a few at a time: what they have in common is decoded once, now.

        Raises `UnreadableSlide` when the data cannot be decoded.
        """
        self._view.expect(pixels)

    def to_level0(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points `[…, 2]` (x, y) that name pixel centres, from model pixels to level-0 pixels."""
        mapped: npt.NDArray[np.float64] = (points + 0.5) * np.asarray(self.scale) - 0.5
        return mapped

    def edges_to_level0(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points `[…, 2]` (x, y) that lie on pixel edges, from model pixels to level-0 pixels."""
        mapped: npt.NDArray[np.float64] = points * np.asarray(self.scale)
        return mapped


@lru_cache(maxsize=8)
def open_cached(path: Path, mpp: float | None, target_mpp: float = 0.5) -> SlideReader:
    """A reader that this process keeps; for workers that read many tiles of few slides."""
    return SlideReader(path, mpp, target_mpp)


def _scale(mpp: float, target_mpp: float) -> tuple[float, tuple[str, ...]]:
    """Level-0 pixels per model pixel; whole when within 2 %, as scanners of one class differ by that much."""
    scale = target_mpp / mpp
    whole = max(1, round(scale))
    if scale == whole:
        return scale, ()
    if abs(scale / whole - 1) > SNAP:
        return scale, (_enlarged(mpp, target_mpp),) if scale < 1 else ()
    note = (
        f"The slide has {mpp:.4g} µm per pixel; it is read {whole}:1, at {mpp * whole:.4g} µm per pixel "
        f"instead of {target_mpp:.4g}."
    )
    return float(whole), (note,)


def _enlarged(mpp: float, target_mpp: float) -> str:
    return (
        f"The slide has {mpp:.4g} µm per pixel, coarser than the {target_mpp:.4g} of the model: it is enlarged, and "
        "cells that only finer pixels show are missed."
    )


def _best_level(size: tuple[int, int], levels: tuple[tuple[int, int], ...], scale: float) -> int:
    """The coarsest level that divides level 0 without a remainder and still holds what the model is to see.

    Only where levels divide evenly do their whole positions fall on whole positions of level 0; elsewhere OpenSlide
    interpolates by a fraction that depends on where one reads. A whole `scale` must stay a mean of whole boxes;
    otherwise at least two pixels of the level are wanted for one of the model's, or the average blurs.
    """
    best, coarsest = 0, 1
    for index, (width, height) in enumerate(levels):
        factor = size[0] // width
        exact = size == (width * factor, height * factor)
        step = scale / factor
        fits = step == round(step) if scale == round(scale) else step >= 2
        if exact and fits and coarsest < factor <= scale:
            best, coarsest = index, factor
    return best
