"""The tissue mask of a slide.

Promises: stained tissue, also pale tissue, fat and immunohistochemistry, without glass, ink, coverslip edges, black
borders and dirt; deterministic; everything that was used to make it is kept with it.
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
from microtome.tissue.ink import closed, dilated, ink, opened

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

TARGET_UM = 8.0
MIN_SIDE = 512
MAX_SIDE = 4096


# Raise it when the mask of the same slide would come out differently.
ALGORITHM = 3
# µm per level-0 pixel where nobody knows: a 20x objective.
ASSUMED_MPP = 0.5


@dataclass(frozen=True, slots=True)
class TissueParameters:
    """What a mask was made with. Strengths and contrasts are optical densities; lengths µm, areas µm².

    Strength is how much more one colour is absorbed than another; contrast how much darker a pixel is than around it.
    """

    #: Pixels of at least this strength may be tissue: so many times what glass has by chance, within limits.
    faint_to_noise: float = 4.0
    lowest_faint: float = 0.009
    highest_faint: float = 0.020
    #: Lines of at least this contrast and this strength may be tissue.
    lowest_contrast: float = 0.025
    lowest_contrast_strength: float = 0.007
    #: What may be tissue is, where it hangs together with what is certain: half of Otsu's threshold, within limits.
    lowest_certain: float = 0.035
    highest_certain: float = 0.10
    smallest_certain_um2: float = 800.0
    #: Grey is tissue where it is dark and wide.
    grey_threshold: float = 0.12
    narrowest_grey_um: float = 100.0
    smoothing_um: float = 4.0
    #: Parts nearer than this hang together.
    widest_gap_um: float = 64.0
    smallest_part_um2: float = 300.0
    smallest_tissue_um2: float = 2_500.0
    #: Smaller holes are filled; of larger ones, up to the largest lumen, what is as narrow as cells of fat.
    largest_hole_um2: float = 30_000.0
    largest_lumen_um2: float = 2_000_000.0
    widest_fat_um: float = 140.0


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
    side = longest * (mpp or ASSUMED_MPP) / TARGET_UM
    picture = thumbnail(path, min(longest, MAX_SIDE, max(MIN_SIDE, math.ceil(side))))
    downsample = longest / max(picture.shape[:2])
    bits, threshold = tissue_mask(picture, (mpp or ASSUMED_MPP) * downsample, parameters)
    notes = [] if bits.any() else ["No tissue was found."]
    if mpp is None:
        notes.append(f"The pixel size is unknown; tissue was looked for as if it were {ASSUMED_MPP:g} µm.")
    mask_mpp = None if mpp is None else mpp * downsample
    return TissueMask(bits, width, height, (downsample, downsample), mask_mpp, threshold, parameters, tuple(notes))


def tissue_mask(
    rgb: npt.NDArray[np.uint8], mpp: float | None = None, parameters: TissueParameters | None = None
) -> tuple[Bits, float]:
    """Mask `[h, w]` bool of a thumbnail `[h, w, 3]` uint8 at `mpp` µm per pixel, and the threshold that was used."""
    parameters = parameters or TissueParameters()
    mpp = mpp if mpp is not None else TARGET_UM
    absorbed = _absorbed(rgb, parameters.smoothing_um / mpp)
    marks = ink(absorbed, mpp)
    red, green, blue = absorbed
    darkest = np.maximum(np.maximum(red, green), blue)
    # How much more one channel is absorbed than another: zero for glass, grey dirt and shadows.
    strength = darkest - np.minimum(np.minimum(red, green), blue)
    threshold = _threshold(strength[::2, ::2][~marks[::2, ::2]], parameters)
    # Brown and blue stains side by side average to grey; lines and dust that are grey are narrow.
    grey = _wide_grey(np.asarray((red + green + blue) / 3, np.float32), mpp, parameters) & ~marks
    pale = (strength > _faintest(darkest, strength, parameters)) | _thin(darkest, strength, parameters)
    bits = _without_small((pale & ~marks) | grey, parameters.smallest_part_um2 / mpp**2)
    bits = closed(bits, parameters.widest_gap_um / mpp) & ~marks
    # What is pale is tissue where it hangs together with what is not: the membranes of fat, the edge of a section.
    bits = _connected(bits, (strength > threshold) | grey, mpp, parameters)
    return bits | _holes(bits, marks, mpp, parameters), threshold


def _faintest(darkest: Floats, strength: Floats, parameters: TissueParameters) -> float:
    """The least strength that is no chance: some times what empty glass has of it by noise and compression."""
    some = strength[::2, ::2]
    glass = some[darkest[::2, ::2] < 0.03]
    if glass.size < 0.01 * some.size:
        return parameters.highest_faint
    noise = float(np.median(glass))
    return min(max(parameters.faint_to_noise * noise, parameters.lowest_faint), parameters.highest_faint)


def _absorbed(rgb: npt.NDArray[np.uint8], sigma: float) -> list[Floats]:
    """Optical density against empty glass, `[h, w]` for red, green and blue."""
    glass = _glass(rgb)
    result = []
    # Plane by plane, by table, and in single precision: at 4096 pixels a side every copy counts.
    for channel in range(3):
        values = np.maximum(np.arange(256, dtype=np.float64), 1) / glass[channel]
        table = np.maximum(-np.log10(values), 0).astype(np.float32)
        density = cv2.LUT(np.ascontiguousarray(rgb[..., channel]), table)
        # Colours are averaged before they are compared, or the sensor's noise on glass counts as colour.
        result.append(np.asarray(cv2.GaussianBlur(density, (0, 0), min(max(sigma, 0.7), 8.0)), np.float32))
    return result


def _thin(darkest: Floats, strength: Floats, parameters: TissueParameters) -> Bits:
    """Lines that stand out from what is around them and have some colour, as membranes of fat cells do."""
    around = cv2.erode(darkest, np.ones((9, 9), np.uint8))
    contrast = darkest - np.asarray(cv2.blur(around, (13, 13)), np.float32)
    coloured = strength > np.maximum(parameters.lowest_contrast_strength, 0.25 * contrast)
    return np.asarray((contrast > parameters.lowest_contrast) & coloured, np.bool_)


def _wide_grey(mean: Floats, mpp: float, parameters: TissueParameters) -> Bits:
    smooth = cv2.GaussianBlur(mean, (0, 0), max(0.7, parameters.narrowest_grey_um / 6 / mpp))
    dark = np.asarray(smooth > parameters.grey_threshold, np.bool_)
    return opened(dark, parameters.narrowest_grey_um / mpp) if dark.any() else dark


def _glass(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """The colour of empty glass: that of the brightest of the nearly colourless pixels, or nearly white without any.

    Not their middle: on a slide full of pale tissue most of them are tissue. Lamps tint glass yellow or blue, but never
    pink, as tissue is; what is purely white was not scanned.
    """
    # A sample will do.
    rgb = rgb[:: 1 + rgb.shape[0] // 1024, :: 1 + rgb.shape[1] // 1024]
    red, green, blue = (np.ascontiguousarray(rgb[..., channel]) for channel in range(3))
    low, high = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    spread = high - low
    empty = (low > 180) & ((spread < 16) | ((green >= np.minimum(red, blue)) & (spread < 40)))
    scanned = empty & (low < 255)
    if scanned.sum() >= 0.01 * empty.size:
        empty = scanned
    elif empty.sum() < 0.01 * empty.size:
        return np.full(3, 243.0)
    return np.asarray(np.percentile(rgb[empty], 90, axis=0), np.float64)


def _threshold(strength: npt.NDArray[np.float32], parameters: TissueParameters) -> float:
    """Half of Otsu's threshold, so that pale tissue stays, kept within limits.

    On a slide of one kind of pixel Otsu splits noise, or tissue, in two.
    """
    low, high = parameters.lowest_certain, parameters.highest_certain
    if strength.size == 0:
        return high
    scaled = np.clip(strength * 500, 0, 255).astype(np.uint8)
    otsu, _ = cv2.threshold(scaled.reshape(1, -1), 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return float(min(max(otsu / 500 / 2, low), high))


def _connected(bits: Bits, certain: Bits, mpp: float, parameters: TissueParameters) -> Bits:
    """The 8-connected components of `bits` that are large enough and hold enough certain pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bits.astype(np.uint8), connectivity=8)
    held = np.bincount(labels[bits & certain], minlength=count)
    keep = held >= max(1.0, parameters.smallest_certain_um2 / mpp**2)
    keep &= stats[:, cv2.CC_STAT_AREA] >= parameters.smallest_tissue_um2 / mpp**2
    keep[0] = False
    result: Bits = keep[labels]
    return result


