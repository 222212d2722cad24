"""How far a network sees: what decides the halo with which tiles join exactly.

Two answers: the structure says how far anything could be felt (a bound, from the sizes of kernels, pools and doublings
alone), and a measurement says how far changing single pixels was felt in fact.
Promises: the bound holds for every weight and every phase of a pixel on the pooled lattices; a network that is felt
further than its structure allows is refused, because then it is not what it was taken for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from microtome.models.refusals import ModelRefused
from microtome.models.structure import RGB, Structure
from microtome.segmentation.grid import STRIDE

Infer = Callable[[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
Span = tuple[int, int]
# Single pixels that are changed, at positions of different phase.
PROBES = 8
# An encoder's level: two pairs of kernels of 3.
_LEVEL = 4
# A decoder's level: the second pair and the second kernel of the first look at the skip, all four at what is below.
_SKIP = 3
# The adaptor's mixing layer.
_MIX = 1


def structural_radius(structure: Structure) -> int:
    """Pixels beyond which nothing can be felt."""
    lattice = 1 << max(len(structure.layers) - 1, 2)
    radius = 0
    for pixel in range(lattice):
        low, high = _unet(len(structure.layers), (pixel, pixel))
        if structure.adaptor is not None:
            low, high = _adaptor((low, high), _MIX if structure.adaptor.concatenates else 0)
        radius = max(radius, pixel - low, high - pixel)
    return radius


def felt_radius(infer: Infer, bound: int, seed: int = 0) -> int:
    """Largest distance at which changing one pixel changed any channel at all, on noise, over `PROBES` positions.

    `infer` is an engine's. Raises `ModelRefused` if the change was felt further than `bound`.
    """
    reach = (bound // STRIDE + 2) * STRIDE
    edge = 2 * reach
    rng = np.random.default_rng(seed)
    low, scale = np.full((1, RGB), 30, np.float32), np.full((1, RGB), 1 / 180, np.float32)
    picture = rng.integers(0, 256, (1, edge, edge, RGB)).astype(np.uint8)
    before = infer(picture, low, scale)
    farthest = 0
    for probe in range(PROBES):
        # Phases 0 to 7 on both axes, against each other.
        y, x = reach + probe, reach + (probe * 5) % STRIDE
        changed = picture.copy()
        changed[0, y, x] = np.where(changed[0, y, x] < 128, 255, 0)
        rows, columns = np.nonzero((infer(changed, low, scale) != before).any(axis=(0, 1)))
        if rows.size:
            farthest = max(farthest, int(np.abs(rows - y).max()), int(np.abs(columns - x).max()))
    if farthest > bound:
        raise ModelRefused(
            f"A pixel was felt {farthest} pixels away, where the network's structure allows {bound}: it is not the "
            "network that its weights' names say."
        )
    return farthest


def halo_for(radius: int) -> int:
    """Smallest halo that tiles may have: the radius, at a multiple of the stride."""
    return -(-radius // STRIDE) * STRIDE


def _unet(levels: int, span: Span) -> Span:
    """What input a span of outputs depends on."""
    below = span
    # Spans that the encoder's features at each level must cover, from full resolution down.
    wanted: list[Span] = []
    for _ in range(levels - 1):
        wanted.append(_grown(below, _SKIP))
        below = _halved(_grown(below, _LEVEL))
    wanted.append(below)
    return _encoded(wanted, 0)


def _adaptor(span: Span, mix: int) -> Span:
    full = _grown(span, _SKIP)
    below = _halved(_grown(span, _LEVEL))
    half = _grown(below, _SKIP + mix)
    quarter = _halved(_grown(below, _LEVEL + mix))
    return _encoded([full, half, quarter], mix)


def _encoded(wanted: list[Span], mix: int) -> Span:
    """What input the features of all levels depend on."""
    needed = wanted[-1]
    for level in range(len(wanted) - 1, 0, -1):
        low, high = _grown(needed, _LEVEL + mix)
        needed = _joined((2 * low, 2 * high + 1), wanted[level - 1])
    return _grown(needed, _LEVEL + mix)


def _grown(span: Span, by: int) -> Span:
    return span[0] - by, span[1] + by


def _halved(span: Span) -> Span:
    return span[0] // 2, span[1] // 2


def _joined(one: Span, other: Span) -> Span:
    return min(one[0], other[0]), max(one[1], other[1])
