"""Procedural slides that look like hematoxylin and eosin.

Promises: the same seed gives the same picture; glass, a piece of tissue with fibres, and nuclei at known
places; the file says that it is synthetic. For demonstrations and tests on machines without real slides.
Refuses: to stand for real tissue in any measurement of quality.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from microtome.errors import InvalidRequest
from microtome.slides.pyramid import write_pyramid

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

MPP = 0.5
MAX_SIZE = 6144
DESCRIPTION = "Synthetic slide made by Microtome: procedural shapes in the colours of H&E; no tissue was imaged."

# Optical densities of the two stains in red, green and blue.
_HEMATOXYLIN = np.array([0.62, 0.72, 0.30], np.float32)
_EOSIN = np.array([0.10, 0.82, 0.46], np.float32)


@dataclass(frozen=True, slots=True)
class Nucleus:
    """An ellipse: its centre in pixels, half axes in pixels and angle in radians."""

    x: float
    y: float
    a: float
    b: float
    angle: float


def write_synthetic_slide(path: Path, *, size: int = 2048, seed: int = 0) -> tuple[Nucleus, ...]:
    """Write a square slide of `size` pixels at 0.5 µm per pixel; return the nuclei that are on it."""
    picture, nuclei = paint(size, seed)

    def bands() -> Iterator[Pixels]:
        for y in range(0, size, 256):
            yield picture[y : y + 256]

    write_pyramid(path, size, size, bands(), compression="jpeg", mpp=MPP, description=DESCRIPTION, quality=90)
    return nuclei


def paint(size: int, seed: int) -> tuple[Pixels, tuple[Nucleus, ...]]:
    """The picture `[size, size, 3]` uint8 and its nuclei."""
    if not 256 <= size <= MAX_SIZE:
        raise InvalidRequest(f"A synthetic slide has 256 to {MAX_SIZE} pixels a side; larger ones are made by mosaic.")
    random = np.random.default_rng(seed)
    tissue = _tissue(size, random)
    crowding = _noise(size, size / 14, random)
    nuclei = _place(tissue, crowding, random)
    hematoxylin = 0.05 * tissue
    for nucleus in nuclei:
        _stain(hematoxylin, nucleus, random)
    eosin = tissue * (0.34 + 0.16 * _fibres(size, random) + 0.10 * crowding)
    # Nuclei keep eosin out for the greater part.
    eosin *= 1 - 0.6 * np.clip(hematoxylin, 0, 1)
    density = hematoxylin[..., None] * _HEMATOXYLIN + np.maximum(eosin, 0)[..., None] * _EOSIN
    light = 243 * np.power(np.float32(10), -density)
    light += random.normal(0, 1.5, light.shape).astype(np.float32)
    return np.clip(np.rint(light), 0, 255).astype(np.uint8), nuclei


def _noise(size: int, wavelength: float, random: np.random.Generator) -> Floats:
    """Smooth noise of mean 0 and standard deviation 1."""
    cells = max(4, round(size / wavelength) + 3)
    coarse = random.normal(0, 1, (cells, cells)).astype(np.float32)
    field = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((field - field.mean()) / max(float(field.std()), 1e-6), np.float32)


def _tissue(size: int, random: np.random.Generator) -> Floats:
    """1 on a rounded piece of tissue with clefts and 0 on glass, soft at the edge."""
    axis = (np.arange(size, dtype=np.float32) + 0.5) / size - 0.5
    distance = np.hypot(axis[:, None] * 1.1, axis[None, :])
    edge = 0.40 + 0.03 * _noise(size, size / 5, random) - distance
    body = np.clip(edge * size / 6, 0, 1)
    clefts = np.clip((np.abs(_noise(size, size / 6, random)) - 0.035) * 40, 0, 1)
    return np.asarray(body * clefts, np.float32)


def _fibres(size: int, random: np.random.Generator) -> Floats:
    """Stripes along a slowly turning direction, between -1 and 1."""
    axis = np.arange(size, dtype=np.float32)
    bend = 40 * _noise(size, size / 4, random)
    phase = (axis[:, None] * 0.35 + axis[None, :] * 0.12 + bend) / 3.0
    return np.asarray(np.sin(phase) * 0.6 + 0.4 * _noise(size, 6, random).clip(-2, 2) / 2, np.float32)


def _place(tissue: Floats, crowding: Floats, random: np.random.Generator) -> tuple[Nucleus, ...]:
    """Nuclei on a jittered lattice, so that they seldom touch; denser where `crowding` is high."""
    pitch = 22
    nuclei = []
    for row in range(1, tissue.shape[0] // pitch - 1):
        for column in range(1, tissue.shape[1] // pitch - 1):
            dx, dy, chance, a, ratio, angle = random.random(6)
            x = (column + 0.5 + 0.5 * (dx - 0.5)) * pitch
            y = (row + 0.5 + 0.5 * (dy - 0.5)) * pitch
            here = int(y), int(x)
            if tissue[here] < 0.95 or chance > 0.5 + 0.25 * crowding[here]:
                continue
            longer = 6.0 + 3.5 * a
            nuclei.append(Nucleus(float(x), float(y), longer, longer * (0.6 + 0.35 * ratio), float(angle * np.pi)))
    return tuple(nuclei)


def _stain(hematoxylin: Floats, nucleus: Nucleus, random: np.random.Generator) -> None:
    """Lay one nucleus into the hematoxylin image: a darker rim, clumps of chromatin, a soft edge."""
    reach = int(nucleus.a) + 3
    left, top = int(nucleus.x) - reach, int(nucleus.y) - reach
    side = 2 * reach + 1
    patch = hematoxylin[max(top, 0) : top + side, max(left, 0) : left + side]
    y, x = np.mgrid[max(top, 0) : max(top, 0) + patch.shape[0], max(left, 0) : max(left, 0) + patch.shape[1]]
    across, down = x - nucleus.x, y - nucleus.y
    cos, sin = np.cos(nucleus.angle), np.sin(nucleus.angle)
    radius = np.hypot((across * cos + down * sin) / nucleus.a, (down * cos - across * sin) / nucleus.b)
    clumps = cv2.GaussianBlur(random.normal(0, 1, patch.shape).astype(np.float32), (0, 0), 1.2)
    strength = random.uniform(0.55, 0.95) * (0.8 + 0.25 * np.clip(radius, 0, 1) ** 4 + 0.35 * clumps)
    inside = np.clip((1 - radius) * nucleus.b / 1.5 + 0.5, 0, 1)
    np.maximum(patch, (inside * strength).astype(np.float32), out=patch)
