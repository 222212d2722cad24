"""Stains: how much of each dye a pixel's colour says.

Promises: colour deconvolution (Ruifrok and Johnston, 2001) with the two stain vectors that QuPath starts with, a third
vector at right angles to both, and white at 255; densities are decadic, `-log10(value / 255)`, and not cut at zero, so
that a pixel's two densities and its residual always explain its colour. One table look-up for each channel.
Refuses: to estimate stain vectors from a slide: numbers of two slides would not be comparable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest

# What lets all light through, and the darkest value that is told apart: the logarithm of 0 is not a density.
WHITE, BLACK = 255, 1


@dataclass(frozen=True, slots=True)
class Dye:
    """One dye: its name, and how it takes light from red, green and blue; any length."""

    name: str
    vector: tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Stain:
    """What a section was stained with. `key` is what parameters and files call it."""

    key: str
    name: str
    dyes: tuple[Dye, Dye]

    def matrix(self) -> NDArray[np.float64]:
        """Rows of unit length, float64 [3, 3]: the two dyes, and what is at right angles to both."""
        rows = np.array([dye.vector for dye in self.dyes])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        rest = np.cross(rows[0], rows[1])
        return np.vstack([rows, rest / np.linalg.norm(rest)])

    def table(self) -> NDArray[np.float64]:
        """What each channel's value adds to each dye's density: float64 [2, 3, 256]."""
        light = np.maximum(np.arange(256), BLACK) / WHITE
        # -log10(1) would be the negative zero.
        density = np.maximum(-np.log10(light), 0.0)
        unmixing = np.linalg.inv(self.matrix())
        return np.ascontiguousarray(unmixing[:, :2].T[:, :, None] * density)

    def densities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Optical densities of the dyes, float64 [h, w, 2], of `pixels` uint8 [h, w, 3]."""
        red, green, blue = np.moveaxis(pixels, -1, 0)
        table = self.table()
        return np.stack([dye[0][red] + dye[1][green] + dye[2][blue] for dye in table], axis=-1)


_HEMATOXYLIN = Dye("Hematoxylin", (0.65, 0.70, 0.29))
HE = Stain("he", "H&E", (_HEMATOXYLIN, Dye("Eosin", (0.2159, 0.8012, 0.5581))))
HDAB = Stain("hdab", "H-DAB", (_HEMATOXYLIN, Dye("DAB", (0.27, 0.57, 0.78))))
STAINS = {stain.key: stain for stain in (HE, HDAB)}


def stain_named(key: str) -> Stain:
    """Return the stain that parameters call `key`. Raises `InvalidRequest` for one that is not known."""
    try:
        return STAINS[key]
    except KeyError:
        known = ", ".join(f"'{name}'" for name in STAINS)
        raise InvalidRequest(f"There is no stain '{key}'; known are {known}.") from None
