"""Painted thumbnails of slides on which it is known exactly what is tissue.

Promises: the same name gives the same picture; `truth` is tissue that can be seen, so what lies under ink is not part
of it. Refuses: to stand for real slides; they are looked at as well, where they are at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]
Floats = NDArray[np.float32]

# µm per pixel of every scene: what a mask of a whole slide has.
MPP = 8.0
HEIGHT, WIDTH = 420, 560

# Optical densities in red, green and blue.
HEMATOXYLIN = np.array([0.62, 0.70, 0.30], np.float32)
BLUE_HEMATOXYLIN = np.array([0.62, 0.50, 0.33], np.float32)
EOSIN = np.array([0.16, 0.82, 0.46], np.float32)
DAB = np.array([0.40, 0.62, 0.80], np.float32)
PENS: Mapping[str, tuple[float, float, float]] = {
    "black": (1.00, 1.02, 0.98),
    "blue": (0.95, 0.60, 0.12),
    "green": (0.75, 0.20, 0.32),
    "red": (0.06, 0.66, 0.54),
    "yellow": (0.02, 0.07, 0.62),
}


@dataclass(frozen=True, slots=True)
class Scene:
    """`rgb` uint8 [h, w, 3] at `MPP`; `truth` bool [h, w]."""

    rgb: NDArray[np.uint8]
    truth: Bits


def noise(random: np.random.Generator, wavelength: float) -> Floats:
    """Smooth noise [h, w] of mean 0 and standard deviation 1; `wavelength` in pixels."""
    shape = (max(4, round(HEIGHT / wavelength) + 3), max(4, round(WIDTH / wavelength) + 3))
    coarse = random.normal(0, 1, shape).astype(np.float32)
    field = np.asarray(cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC), np.float32)
    return np.asarray((field - field.mean()) / field.std(), np.float32)


def piece(random: np.random.Generator, size: float = 0.36) -> Bits:
    """A rounded piece of tissue in the middle of the slide."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    distance = np.hypot((x / WIDTH - 0.5) * 0.9, (y / HEIGHT - 0.5) * 0.8)
    return np.asarray(distance < size * (1 + 0.10 * noise(random, 70)), np.bool_)


def rendered(
    density: Floats, random: np.random.Generator, glass: tuple[float, float, float] = (243, 243, 243)
) -> Scene:
    """Light through `density` [h, w, 3], blurred as by optics, with a sensor's noise; the truth is left empty."""
    light = np.array(glass, np.float32) * np.power(np.float32(10), -cv2.GaussianBlur(density, (0, 0), 0.6))
    light += random.normal(0, 1.2, light.shape).astype(np.float32)
    return Scene(np.clip(np.rint(light), 0, 255).astype(np.uint8), np.zeros(density.shape[:2], np.bool_))


def stained(random: np.random.Generator, inside: Bits, strength: float = 1.0) -> Floats:
    """Hematoxylin and eosin inside of a piece."""
    eosin = np.clip(0.30 + 0.10 * noise(random, 2.2) + 0.06 * noise(random, 25), 0.05, 1)
    nuclei = np.clip(0.22 + 0.16 * noise(random, 1.6) + 0.08 * noise(random, 30), 0, 1)
    density = eosin[..., None] * EOSIN + nuclei[..., None] * HEMATOXYLIN
    return np.asarray(strength * density * inside[..., None], np.float32)


def with_truth(scene: Scene, truth: Bits) -> Scene:
    """The scene with what is tissue on it."""
    return Scene(scene.rgb, truth)


def he() -> Scene:
    """Hematoxylin and eosin."""
    random = np.random.default_rng(1)
    inside = piece(random)
    return with_truth(rendered(stained(random, inside), random), inside)


def pale() -> Scene:
    """The same, stained a sixth as strongly."""
    random = np.random.default_rng(2)
    inside = piece(random)
    return with_truth(rendered(stained(random, inside, 0.17), random, (240, 241, 238)), inside)


def fatty() -> Scene:
    """Fat: membranes around empty cells of 60 to 110 µm, beside a strip of ordinary tissue."""
    random = np.random.default_rng(3)
    inside = piece(random)
    pitch = 10
    rows, columns = HEIGHT // pitch + 3, WIDTH // pitch + 3
    at = np.moveaxis(np.mgrid[-1 : rows - 1, -1 : columns - 1], 0, -1).reshape(-1, 2) * pitch
    at = at + random.uniform(-0.38, 0.38, at.shape) * pitch
    seeds = np.ones((HEIGHT + 60, WIDTH + 60), np.uint8)
    for y, x in at.round().astype(int) + 30:
        if 0 <= y < seeds.shape[0] and 0 <= x < seeds.shape[1]:
            seeds[y, x] = 0
    _, labels = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    labels = labels[30:-30, 30:-30].astype(np.float32)
    edge = (cv2.dilate(labels, np.ones((2, 2), np.uint8)) != labels) & inside
    strip = inside & (np.mgrid[0:HEIGHT, 0:WIDTH][0] > HEIGHT * 0.62)
    membranes = edge[..., None] * (0.16 * EOSIN + 0.05 * HEMATOXYLIN)
    specks = (random.random(edge.shape) < 0.05) & edge
    density = np.where(strip[..., None], stained(random, inside), membranes + specks[..., None] * 0.4 * HEMATOXYLIN)
    return with_truth(rendered(density.astype(np.float32), random), inside)


