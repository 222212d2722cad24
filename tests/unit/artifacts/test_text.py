"""Numbers as text: against Python's own decimal arithmetic."""

from __future__ import annotations

from decimal import ROUND_HALF_EVEN, Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microtome.artifacts.text import NUMBER, as_bytes, joined, put_bytes, put_number


def written(value: float, decimals: int) -> str:
    out = np.full(NUMBER + 2, ord("!"), np.uint8)
    end = put_number(out, 1, value, decimals)
    assert out[0] == ord("!")
    assert (out[end:] == ord("!")).all()
    assert end - 1 <= NUMBER
    return out[1:end].tobytes().decode()


@pytest.mark.parametrize(
    ("value", "decimals", "text"),
    [
        (0.0, 2, "0"), (-0.0, 2, "0"), (0.004, 2, "0"), (-0.004, 2, "0"), (0.006, 2, "0.01"), (-1.5, 2, "-1.5"),
        (1.05, 1, "1"), (10.0, 3, "10"), (100200.30, 2, "100200.3"), (0.1, 4, "0.1"), (7.0, 0, "7"), (9.999, 2, "10"),
        (123456789012.34, 2, "123456789012.34"), (float("nan"), 2, ""), (float("inf"), 2, ""), (-1e300, 2, ""),
    ],
)  # fmt: skip
def test_numbers(value: float, decimals: int, text: str) -> None:
    assert written(value, decimals) == text


@settings(deadline=None)
@given(st.floats(-1e9, 1e9), st.integers(0, 6))
def test_any_number_is_its_nearest_decimal(value: float, decimals: int) -> None:
    text = written(value, decimals)
    assert abs(Decimal(text) - Decimal(value)) <= Decimal(10) ** -decimals * Decimal("0.5001") + Decimal(2) ** -22
    # The shortest text of that decimal.
    assert Decimal(text) == Decimal(text).quantize(Decimal(10) ** -decimals, ROUND_HALF_EVEN)
    assert not (text.endswith("0") and "." in text)
    assert text != "-0"


@settings(deadline=None)
@given(st.integers(0, 10**17))
def test_any_whole_number_is_written_whole(value: int) -> None:
    exact = int(np.float64(value))
    assert written(float(value), 0) == str(exact)


def test_texts_are_copied_and_joined() -> None:
    out = np.zeros(8, np.uint8)
    assert put_bytes(out, 2, as_bytes("µm")) == 5
    assert out.tobytes() == b"\0\0\xc2\xb5m\0\0\0"
    data, offsets = joined(["a", "", "µ"])
    assert (data.tobytes(), offsets.tolist()) == (b"a\xc2\xb5", [0, 1, 1, 3])
