"""Telling marker ink and black borders from stained tissue.

Ink lies over whatever is there, so optical densities add up; over tissue the colour is smoothed first, because its
nuclei and fibres show through. What gives a pen away is the ratio in which it takes red, green and blue: hematoxylin,
eosin, diaminobenzidine and blood each keep to ratios of their own.
Promises: black, blue, green, red and yellow marks on glass and on tissue, with the blurred rims around them, and black
borders. Refuses: to see tissue through ink; what lies under a mark is lost to the model as well. A violet pen has the
colours of hematoxylin and is not known by them; an area that is as red as red ink, such as a large bleeding, is.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

_SMALL_DISC = 9

Bits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float32]

# A stroke is wider than this; blood and folds that are as dark or as red are narrower.
STROKE_UM = 60.0
# A mark is larger than this; drops of blood are smaller.
SMALLEST_UM2 = 15_000.0
# How far beyond its visible core an ink blurs.
RIM_UM = 40.0
# Nuclei that show through leave gaps of this width in a stroke.
GAP_UM = 40.0
# So long a part of a stroke may be lost in dense tissue.
LOST_UM = 160.0
# How far ink thins out.
REACH_UM = 320.0
# Nuclei that show through ink are averaged with what is around them.
SMOOTHING_UM = 12.0
COARSE_UM = 16.0


def ink(absorbed: Sequence[Floats], mpp: float) -> Bits:
    """`[h, w]` bool: which pixels are ink or black, rims included.

    `absorbed`: optical densities against glass, float32 `[h, w]` of red, green and blue, at `mpp` µm per pixel.
    """
    height, width = absorbed[0].shape
    # Marks are large: they are looked for on a coarse picture, however fine this one is.
    coarser = max(1.0, COARSE_UM / mpp)
    size = max(1, round(width / coarser)), max(1, round(height / coarser))
    coarse = [np.asarray(cv2.resize(one, size, interpolation=cv2.INTER_AREA), np.float32) for one in absorbed]
    marks = _marks(coarse, mpp * coarser)
    if not marks.any():
        return np.zeros((height, width), np.bool_)
    fine = cv2.resize(255 * marks.astype(np.uint8), (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(fine > 127, np.bool_)


def _marks(absorbed: Sequence[Floats], mpp: float) -> Bits:
    sigma = max(0.7, SMOOTHING_UM / mpp)
    red, green, blue = (np.asarray(cv2.GaussianBlur(one, (0, 0), sigma), np.float32) for one in absorbed)
    marks = np.zeros(red.shape, np.bool_)
    for core, pale in (
        _black(red, green, blue), _blue(red, green, blue), _green(red, green, blue),
        _red(red, green, blue), _yellow(red, green, blue),
    ):  # fmt: skip
        if core.any():
            marks |= _grown(core, pale, mpp)
    darkest = np.maximum(np.maximum(absorbed[0], absorbed[1]), absorbed[2])
    return _out_of_focus(marks, darkest, mpp) if marks.any() else marks


def _black(red: Floats, green: Floats, blue: Floats) -> tuple[Bits, Bits]:
    least, most = np.minimum(np.minimum(red, green), blue), np.maximum(np.maximum(red, green), blue)
    neutral = least > 0.62 * most
    return neutral & (least > 0.42), neutral & (least > 0.2)


def _blue(red: Floats, green: Floats, blue: Floats) -> tuple[Bits, Bits]:
    # Hematoxylin never takes so much more of green than of blue while it takes red most.
    return (
        (red > 0.55) & (red > 0.95 * green) & (blue < 0.5 * green),
        (red > 0.06) & (red > 1.05 * green) & (blue < 0.5 * green),
    )


def _green(red: Floats, green: Floats, blue: Floats) -> tuple[Bits, Bits]:
    # A blue counterstain takes green more than blue.
    return (
        (red > 0.2) & (red > 1.38 * green) & (blue > 0.78 * green),
        (red > 0.05) & (red > 1.25 * green) & (blue > 0.78 * green),
    )


def _red(red: Floats, green: Floats, blue: Floats) -> tuple[Bits, Bits]:
    # Eosin takes about six tenths as much of blue as of green; diaminobenzidine takes half as much of red.
    light = (green > 0.35) & (red < 0.33 * green) & (blue > 0.66 * green + 0.02) & (blue < 1.05 * green)
    dark = (green > 0.6) & (red < 0.62 * green) & (blue > 0.74 * green) & (blue < 1.0 * green)
    pale = (green > 0.03) & (red < 0.36 * green) & (blue > 0.68 * green) & (blue < 1.1 * green)
    dull = (green > 0.05) & (red < 0.62 * green) & (blue > 0.74 * green) & (blue < 0.95 * green)
    return light | dark, pale | dull


def _yellow(red: Floats, green: Floats, blue: Floats) -> tuple[Bits, Bits]:
    return (blue > 1.36 * green + 0.08) & (red < 0.33 * blue), (blue > 0.04) & (blue > 1.5 * green) & (red < 0.4 * blue)


def _grown(core: Bits, pale: Bits, mpp: float) -> Bits:
    """The strokes among the pixels of an ink's colour, with their rims, as far as they have a paler shade of it."""
    strokes = opened(closed(core, GAP_UM / mpp), STROKE_UM / mpp)
    strokes = _large(strokes, SMALLEST_UM2 / mpp**2)
    if not strokes.any():
        return strokes
    # Over dense tissue a stroke's colour may be lost for a while.
    strokes = closed(strokes, LOST_UM / mpp)
    # A stroke blurs over glass and over gaps between its paler parts; single pixels of its colour are chance.
    near = dilated(strokes, 2 * REACH_UM / mpp)
    paler = opened((core | pale) & near, RIM_UM / mpp)
    return dilated(strokes, 2 * RIM_UM / mpp) | dilated(paler, RIM_UM / mpp)


