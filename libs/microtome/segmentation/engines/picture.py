"""The built-in pictures on which engines are judged, and on which bytes get their ranges.

Promises: the same pixels on every machine of one version: painted tissue with many hundred nuclei, at the model's pixel
size. The pictures to judge by are crowded, fade to the right, blur towards the bottom, and have grain and smudges of
dye: engines disagree about things of which a network is hardly sure, and on a clear picture even a badly rounded
network agrees with itself. They are made so that engines differ on them as on real slides (docs/engines.md).
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
# To calibrate by, parts of as many that are as hard as those, too; and how large each part is.
_HARD_SEEDS, _PART = (5, 6), 384
# Painted with glass around the tissue, of which the middle is taken.
_PAINTED, _MIDDLE = 1024, 640
# What the pictures to judge by fade to, and the contrast on the left and on the right; pixels of blur at the bottom.
_PALE, _CONTRAST = np.array([225, 190, 215], np.float32), (0.7, 0.25)
_BLUR = 3.0
# Smudges: pixels across, darkness; optical densities of hematoxylin. Grey levels of grain.
_SMUDGE_SIZE, _SMUDGE_DENSITY, _SMUDGE_RARITY = 14, 0.4, 0.3
_HEMATOXYLIN = np.array([0.62, 0.72, 0.30], np.float32)
_GRAIN = 14.0
Pixels = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """`pixels` uint8 [1, h, w, 3] with their `low` and `scale` float32 [1, 3]: what an engine takes."""

    pixels: NDArray[np.uint8]
    low: NDArray[np.float32]
    scale: NDArray[np.float32]


def judgement_pictures(model: Model) -> list[Picture]:
    """Give the pictures on which the cells of two engines are compared."""
    return [_picture(model, _made_hard(seed)) for seed in _JUDGEMENT_SEEDS]


def calibration_pictures(model: Model) -> list[Picture]:
    """Give the pictures on which the values inside the network are measured: clear ones and hard ones."""
    painted = [*map(_painted, _CALIBRATION_SEEDS), *map(_made_hard, _HARD_SEEDS)]
    return [_picture(model, np.ascontiguousarray(pixels[-_PART:, :_PART])) for pixels in painted]


def _painted(seed: int) -> Pixels:
    painted, _ = paint(_PAINTED, seed)
    margin = (_PAINTED - _MIDDLE) // 2
    return np.ascontiguousarray(painted[margin : margin + _MIDDLE, margin : margin + _MIDDLE])


def _made_hard(seed: int) -> Pixels:
    # Two pictures on one glass: nuclei overlap.
    clear = np.minimum(_painted(seed), _painted(seed + 50)[::-1]).astype(np.float32)
    blurred = np.asarray(cv2.GaussianBlur(clear, (0, 0), _BLUR), np.float32)
    along = np.linspace(0, 1, _MIDDLE, dtype=np.float32)
    mixed = clear + (blurred - clear) * along[:, None, None]
    left, right = _CONTRAST
    faded = _PALE + (mixed - _PALE) * (left + (right - left) * along[None, :, None])
    smudges = np.maximum(_clouds(seed + 7) - _SMUDGE_RARITY, 0) * _SMUDGE_DENSITY
    dyed = faded * np.power(np.float32(10), -smudges[..., None] * _HEMATOXYLIN)
    grain = np.random.default_rng(seed).normal(0, _GRAIN, dyed.shape)
    return np.asarray(np.clip(np.rint(dyed + grain), 0, 255), np.uint8)


def _clouds(seed: int) -> NDArray[np.float32]:
    """Smooth noise of mean 0 and standard deviation 1."""
    cells = round(_MIDDLE / _SMUDGE_SIZE) + 3
    coarse = np.random.default_rng(seed).normal(0, 1, (cells, cells)).astype(np.float32)
    field = np.asarray(cv2.resize(coarse, (_MIDDLE, _MIDDLE), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def _picture(model: Model, pixels: Pixels) -> Picture:
    edge = max(STRIDE, round(len(pixels) * MPP / model.mpp / STRIDE) * STRIDE)
    if edge != len(pixels):
        how = cv2.INTER_AREA if edge < len(pixels) else cv2.INTER_LINEAR
        pixels = np.asarray(cv2.resize(pixels, (edge, edge), interpolation=how), np.uint8)
    normalisation = Normalisation.from_histogram(Histogram.of(pixels), model.percentiles)
    low, scale = normalisation.arrays()
    return Picture(np.ascontiguousarray(pixels)[None], low[None], scale[None])
