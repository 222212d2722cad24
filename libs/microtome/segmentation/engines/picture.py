"""The built-in pictures on which engines are judged, and on which bytes get their ranges.

Promises: the same pixels on every machine of one version: painted tissue with several hundred nuclei, at the model's
pixel size. The pictures to judge by fade to the right until hardly a nucleus is left, blur towards the bottom and have
grain: most disagreement is about nuclei of which a network is hardly sure, and on clear ones even a badly rounded
network agrees with itself (measured: F1 1.0000 on clear pictures where it was 0.937 on a real slide, 0.951 on these).
Refuses: to say anything of how well a model finds nuclei; it only serves to compare two ways of running it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.grid import STRIDE
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.slides.synthetic import MPP, paint

_JUDGEMENT_SEEDS, _CALIBRATION_SEEDS = (1, 2), (3, 4)
# Painted with glass around the tissue, of which the middle is taken.
_PAINTED, _MIDDLE = 1024, 640
# What the pictures to judge by fade to, how much contrast is left there; pixels of blur; grey levels of grain.
_PALE, _CONTRAST_LEFT = np.array([225, 190, 215], np.float32), 0.05
_BLUR, _GRAIN = 3.0, 6.0


Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` uint8 [1, h, w, 3] with their `low` and `scale` float32 [1, 3]: what an engine takes."""

    pixels: NDArray[np.uint8]
    low: NDArray[np.float32]
    scale: NDArray[np.float32]


def judgement_pictures(model: Model) -> list[Picture]:
    """Give the pictures on which the cells of two engines are compared."""
    return [_picture(model, _made_hard(_painted(seed), seed)) for seed in _JUDGEMENT_SEEDS]


def calibration_pictures(model: Model) -> list[Picture]:
    """Give the pictures on which the ranges of values inside the network are measured."""
    return [_picture(model, _painted(seed)) for seed in _CALIBRATION_SEEDS]


def _painted(seed: int) -> Pixels:
    painted, _ = paint(_PAINTED, seed)
    margin = (_PAINTED - _MIDDLE) // 2
    return painted[margin : margin + _MIDDLE, margin : margin + _MIDDLE]


def _made_hard(clear: Pixels, seed: int) -> Pixels:
    sharp = clear.astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(sharp, (0, 0), _BLUR), np.float32)
    along = np.linspace(0, 1, _MIDDLE, dtype=np.float32)
    mixed = sharp + (blurred - sharp) * along[:, None, None]
    faded = _PALE + (mixed - _PALE) * (1 - (1 - _CONTRAST_LEFT) * along[None, :, None])
    grain = np.random.default_rng(seed).normal(0, _GRAIN, faded.shape)
    return np.clip(np.rint(faded + grain), 0, 255).astype(np.uint8)


def _picture(model: Model, pixels: Pixels) -> Picture:
    edge = max(STRIDE, round(_MIDDLE * MPP / model.mpp / STRIDE) * STRIDE)
    if edge != _MIDDLE:
        how = cv2.INTER_AREA if edge < _MIDDLE else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(pixels, (edge, edge), interpolation=how), np.uint8)
    normalisation = Normalisation.from_histogram(Histogram.of(pixels), model.percentiles)
    low, scale = normalisation.arrays()
    return Picture(np.ascontiguousarray(pixels)[None], low[None], scale[None])