def _out_of_focus(marks: Bits, darkest: Floats, mpp: float) -> Bits:
    """Smooth coloured areas that touch ink: ink out of focus. Tissue is never that smooth."""
    around = cv2.GaussianBlur(darkest, (0, 0), max(0.7, COARSE_UM / mpp))
    side = _odd(5 * COARSE_UM / mpp)
    detail = cv2.blur(np.abs(darkest - around), (side, side))
    near = dilated(marks, 2 * REACH_UM / mpp)
    smooth = ((detail < 0.002 + 0.06 * darkest) & (darkest > 0.015) & near) | marks
    _, labels = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)
    touched = np.zeros(int(labels.max()) + 1, np.bool_)
    touched[labels[marks]] = True
    result: Bits = touched[labels]
    return result


def _large(bits: Bits, smallest: float) -> Bits:
    """`bits` without 8-connected components of fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(bits.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= smallest
    keep[0] = False
    result: Bits = keep[labels]
    return result


def opened(bits: Bits, diameter: float) -> Bits:
    """What is left of `bits` where a disc of `diameter` pixels fits in; a picture's frame does not count as an end."""
    return _morphed(bits, diameter, cv2.MORPH_OPEN, cv2.BORDER_REPLICATE)


def closed(bits: Bits, diameter: float) -> Bits:
    """`bits` with all gaps into which no disc of `diameter` pixels fits; a picture's frame closes nothing."""
    return _morphed(bits, diameter, cv2.MORPH_CLOSE, cv2.BORDER_CONSTANT)


def dilated(bits: Bits, diameter: float) -> Bits:
    """All pixels that a disc of `diameter` pixels on some pixel of `bits` covers."""
    size = _odd(diameter)
    if size <= _SMALL_DISC:
        return np.asarray(cv2.dilate(bits.astype(np.uint8), _disc(size)) > 0, np.bool_)
    # As fast for large discs as for small ones.
    away = cv2.distanceTransform((~bits).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5)
    return np.asarray(away <= size / 2, np.bool_)


def _morphed(bits: Bits, diameter: float, operation: int, border: int) -> Bits:
    margin = size = _odd(diameter)
    framed = np.asarray(cv2.copyMakeBorder(bits.astype(np.uint8), margin, margin, margin, margin, border), np.uint8)
    if size <= _SMALL_DISC:
        morphed = np.asarray(cv2.morphologyEx(framed, operation, _disc(size)), np.uint8)
    elif operation == cv2.MORPH_OPEN:
        morphed = _spread(1 - _spread(1 - framed, size), size)
    else:
        morphed = 1 - _spread(1 - _spread(framed, size), size)
    result: Bits = morphed[margin:-margin, margin:-margin] > 0
    return result


def _spread(bits: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """As `cv2.dilate` of zeros and ones with the disc of `size`, in time that grows with its width, not its area.

    Rows of a disc widen towards its middle: each is the one before it, spread further along x.
    """
    out, run, reach = np.zeros_like(bits), bits, 0
    rows = _disc(size).sum(axis=1) // 2
    for away in range(size // 2, -1, -1):
        while reach < rows[size // 2 - away]:
            # No further than the run is wide, or it gets a gap.
            step = min(int(rows[size // 2 - away]) - reach, max(1, reach))
            wider = run.copy()
            wider[:, step:] |= run[:, :-step]
            wider[:, :-step] |= run[:, step:]
            run, reach = wider, reach + step
        out[away:] |= run[: run.shape[0] - away]
        out[: out.shape[0] - away] |= run[away:]
    return out


def _disc(size: int) -> npt.NDArray[np.uint8]:
    kernel: npt.NDArray[np.uint8] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.uint8)
    return kernel


def _odd(pixels: float) -> int:
    return max(1, 2 * round((pixels - 1) / 2) + 1)
