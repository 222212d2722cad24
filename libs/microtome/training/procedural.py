"""Pictures of tissue that never was, with nuclei whose outlines are known exactly.

Promises: the same seed gives the same picture, bit for bit on one version of the libraries. Light is absorbed as in a
stained section: two dyes, their amounts add in optical density. What looks like a nucleus and is none (vacuoles, holes,
red cells, smears, dark fibres) is painted too and carries no label.
Refuses: to look like any laboratory's stain in particular; every picture draws its own dyes.
Sizes are in pixels of 0.5 µm.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
_MARGIN = 32
_HEMATOXYLIN = np.array([0.65, 0.70, 0.29])
_EOSIN = np.array([0.10, 0.97, 0.22])


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of nucleus: half axes, how much darker the rim, how coarse the chromatin, how often nucleoli."""

    long: float
    flatness: tuple[float, float]
    amount: tuple[float, float]
    rim: tuple[float, float]
    grain: tuple[float, float]
    nucleoli: float


_KINDS = {
    "lymphocyte": Kind(5.2, (0.8, 1.0), (0.9, 1.7), (0.0, 0.2), (0.05, 0.30), 0.0),
    "epithelial": Kind(8.5, (0.6, 1.0), (0.4, 1.0), (0.2, 0.8), (0.10, 0.50), 0.6),
    "large": Kind(14.0, (0.6, 0.95), (0.35, 0.9), (0.3, 0.9), (0.10, 0.50), 0.8),
    "spindle": Kind(10.5, (0.22, 0.42), (0.5, 1.4), (0.0, 0.3), (0.05, 0.30), 0.1),
}
_MIXES = (
    {"lymphocyte": 1.0},
    {"epithelial": 0.8, "lymphocyte": 0.1, "spindle": 0.1},
    {"spindle": 0.8, "lymphocyte": 0.2},
    {"epithelial": 0.4, "lymphocyte": 0.3, "spindle": 0.3},
    {"large": 0.5, "epithelial": 0.3, "lymphocyte": 0.2},
)


def picture(seed: int, size: int = 256) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """One picture: uint8 [size, size, 3] and its labels int32 [size, size]."""
    rng = np.random.default_rng(seed)
    edge = size + 2 * _MARGIN
    eosin, hematoxylin = _ground(rng, edge)
    holes = _holes(rng, edge)
    labels, nuclei, cover = _nuclei(rng, edge, holes)
    _decoys(rng, eosin, hematoxylin, cover)
    holes *= cover < 0.5
    hematoxylin = (hematoxylin * (1 - cover) + nuclei) * (1 - holes)
    eosin = eosin * (1 - rng.uniform(0.1, 0.7) * cover) * (1 - holes)
    pixels = _photograph(rng, hematoxylin, eosin)
    inner = slice(_MARGIN, _MARGIN + size)
    return np.ascontiguousarray(pixels[inner, inner]), np.ascontiguousarray(labels[inner, inner])


def _cloud(rng: np.random.Generator, edge: int, scale: float) -> Field:
    """Smooth noise of mean 0 and deviation 1 whose blobs are about `scale` pixels wide."""
    cells = int(np.ceil(edge / scale)) + 3
    noise = rng.standard_normal((cells, cells)).astype(np.float32)
    large = cv2.resize(noise, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC)[:edge, :edge]
    return np.asarray((large - large.mean()) / (large.std() + 1e-6), np.float32)


def _clouds(rng: np.random.Generator, edge: int, *scales: float) -> Field:
    return np.asarray(sum(_cloud(rng, edge, scale) for scale in scales) / len(scales) ** 0.5, np.float32)


def _fibres(rng: np.random.Generator, edge: int) -> Field:
    noise = rng.standard_normal((2 * edge, 2 * edge)).astype(np.float32)
    drawn = cv2.GaussianBlur(noise, (0, 0), sigmaX=rng.uniform(4, 12), sigmaY=rng.uniform(0.7, 2.0))
    turn = cv2.getRotationMatrix2D((edge, edge), rng.uniform(0, 180), 1.0)
    turned = cv2.warpAffine(drawn, turn, (2 * edge, 2 * edge))[
        edge // 2 : edge // 2 + edge, edge // 2 : edge // 2 + edge
    ]
    return np.asarray(turned / (turned.std() + 1e-6), np.float32)


