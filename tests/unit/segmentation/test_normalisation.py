"""Histograms that add up to numpy's percentiles, and scales that never explode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.errors import InvalidRequest
from microtome.segmentation.normalisation import MIN_RANGE, Histogram, Normalisation


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3000), st.integers(1, 256), st.floats(0, 100))
def test_percentiles_are_numpys(seed: int, count: int, levels: int, percent: float) -> None:
    pixels = np.random.default_rng(seed).integers(0, levels, (count, 3)).astype(np.uint8)
    expected = np.percentile(pixels, percent, axis=0)
    np.testing.assert_allclose(Histogram.of(pixels).percentile(percent), expected, atol=1e-9)


def test_histograms_add_in_any_order() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (90, 70, 3)).astype(np.uint8)
    parts = [Histogram.of(pixels[y : y + 30]) for y in (60, 0, 30)]
    total = Histogram.empty()
    for part in parts:
        total += part
    assert (total.counts == Histogram.of(pixels).counts).all()
    assert total.pixels == 90 * 70


@pytest.mark.parametrize("level", [0, 3, 128, 240, 255])
def test_one_colour_becomes_bright_and_finite(level: int) -> None:
    pixels = np.full((64, 64, 3), level, np.uint8)
    normalisation = Normalisation.from_histogram(Histogram.of(pixels), (0.1, 99.9))
    low, scale = normalisation.arrays()
    assert np.isfinite(scale).all()
    np.testing.assert_allclose((level - low) * scale, 1.0)


def test_noise_on_glass_is_not_stretched() -> None:
    pixels = np.random.default_rng(2).normal(240, 2, (200, 200, 3)).clip(0, 255).astype(np.uint8)
    normalisation = Normalisation.from_histogram(Histogram.of(pixels), (0.1, 99.9))
    assert all(high - low >= MIN_RANGE for low, high in zip(normalisation.low, normalisation.high, strict=True))


def test_no_pixels_is_the_identity() -> None:
    normalisation = Normalisation.from_histogram(Histogram.empty(), (0.1, 99.9))
    assert normalisation.low == (0.0, 0.0, 0.0)
    assert normalisation.high == (255.0, 255.0, 255.0)


@pytest.mark.parametrize(
    ("low", "high"),
    [((0, 0, 0), (0, 255, 255)), ((0, 0), (255, 255)), ((0, 0, float("nan")), (255, 255, 255)), ((9, 0, 0), (5, 9, 9))],
)
def test_a_normalisation_without_range_is_refused(low: tuple[float, ...], high: tuple[float, ...]) -> None:
    with pytest.raises(InvalidRequest):
        Normalisation(low, high)  # type: ignore[arg-type]
