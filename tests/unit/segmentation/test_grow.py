"""Growing: its own exponential rounds as the C library's does, and what lies beyond an image is not looked at."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import pytest
from numpy.typing import NDArray

from microtome.segmentation.grow import sigmoid
from microtome.segmentation.head import find_instances
from microtome.segmentation.model import load_model
from tests.parity.tiles import nuclei


@nb.njit(error_model="numpy")
def _differing(values: NDArray[np.float32]) -> int:
    """How many sigmoids are others with the C library's exponential."""
    one, count = np.float32(1.0), 0
    for value in values:
        expected = np.float32(one / (one + np.float32(math.exp(-np.float64(value)))))
        count += sigmoid(value) != expected
    return count


# Every 251st was as good as every one: all of them, half a minute's work, differed nowhere.
@pytest.mark.parametrize("sign", [0, 1 << 31])
def test_the_exponential_rounds_as_the_c_librarys(sign: int) -> None:
    # From 2^-27, below which all is one half, to 2^9, beyond which all is 0 or 1.
    bits = np.arange(100 << 23, 136 << 23, 251, dtype=np.int64) + sign
    assert _differing(bits.astype(np.uint32).view(np.float32)) == 0


def test_the_sigmoid_of_what_is_no_ordinary_number() -> None:
    values = [np.float32(value) for value in ("-inf", "-110", "-0", "0", "110", "inf")]
    assert [float(sigmoid(value)) for value in values] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert np.isnan(sigmoid(np.float32("nan")))


@pytest.mark.parametrize("threads", [1, 2])
def test_what_lies_beyond_the_image_is_not_looked_at(threads: int) -> None:
    model = load_model("embedded")
    # Nuclei inside, on the edges, and where nothing may be found.
    places = [(40, 40), (95, 60), (60, 127), (99, 129), (110, 100), (50, 140)]
    logits = nuclei(7, (112, 144), places, (6, 9), 0.1)
    expected = find_instances(np.ascontiguousarray(logits[:, :97, :130]), model, threads=threads)
    found = find_instances(logits, model, size=(97, 130), threads=threads)
    assert found.labels.shape == (97, 130)
    assert len(expected.label) >= 3
    for name in ("labels", "label", "seed", "area", "score", "box", "regrown", "cut"):
        assert np.array_equal(getattr(found, name), getattr(expected, name)), name