def _ground(rng: np.random.Generator, edge: int) -> tuple[Field, Field]:
    """Cytoplasm and fibres: amounts of eosin and of hematoxylin."""
    texture = 0.35 * _clouds(rng, edge, 4, 12, 40) + rng.uniform(0, 0.35) * _fibres(rng, edge)
    eosin = np.clip(rng.uniform(0.2, 0.8) * (1 + texture), 0.03, 2)
    hematoxylin = np.clip(rng.uniform(0.02, 0.30) * (1 + 0.6 * _clouds(rng, edge, 3, 16)), 0, 1)
    if rng.random() < 0.3:  # dark bands without nuclei
        eosin *= 1 + rng.uniform(0.3, 1.2) * (np.abs(_clouds(rng, edge, 10, 40)) < rng.uniform(0.04, 0.15))
    if rng.random() < 0.25:  # smears out of focus
        hematoxylin += rng.uniform(0.05, 0.25) * np.clip(_clouds(rng, edge, 12, 30) - 1, 0, None)
    return np.asarray(eosin, np.float32), np.asarray(hematoxylin, np.float32)


def _holes(rng: np.random.Generator, edge: int) -> Field:
    """Lumens, fat and tears, where light passes: 0 to 1."""
    holes = np.zeros((edge, edge), np.float32)
    if rng.random() < 0.5:
        cloud = _clouds(rng, edge, 24, 60)
        holes = np.clip((cloud - np.quantile(cloud, rng.uniform(0.72, 0.99))) * rng.uniform(4, 20), 0, 1)
    for _ in range(int(rng.integers(0, 5)) if rng.random() < 0.4 else 0):
        centre = rng.integers(0, edge, 2).tolist()
        axes = rng.integers(8, 40, 2).tolist()
        cv2.ellipse(holes, centre, axes, float(rng.uniform(0, 180)), 0, 360, 1.0, -1)
    return np.asarray(cv2.GaussianBlur(holes.astype(np.float32), (0, 0), 0.8), np.float32)


def _radius(rng: np.random.Generator, long: float, short: float, roughness: float) -> Field:
    """Distance from the middle in units of the outline, which is 1: float32 [n, n]."""
    reach = int(np.ceil(long * 1.35)) + 2
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along, across = (x * np.cos(angle) + y * np.sin(angle)) / long, (y * np.cos(angle) - x * np.sin(angle)) / short
    around = np.arctan2(across, along)
    outline = 1 + sum(
        roughness / wave * rng.standard_normal() * np.cos(wave * around + rng.uniform(0, 2 * np.pi))
        for wave in (2, 3, 4, 5)
    )
    return np.asarray(np.hypot(along, across) / np.maximum(outline, 0.5), np.float32)