def ihc() -> Scene:
    """A pale blue counterstain with brown spots, which average to grey."""
    random = np.random.default_rng(4)
    inside = piece(random)
    blue = np.clip(0.10 + 0.09 * noise(random, 1.7), 0.015, 1)
    brown = np.clip((noise(random, 3) - 0.9) * 0.5, 0, 1) + np.clip((noise(random, 40) - 0.2) * 0.2, 0, 0.3)
    density = (blue[..., None] * BLUE_HEMATOXYLIN + brown[..., None] * DAB) * inside[..., None]
    return with_truth(rendered(density.astype(np.float32), random, (226, 226, 234)), inside)


def pen(colour: str) -> Callable[[], Scene]:
    """Return a scene with a stroke over glass and tissue and a ring on glass, in this colour."""

    def scene() -> Scene:
        random = np.random.default_rng(sum(map(ord, colour)))
        inside = piece(random, 0.32)
        stroke = np.zeros((HEIGHT, WIDTH), np.uint8)
        cv2.polylines(stroke, [np.array([[30, 60], [190, 130], [330, 250], [420, 400]])], False, 255, 26, cv2.LINE_AA)
        cv2.ellipse(stroke, (480, 70), (46, 36), 0, 0, 320, 255, 16, cv2.LINE_AA)
        ink = np.asarray(cv2.GaussianBlur(stroke, (0, 0), 2.0), np.float32) / 255
        flow = np.clip(1 + 0.15 * noise(random, 30), 0.6, 1.4)
        density = stained(random, inside) + (ink * flow)[..., None] * np.array(PENS[colour], np.float32)
        return with_truth(rendered(density, random), inside & (ink < 0.05))

    return scene


def bordered() -> Scene:
    """A scanner's black border, a coverslip's edge and dust."""
    random = np.random.default_rng(6)
    inside = piece(random, 0.30)
    density = stained(random, inside)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    edge = np.abs(x - 515 - 0.03 * y)
    density += (0.45 * np.exp(-(edge**2) / 3))[..., None] * np.ones(3, np.float32)
    density += (0.02 * (x > 515 + 0.03 * y))[..., None] * np.ones(3, np.float32)
    for _ in range(40):
        at = int(random.integers(30, HEIGHT - 30)), int(random.integers(30, WIDTH - 30))
        if not inside[at]:
            density[at] += 0.5
    border = (x < 24) | (y < 16)
    density[border] = 1.9
    return with_truth(rendered(density.astype(np.float32), random), inside & ~border)


def blank() -> Scene:
    """Glass that is lit unevenly, with dust and a hair; no tissue."""
    random = np.random.default_rng(7)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    shade = 0.02 * (x / WIDTH) + 0.015 * (y / HEIGHT) ** 2
    hair = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.polylines(hair, [np.array([[100, 300], [160, 250], [240, 270], [300, 200]])], False, 255, 1, cv2.LINE_AA)
    dust = (random.random((HEIGHT, WIDTH)) < 0.0006) * 0.5
    density = (shade + dust + hair / 255 * 0.4)[..., None] * np.array([1.0, 1.02, 1.04], np.float32)
    return rendered(density.astype(np.float32), random, (236, 238, 240))


def mosaic() -> Scene:
    """Tissue in the middle of scanned fields; what was not scanned is purely white."""
    random = np.random.default_rng(8)
    inside = piece(random, 0.30)
    scene = rendered(stained(random, inside), random, (228, 226, 230))
    rgb = scene.rgb.copy()
    rgb[:70], rgb[-50:], rgb[:, :90], rgb[:, -60:] = 255, 255, 255, 255
    rgb[:150, :170] = 255
    seen = (rgb != 255).any(axis=2)
    return Scene(rgb, inside & seen)


SCENES: Mapping[str, Callable[[], Scene]] = {
    "H&E": he, "pale": pale, "fatty": fatty, "IHC": ihc,
    **{f"{colour} pen": pen(colour) for colour in PENS},
    "black border": bordered, "blank": blank, "unscanned fields": mosaic,
}  # fmt: skip
