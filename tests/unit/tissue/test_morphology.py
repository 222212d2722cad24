"""Opening, closing and spreading masks with discs of any size are OpenCV's, however they are computed."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from microtome.tissue.ink import closed, opened
from microtome.tissue.mask import tissue_mask
from tests.scenes.tissue import MPP, SCENES


def by_opencv(bits: np.ndarray, size: int, operation: int, border: int) -> np.ndarray:
    framed = cv2.copyMakeBorder(bits.astype(np.uint8), size, size, size, size, border)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.morphologyEx(framed, operation, disc)[size:-size, size:-size] > 0


def assert_as_by_opencv(bits: np.ndarray, size: int) -> None:
    assert np.array_equal(opened(bits, size), by_opencv(bits, size, cv2.MORPH_OPEN, cv2.BORDER_REPLICATE))
    assert np.array_equal(closed(bits, size), by_opencv(bits, size, cv2.MORPH_CLOSE, cv2.BORDER_CONSTANT))


@pytest.mark.parametrize("size", [1, 3, 9, 11, 13, 21, 45, 77, 151])
def test_discs_of_all_sizes(size: int) -> None:
    noise = np.random.default_rng(size).random((150, 190), np.float32)
    bits = cv2.GaussianBlur(noise, (0, 0), max(1, size / 4)) > 0.5
    assert 0 < bits.mean() < 1
    assert_as_by_opencv(bits, size)


@pytest.mark.parametrize("name", SCENES)
def test_the_painted_scenes(name: str) -> None:
    bits, _ = tissue_mask(SCENES[name]().rgb, MPP)
    assert_as_by_opencv(bits, 11)
    assert_as_by_opencv(bits, 35)
