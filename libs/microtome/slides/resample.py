"""Resampling on a global phase.

Promises: output pixel `i` is a function of `i`, the scale and the source alone, never of the region it was
asked for in; arithmetic is in integers, so that results are equal bit by bit on every machine.
Refuses: filters with wide support; shrinking is an area average, enlarging is bilinear.

Pixel `i` of the output covers the source from `i * scale` to `(i + 1) * scale`, in pixel edges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from microtome.slides import jpeg_scan

Pixels = npt.NDArray[np.uint8]

# Weights are multiples of 2**-14: with 8-bit pixels and 8 bits kept between the two passes, sums fit 32 bits.
_ONE = 1 << 14


@dataclass(frozen=True, slots=True)
class Taps:
    """For each output pixel the first source pixel and the integer weights of it and its followers."""

    first: npt.NDArray[np.int64]
    weights: npt.NDArray[np.int32]

    @property
    def begin(self) -> int:
        """The first source pixel needed."""
        return int(self.first.min())

    @property
    def end(self) -> int:
        """One past the last source pixel needed."""
        used = np.where(self.weights > 0, np.arange(1, self.weights.shape[1] + 1)[None, :], 0).max(axis=1)
        return int((self.first + used).max())


def output_length(source: int, scale: float) -> int:
    """How many output pixels cover `source` pixels; the last one may be covered in part."""
    return max(1, math.ceil(source / scale - 1e-6))


def taps(start: int, count: int, scale: float, source: int) -> Taps:
    """Weights for output pixels `start … start + count - 1` over a source of `source` pixels."""
    index = np.arange(start, start + count, dtype=np.float64)
    return _area(index, scale, source) if scale >= 1 else _bilinear(index, scale, source)


def _area(index: npt.NDArray[np.float64], scale: float, source: int) -> Taps:
    begin = index * scale
    # A last output pixel that the source covers in part is the mean of that part.
    end = np.minimum(begin + scale, source)
    first = np.minimum(np.floor(begin).astype(np.int64), source - 1)
    width = math.ceil(scale) + 1
    edges = first[:, None] + np.arange(width + 1)[None, :]
    inside = np.clip(edges, begin[:, None], np.maximum(end, begin)[:, None])
    share = (inside - inside[:, :1]) / np.maximum(inside[:, -1:] - inside[:, :1], 1e-9)
    # Rounding the running sum keeps every row's total exactly one.
    weights = np.diff(np.rint(share * _ONE).astype(np.int32), axis=1)
    return Taps(first, np.ascontiguousarray(weights))


def _bilinear(index: npt.NDArray[np.float64], scale: float, source: int) -> Taps:
    centre = np.clip((index + 0.5) * scale - 0.5, 0, source - 1)
    first = np.minimum(np.floor(centre).astype(np.int64), max(source - 2, 0))
    right = np.rint((centre - first) * _ONE).astype(np.int32)
    return Taps(first, np.ascontiguousarray(np.stack([_ONE - right, right], axis=1)))


def resample(source: Pixels, rows: Taps, columns: Taps, top: int, left: int) -> Pixels:
    """Weigh `source` `[h, w, 3]`, whose first pixel is (`left`, `top`) of the level, into `[rows, columns, 3]`."""
    flat = source.reshape(source.shape[0], -1)
    tall = _weigh_rows(np.ascontiguousarray(flat), rows.first - top, rows.weights)
    out: Pixels = _weigh_columns(tall, columns.first - left, columns.weights)
    return out


def box_mean(source: Pixels, factor: int) -> Pixels:
    """Exact means, rounded half up, of boxes of `factor` x `factor` pixels; smaller ones at the far edges."""
    out: Pixels = _box_mean(np.ascontiguousarray(source), factor)
    return out


def warm_up() -> None:
    """Compile, or load what was compiled before, so that the first region does not wait for it."""
    square = np.zeros((4, 4, 3), np.uint8)
    box_mean(square, 2)
    weights = taps(0, 2, 1.5, 4)
    resample(square, weights, weights, 0, 0)
    jpeg_scan.warm_up()


@numba.njit(cache=True, nogil=True)
def _weigh_rows(source: Pixels, first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]) -> npt.NDArray[np.uint16]:
    length = source.shape[1]
    out = np.empty((first.shape[0], length), np.uint16)
    total = np.empty(length, np.uint32)
    for i in range(first.shape[0]):
        total[:] = np.uint32(32)
        for k in range(weights.shape[1]):
            weight = np.uint32(weights[i, k])
            if weight == 0:
                continue
            row = source[first[i] + k]
            for j in range(length):
                total[j] += np.uint32(row[j]) * weight
        for j in range(length):
            out[i, j] = np.uint16(total[j] >> np.uint32(6))
    return out


@numba.njit(cache=True, nogil=True)
def _weigh_columns(
    source: npt.NDArray[np.uint16], first: npt.NDArray[np.int64], weights: npt.NDArray[np.int32]
) -> Pixels:
    half, last = np.uint32(1 << 21), np.uint64(source.shape[1] - 3)
    out = np.empty((source.shape[0], first.shape[0], 3), np.uint8)
    for i in range(source.shape[0]):
        row, seen = source[i], out[i]
        for j in range(first.shape[0]):
            red = half
            green = half
            blue = half
            # Unsigned, as numbers below zero would have to be asked for; and without asking for the end either, as what
            # lies beyond it has no weight.
            at = np.uint64(first[j] * 3)
            for k in range(weights.shape[1]):
                weight = np.uint32(weights[j, k])
                here = min(at + np.uint64(3 * k), last)
                red += np.uint32(row[here]) * weight
                green += np.uint32(row[here + np.uint64(1)]) * weight
                blue += np.uint32(row[here + np.uint64(2)]) * weight
            seen[j, 0] = np.uint8(red >> np.uint32(22))
            seen[j, 1] = np.uint8(green >> np.uint32(22))
            seen[j, 2] = np.uint8(blue >> np.uint32(22))
    return out


@numba.njit(cache=True, nogil=True)
def _box_mean(source: Pixels, factor: int) -> Pixels:
    height, width = source.shape[0], source.shape[1]
    out = np.empty(((height + factor - 1) // factor, (width + factor - 1) // factor, 3), np.uint8)
    # Those of 2 x 2 make pyramids, and need no division.
    pairs = width // 2 if factor == 2 else 0
    for i in range(out.shape[0]):
        bottom = min((i + 1) * factor, height)
        whole = pairs if bottom == (i + 1) * factor else 0
        for j in range(whole):
            for c in range(3):
                upper = np.uint32(source[2 * i, 2 * j, c]) + np.uint32(source[2 * i, 2 * j + 1, c])
                lower = np.uint32(source[2 * i + 1, 2 * j, c]) + np.uint32(source[2 * i + 1, 2 * j + 1, c])
                out[i, j, c] = np.uint8((upper + lower + np.uint32(2)) >> np.uint32(2))
        for j in range(whole, out.shape[1]):
            right = min((j + 1) * factor, width)
            count = (bottom - i * factor) * (right - j * factor)
            for c in range(3):
                total = count // 2
                for y in range(i * factor, bottom):
                    for x in range(j * factor, right):
                        total += source[y, x, c]
                out[i, j, c] = np.uint8(total // count)
    return out
