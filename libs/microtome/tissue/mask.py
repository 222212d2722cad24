"""The tissue mask of a slide.

Promises: stained tissue, also pale, without glass, ink, coverslip edges, black borders and dirt; deterministic;
everything that was used to make it is kept with it.
Refuses: fluorescence, where dark is background; the caller has to ask `SlideFacts.stain` first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from microtome.slides.opening import cached_slide
from microtome.slides.thumbnail import thumbnail
from microtome.tissue.ink import ink, opened

Bits = npt.NDArray[np.bool_]

TARGET_UM = 8.0
MIN_SIDE = 512
MAX_SIDE = 4096


@dataclass(frozen=True, slots=True)
class TissueParameters:
    """What a mask was made with; stain strengths are optical densities, areas µm²."""

    lowest_threshold: float = 0.028
    highest_threshold: float = 0.10
    grey_threshold: float = 0.12
    narrowest_grey_um: float = 100.0
    smoothing_um: float = 8.0
    smallest_tissue_um2: float = 2_500.0
    largest_hole_um2: float = 20_000.0


@dataclass(frozen=True, slots=True)
class TissueMask:
    """Tissue on a slide. `bits` is `[h, w]` bool; pixel x covers level 0 from x to x + 1 times `downsample`."""

    bits: Bits
    level0_width: int
    level0_height: int
    #: Level-0 pixels per mask pixel, x and y.
    downsample: tuple[float, float]
    #: µm per mask pixel, or None when the slide's pixel size is unknown.
    mpp: float | None
    threshold: float
    parameters: TissueParameters
    notes: tuple[str, ...]

    @property
    def fraction(self) -> float:
        """The share of the slide that is tissue."""
        return float(self.bits.mean())

    @property
    def area_mm2(self) -> float | None:
        """The area of the tissue, when the pixel size is known."""
        return None if self.mpp is None else int(self.bits.sum()) * (self.mpp / 1000) ** 2


def find_tissue(path: Path, mpp: float | None, parameters: TissueParameters | None = None) -> TissueMask:
    """Compute the mask of the slide at `path` with `mpp` µm per level-0 pixel. Raises `UnreadableSlide`."""
    parameters = parameters or TissueParameters()
    width, height = cached_slide(path).dimensions
    longest = max(width, height)
    side = longest * mpp / TARGET_UM if mpp is not None else longest / 16
    picture = thumbnail(path, min(longest, MAX_SIDE, max(MIN_SIDE, math.ceil(side))))
    downsample = longest / max(picture.shape[:2])
    mask_mpp = None if mpp is None else mpp * downsample
    bits, threshold = tissue_mask(picture, mask_mpp, parameters)
    notes = [] if bits.any() else ["No tissue was found."]
    if mpp is None:
        notes.append(f"The pixel size is unknown; the tissue mask assumes {TARGET_UM:g} µm per pixel of its own.")
    return TissueMask(bits, width, height, (downsample, downsample), mask_mpp, threshold, parameters, tuple(notes))


def tissue_mask(
    rgb: npt.NDArray[np.uint8], mpp: float | None = None, parameters: TissueParameters | None = None
) -> tuple[Bits, float]:
    """Mask `[h, w]` bool of a thumbnail `[h, w, 3]` uint8 at `mpp` µm per pixel, and the threshold that was used."""
    parameters = parameters or TissueParameters()
    mpp = mpp if mpp is not None else TARGET_UM
    marks = ink(rgb, mpp)
    absorbed = _absorbed(rgb, marks, parameters.smoothing_um / mpp)
    # How much more one channel is absorbed than another: zero for glass, grey dirt and shadows.
    strength: npt.NDArray[np.float32] = absorbed.max(axis=2) - absorbed.min(axis=2)
    threshold = _threshold(strength[~marks], parameters)
    # Brown and blue stains side by side average to grey; lines and dust that are grey are narrow.
    grey = opened(absorbed.mean(axis=2) > parameters.grey_threshold, parameters.narrowest_grey_um / mpp)
    bits = ((strength > threshold) | grey) & ~marks
    bits = _without_small(bits, parameters.smallest_tissue_um2 / mpp**2)
    return bits | _small_holes(bits, marks, parameters.largest_hole_um2 / mpp**2), threshold


def _absorbed(rgb: npt.NDArray[np.uint8], marks: Bits, sigma: float) -> npt.NDArray[np.float32]:
    """Optical density per channel against empty glass, `[h, w, 3]`."""
    values = np.maximum(np.arange(256, dtype=np.float64), 1)[:, None] / _glass(rgb, marks)
    # By table, and in single precision: at 4096 pixels a side every copy counts.
    density = cv2.LUT(rgb, -np.log10(values).astype(np.float32)[None])
    # Colours are averaged before they are compared, or the sensor's noise on glass counts as colour.
    return np.asarray(cv2.GaussianBlur(density, (0, 0), min(max(sigma, 0.7), 8.0)), np.float32)


def _glass(rgb: npt.NDArray[np.uint8], marks: Bits) -> npt.NDArray[np.float64]:
    """The colour of empty glass: that of the brightest of the colourless pixels, or nearly white without any.

    Not their middle: on a slide full of pale tissue most of them are tissue.
    """
    low, high = rgb.min(axis=2), rgb.max(axis=2)
    empty = (low > 200) & (high - low < 16) & ~marks
    if empty.sum() < 0.01 * empty.size:
        return np.full(3, 243.0)
    return np.asarray(np.percentile(rgb[empty], 90, axis=0), np.float64)


def _threshold(strength: npt.NDArray[np.float32], parameters: TissueParameters) -> float:
    """Half of Otsu's threshold, so that pale tissue stays, kept within limits.

    On a slide of one kind of pixel Otsu splits noise, or tissue, in two.
    """
    low, high = parameters.lowest_threshold, parameters.highest_threshold
    if strength.size == 0:
        return high
    scaled = np.clip(strength * 500, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(scaled.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(min(max(otsu / 500 / 2, low), high))


def _small_holes(bits: Bits, marks: Bits, largest: float) -> Bits:
    """Gaps in the tissue of at most `largest` pixels; those beside ink are remains of its rim, not gaps."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~bits & ~marks).astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] <= largest
    fill[np.unique(labels[cv2.dilate(marks.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0])] = False
    fill[0] = False
    assert count == fill.size
    result: Bits = fill[labels]
    return result


def _without_small(bits: Bits, smallest: float) -> Bits:
    """`bits` without 8-connected components of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bits.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    result: Bits = keep[labels]
    return result