def _holes(bits: Bits, marks: Bits, mpp: float, parameters: TissueParameters) -> Bits:
    """Gaps in the tissue that belong to it: small ones, and of larger ones what is as narrow as cells of fat.

    Those that ink encloses more than tissue does are remains of its rim, not gaps.
    """
    empty = ~bits & ~marks
    _, labels, stats, _ = cv2.connectedComponentsWithStats(empty.astype(np.uint8), connectivity=4)
    fill = stats[:, cv2.CC_STAT_AREA] <= parameters.largest_hole_um2 / mpp**2
    enclosed = stats[:, cv2.CC_STAT_AREA] <= parameters.largest_lumen_um2 / mpp**2
    at_ink, at_tissue = (np.bincount(labels[empty & dilated(edge, 3)], minlength=fill.size) for edge in (marks, bits))
    beside = 2 * at_ink > at_tissue
    frame = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    # Nobody knows how large those are that the picture's frame cuts.
    fill[frame] &= stats[frame, cv2.CC_STAT_AREA] <= parameters.largest_hole_um2 / 4 / mpp**2
    fill[beside], enclosed[beside], enclosed[frame] = False, False, False
    fill[0], enclosed[0] = False, False
    result: Bits = fill[labels]
    if (enclosed & ~fill).any():
        wide = opened(empty, parameters.widest_fat_um / mpp)
        result |= enclosed[labels] & ~wide
    return result


def _without_small(bits: Bits, smallest: float) -> Bits:
    """`bits` without 8-connected components of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bits.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    result: Bits = keep[labels]
    return result
