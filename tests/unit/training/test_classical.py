"""The baseline finds what is plain to see."""

from __future__ import annotations

import numpy as np

from microtome.scoring import scores
from microtome.training.classical import segment


def test_finds_dark_blue_discs_and_parts_two_that_touch() -> None:
    y, x = np.mgrid[:128, :128]
    truth = np.zeros((128, 128), np.int32)
    for n, (cy, cx) in enumerate([(30, 30), (30, 90), (90, 40), (90, 57)], start=1):
        truth[(np.hypot(y - cy, x - cx) < 9) & (truth == 0)] = n
    pixels = np.where(truth[..., None] > 0, (70, 50, 120), (235, 200, 220)).astype(np.uint8)
    got = scores(truth, segment(pixels))
    assert got.f1_50 == 1
    assert got.sq > 0.75
