"""Numbers and bytes as text, compiled: what GeoJSON and CSV are made of.

Promises: a number is the decimal text of its nearest multiple of 10^-decimals, without trailing zeros and without an
exponent, the same on every machine; a million numbers take some hundredths of a second, and threads do not wait for
each other.
Refuses: to check for room: whoever calls gives a buffer that is large enough (`NUMBER` bytes for each number).
"""

from __future__ import annotations

import numba as nb
import numpy as np
from numpy.typing import NDArray

# No number takes more bytes: a sign, 19 digits, a point.
NUMBER = 24
# Beyond this a multiple of 10^-decimals is no 64-bit integer any more; nothing on a slide is so large.
_LARGEST = 9.0e18


@nb.njit(cache=True, nogil=True, error_model="numpy")
def put_bytes(out: NDArray[np.uint8], at: int, text: NDArray[np.uint8]) -> int:
    """Copy `text` to `out[at:]`; return where it ends."""
    for index in range(text.size):
        out[at + index] = text[index]
    return at + text.size


@nb.njit(cache=True, nogil=True, error_model="numpy")
def put_whole(out: NDArray[np.uint8], at: int, value: int | np.int64, width: int) -> int:
    """Write `value`, at least 0, with at least `width` digits to `out[at:]`; return where it ends."""
    digits, limit = 1, 10
    while digits < 18 and value >= limit:
        digits, limit = digits + 1, limit * 10
    if value >= limit:
        digits += 1
    digits = max(digits, width)
    for index in range(digits - 1, -1, -1):
        rest = value // 10
        out[at + index] = 48 + value - 10 * rest
        value = rest
    return at + digits


@nb.njit(cache=True, nogil=True, error_model="numpy")
def put_number(out: NDArray[np.uint8], at: int, value: float, decimals: int) -> int:
    """Write `value` rounded to `decimals` digits to `out[at:]`; return where it ends.

    Writes nothing for what is no number, is infinite or is too large.
    """
    unit = 1
    for _ in range(decimals):
        unit *= 10
    scaled = np.rint(abs(value) * unit)
    if not scaled < _LARGEST:
        return at
    steps = np.int64(scaled)
    if value < 0 and steps > 0:
        out[at] = 45
        at += 1
    whole = steps // unit
    part = steps - whole * unit
    at = put_whole(out, at, whole, 1)
    if part > 0:
        width = decimals
        while part % 10 == 0:
            part //= 10
            width -= 1
        out[at] = 46
        at = put_whole(out, at + 1, part, width)
    return at


def as_bytes(text: str) -> NDArray[np.uint8]:
    """`text` in UTF-8 as compiled code takes it, uint8 [n]."""
    return np.frombuffer(text.encode(), np.uint8)


def joined(texts: list[str]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all texts in UTF-8 one after the other, uint8 [m], and where each begins, int64 [n + 1]."""
    encoded = [text.encode() for text in texts]
    offsets = np.concatenate(([0], np.cumsum([len(each) for each in encoded]))).astype(np.int64)
    return np.frombuffer(b"".join(encoded), np.uint8), offsets
