"""What a slide's intensities mean to the network.

Promises: one normalisation for a whole slide, from histograms of full-resolution pixels that can be counted in any
order and added; percentiles as `numpy.percentile` gives them; a finite scale for every slide, and on a slide
without contrast (glass, nothing, one colour) a scale that does not turn noise into nuclei.
Refuses: thumbnails (averaging shrinks the range) and single tiles (each would get a range of its own); it takes
histograms and cannot see where they come from, so `sampling` is the way to make them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest

CHANNELS = 3
# A stained section spans well over this many grey levels in every channel; noise on glass never does.
MIN_RANGE = 64.0


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each intensity occurs: `counts` int64 [3, 256]."""

    counts: NDArray[np.int64]

    @classmethod
    def empty(cls) -> Histogram:
        """No pixels."""
        return cls(np.zeros((CHANNELS, 256), np.int64))

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Histogram:
        """Of uint8 [..., 3] pixels."""
        return cls(_counted(pixels.reshape(-1, pixels.shape[-2], CHANNELS)))

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(self.counts + other.counts)

    @property
    def pixels(self) -> int:
        """Number of pixels counted."""
        return int(self.counts[0].sum())

    def percentile(self, percent: float) -> tuple[float, float, float]:
        """Linearly interpolated percentile of each channel, as `numpy.percentile` has it; needs pixels."""
        red, green, blue = (_percentile(self.counts[channel], percent) for channel in range(CHANNELS))
        return red, green, blue


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Intensities (0 to 255) that become 0 and 1, per channel."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]

    def __post_init__(self) -> None:
        if len(self.low) != CHANNELS or len(self.high) != CHANNELS:
            raise InvalidRequest("A normalisation has three channels.")
        if not all(math.isfinite(value) for value in (*self.low, *self.high)):
            raise InvalidRequest("A normalisation must be finite.")
        if any(high - low < 1 for low, high in zip(self.low, self.high, strict=True)):
            raise InvalidRequest(f"A normalisation from {self.low} to {self.high} has a channel without range.")

    @classmethod
    def from_histogram(cls, histogram: Histogram, percentiles: tuple[float, float]) -> Normalisation:
        """From a slide's histogram. Without pixels: the identity. Without contrast: a range of `MIN_RANGE` below
        the high percentile, so that what is all alike is all bright.
        """
        if histogram.pixels == 0:
            return cls((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
        low, high = (histogram.percentile(percent) for percent in percentiles)
        red, green, blue = (min(bottom, top - MIN_RANGE) for bottom, top in zip(low, high, strict=True))
        return cls((red, green, blue), high)

    @property
    def scale(self) -> tuple[float, float, float]:
        """1 / (high - low), per channel."""
        red, green, blue = (1.0 / (high - low) for low, high in zip(self.low, self.high, strict=True))
        return red, green, blue

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """`low` and `scale`, float32 [3] each, as an engine takes them."""
        return np.asarray(self.low, np.float32), np.asarray(self.scale, np.float32)


@numba.njit(cache=True, nogil=True)
def _counted(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the values of uint8 [h, w, 3]; of whole rows in 32 bits, because that is faster."""
    counts = np.zeros((3, 256), np.int64)
    of_row = np.zeros((3, 256), np.uint32)
    for y in range(pixels.shape[0]):
        of_row[:] = 0
        for x in range(pixels.shape[1]):
            of_row[0, pixels[y, x, 0]] += 1
            of_row[1, pixels[y, x, 1]] += 1
            of_row[2, pixels[y, x, 2]] += 1
        counts += of_row
    return counts


def _percentile(counts: NDArray[np.int64], percent: float) -> float:
    cumulative = np.cumsum(counts)
    position = percent / 100.0 * float(cumulative[-1] - 1)
    below = math.floor(position)
    lower, upper = (
        int(np.searchsorted(cumulative, min(rank, int(cumulative[-1]) - 1), side="right"))
        for rank in (below, below + 1)
    )
    return lower + (upper - lower) * (position - below)