def _nuclei(rng: np.random.Generator, edge: int, holes: Field) -> tuple[NDArray[np.int32], Field, Field]:
    """Labels, amount of hematoxylin, and how much of each pixel is nucleus."""
    labels = np.zeros((edge, edge), np.int32)
    amount, cover = np.zeros((edge, edge), np.float32), np.zeros((edge, edge), np.float32)
    mix = _MIXES[rng.integers(len(_MIXES))]
    names, weights = list(mix), np.array(list(mix.values()))
    wanted = rng.choice([0.03, 0.12, 0.25, 0.4, 0.6]) * rng.uniform(0.7, 1.3) * edge * edge
    may_overlap = rng.choice([0.0, 0.06, 0.15])
    crowd = _clouds(rng, edge, 20, 60) if rng.random() < 0.6 else None
    growth = {name: rng.uniform(0.8, 1.3) for name in names}
    painted, count = 0, 0
    for _ in range(900):
        if painted >= wanted:
            break
        name = str(rng.choice(names, p=weights / weights.sum()))
        kind = _KINDS[name]
        long = max(3.0, kind.long * growth[name] * rng.normal(1, 0.12))
        radius = _radius(rng, long, max(2.0, long * rng.uniform(*kind.flatness)), rng.uniform(0.03, 0.1))
        place = rng.integers(0, edge - radius.shape[0], 2)
        middle = tuple(place + radius.shape[0] // 2)
        if holes[middle] > 0.3 or (crowd is not None and crowd[middle] < rng.uniform(-1, 1)):
            continue
        rows, columns = (slice(int(at), int(at) + radius.shape[0]) for at in place)
        inside, taken = radius < 1, labels[rows, columns] > 0
        if inside.sum() < 12 or taken[inside].mean() > may_overlap:
            continue
        count += 1
        labels[rows, columns][inside & ~taken] = count
        painted += int(inside.sum())
        edge_on = np.clip((1 - radius) * long * 0.8 + 0.5, 0, 1) * ~taken
        dye = _chromatin(rng, kind, radius)
        amount[rows, columns] = amount[rows, columns] * (1 - edge_on) + dye * edge_on
        cover[rows, columns] = np.maximum(cover[rows, columns], edge_on)
    return labels, amount, cover


def _chromatin(rng: np.random.Generator, kind: Kind, radius: Field) -> Field:
    rim, grain = rng.uniform(*kind.rim), rng.uniform(*kind.grain)
    noise = cv2.GaussianBlur(rng.standard_normal(radius.shape).astype(np.float32), (0, 0), rng.uniform(0.6, 1.4))
    dye = (1 - rim) + 1.3 * rim * np.clip(radius, 0, 1) ** rng.uniform(2, 6)
    dye *= 1 + 2.2 * grain * noise
    for _ in range(int(rng.integers(1, 4)) if rng.random() < kind.nucleoli else 0):
        reach = radius.shape[0] // 2
        y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1] - rng.normal(0, reach * 0.22, 2)[:, None, None]
        dye += rng.uniform(0.4, 1.0) * np.exp(-(y**2 + x**2) / (2 * rng.uniform(0.8, 1.6) ** 2))
    return np.asarray(np.maximum(rng.uniform(*kind.amount) * dye, 0.05), np.float32)


def _decoys(rng: np.random.Generator, eosin: Field, hematoxylin: Field, cover: Field) -> None:
    """Vacuoles with a rim, and red cells: round, and no nuclei. Painted in place, never over a nucleus."""
    for _ in range(int(rng.integers(3, 40)) if rng.random() < 0.75 else 0):
        radius = _radius(rng, rng.uniform(3.5, 13), rng.uniform(3.5, 13), 0.08)
        if radius.shape[0] >= eosin.shape[0]:
            continue
        rows, columns = (
            slice(int(at), int(at) + radius.shape[0]) for at in rng.integers(0, eosin.shape[0] - radius.shape[0], 2)
        )
        free = 1 - cover[rows, columns]
        disc = np.clip((1 - radius) * 6 + 0.5, 0, 1) * free
        if rng.random() < 0.3:
            eosin[rows, columns] += disc * rng.uniform(0.3, 0.9)
            continue
        pale = 1 - disc * rng.uniform(0.3, 1.0)
        rim = 1 + np.exp(-(((radius - 1.08) / 0.1) ** 2)) * free * rng.uniform(0, 0.5)
        eosin[rows, columns] *= pale * rim
        hematoxylin[rows, columns] *= pale * rim


def _photograph(rng: np.random.Generator, hematoxylin: Field, eosin: Field) -> NDArray[np.uint8]:
    dyes = [np.clip(dye + rng.normal(0, 0.06, 3), 0.03, 1.2) for dye in (_HEMATOXYLIN, _EOSIN)]
    blue, red = (dye / np.linalg.norm(dye) for dye in dyes)
    density = hematoxylin[..., None] * blue + eosin[..., None] * red * rng.uniform(0.5, 1.1)
    density = cv2.GaussianBlur((density * rng.uniform(0.8, 1.5)).astype(np.float32), (0, 0), rng.uniform(0.3, 1.1))
    light = np.exp(-density) * rng.uniform(0.86, 1.0, 3)
    light = light + rng.normal(0, rng.uniform(0.003, 0.02), light.shape)
    return np.clip(light * 255, 0, 255).astype(np.uint8)
