"""Telling marker ink, black borders and dark lines from stained tissue.

Promises: green, blue, red and black marks that are wider than tissue's own dark or red spots, with the blurred
rims around them.
Refuses: to see tissue through ink; what lies under a mark is lost to the model as well.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

Bits = npt.NDArray[np.bool_]

# A stroke is wider than this; blood and folds that are as dark or as red are narrower.
STROKE_UM = 60.0
# How far beyond its visible core an ink blurs.
RIM_UM = 48.0


def ink(rgb: npt.NDArray[np.uint8], mpp: float) -> Bits:
    """`[h, w]` bool: pixels of `[h, w, 3]` uint8 at `mpp` µm per pixel that are ink or black, rims included."""
    red, green, blue = (rgb[..., i].astype(np.int16) for i in range(3))
    # Hematoxylin and eosin both take most from green, so that green is never the strongest channel of tissue.
    greenish = (green > red + 24) & (green > blue) & (np.minimum(red, blue) < 200)
    bluish = (blue > 100) & (blue - red > 80) & (blue - green > 20) & (red < 110)
    # Eosin this strong would be dark in red too.
    reddish = (red > 130) & (green < 90) & (blue < 110) & (red - np.maximum(green, blue) > 80)
    dark = np.maximum(np.maximum(red, green), blue) < 95
    core = opened(reddish | bluish | dark, STROKE_UM / mpp) | opened(greenish, max(3, STROKE_UM / mpp / 3))
    if not core.any():
        return core
    near = cv2.dilate(core.astype(np.uint8), _disc(_odd(2 * RIM_UM / mpp))) > 0
    return near | _rims(rgb, near)


def _rims(rgb: npt.NDArray[np.uint8], core: Bits) -> Bits:
    """Smooth coloured areas that touch ink: ink out of focus. Tissue is never that smooth."""
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    detail = cv2.GaussianBlur(np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 2)), (0, 0), 3)
    coloured = rgb.max(axis=2).astype(np.int16) - rgb.min(axis=2) > 8
    smooth = ((detail < 1.2) & coloured) | core
    count, labels = cv2.connectedComponents(smooth.astype(np.uint8), connectivity=4)
    touched = np.zeros(count, np.bool_)
    touched[labels[core]] = True
    touched[0] = False
    result: Bits = touched[labels]
    return result


def opened(bits: Bits, diameter: float) -> Bits:
    """What is left of `bits` where a disc of `diameter` pixels fits in; a picture's frame does not count as an end."""
    margin = size = _odd(diameter)
    framed = cv2.copyMakeBorder(bits.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    opened = cv2.morphologyEx(framed, cv2.MORPH_OPEN, _disc(size))
    result: Bits = opened[margin:-margin, margin:-margin] > 0
    return result


def _disc(size: int) -> npt.NDArray[np.uint8]:
    kernel: npt.NDArray[np.uint8] = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size)).astype(np.uint8)
    return kernel


def _odd(pixels: float) -> int:
    return max(1, 2 * round((pixels - 1) / 2) + 1)
