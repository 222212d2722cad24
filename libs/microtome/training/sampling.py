"""What the network is shown: crops of labelled images, turned, scaled, bent and restained.

Promises: sample number n of a seed is the same whenever it is drawn, so a run that was interrupted goes on as if it had
not been. Pixels and labels are bent by one map and halved together, so an outline stays on its nucleus.
Refuses: nothing; what lies outside an image is shown mirrored and marked as doubtful, and the loss leaves it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.training.geometry import distance, halved, touching
from microtome.training.labelled import Labelled

# Hematoxylin, eosin and what is neither, as optical densities of red, green and blue.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)
_UNMIX = np.linalg.inv(_STAINS).astype(np.float32)
_OUTSIDE = -1


@dataclass(frozen=True, eq=False)
class Sample:
    """`pixels` float32 [3, n, n] normalised; `labels` int32 [n, n]; `distance` float32 [n, n] as `geometry.distance`;
    `certain` float32 [n, n]: 1 where the labels are to be believed, 0 where not.
    """

    pixels: NDArray[np.float32]
    labels: NDArray[np.int32]
    distance: NDArray[np.float32]
    certain: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How samples are drawn. `shares`: how often each group is drawn; within it, an image by the root of its nuclei."""

    seed: int = 1
    crop: int = 192
    mpp: float = 0.5
    shares: tuple[tuple[str, float], ...] = (
        ("tnbc", 0.45),
        ("nuinsseg", 0.40),
        ("dsb2018", 0.08),
        ("procedural", 0.07),
    )
    scale: tuple[float, float] = (0.72, 1.45)
    clamp: tuple[float, float] = (-2.0, 3.0)


@dataclass(frozen=True, eq=False)
class _Pool:
    """Images of one group, and how likely each is drawn: empty ones seldom, crowded ones not much oftener."""

    images: list[Labelled]
    chances: NDArray[np.float64]

    @classmethod
    def of(cls, images: list[Labelled]) -> _Pool:
        roots = np.sqrt([len(np.unique(image.labels)) + 3 for image in images])
        return cls(images, roots / roots.sum())


class Sampler:
    """Draws samples from images."""

    def __init__(self, images: Sequence[Labelled], recipe: Recipe) -> None:
        self._recipe = recipe
        grouped = [
            ([image for image in images if image.group.startswith(name)], share) for name, share in recipe.shares
        ]
        self._pools = [(_Pool.of(members), share) for members, share in grouped if members and share > 0]
        self._chances = np.array([share for _, share in self._pools])
        self._chances /= self._chances.sum()
        self._looks = [_look(image.pixels) for image in images]

    def draw(self, number: int) -> Sample:
        """Sample `number`."""
        recipe = self._recipe
        rng = np.random.default_rng([recipe.seed, number])
        pool = self._pools[rng.choice(len(self._pools), p=self._chances)][0]
        image = pool.images[rng.choice(len(pool.images), p=pool.chances)]
        pixels, labels = _cut(rng, image, recipe)
        outside = labels == _OUTSIDE
        labels = np.where(outside, 0, labels).astype(np.int32)
        doubtful = outside | touching(labels, 1) if image.guessed else outside
        shades = pixels.astype(np.float32)
        if rng.random() < 0.7:
            shades = _restained(shades, self._looks[rng.integers(len(self._looks))], rng.uniform(0.3, 1.0))
        shades = _degraded(rng, _tinted(rng, shades))
        return Sample(
            pixels=np.ascontiguousarray(_normalised(rng, shades, recipe.clamp).transpose(2, 0, 1), np.float32),
            labels=labels,
            distance=distance(labels),
            certain=(~doubtful).astype(np.float32),
        )


def _cut(rng: np.random.Generator, image: Labelled, recipe: Recipe) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
    """A crop at the recipe's pixel size: sampled at twice the resolution, then halved, pixels and labels alike."""
    edge = 2 * recipe.crop
    scale = float(np.exp(rng.uniform(*np.log(recipe.scale))))
    step = recipe.mpp / (2 * image.mpp * scale)  # source pixels per sampled pixel
    height, width = image.labels.shape
    angle = rng.integers(4) * np.pi / 2 + (rng.uniform(-0.5, 0.5) if rng.random() < 0.4 else 0.0)
    turn = step * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if rng.random() < 0.5:
        turn[:, 0] *= -1
    # Lengthened along one direction, at most by a fifth.
    turn[:, 1] *= np.exp(rng.normal(0, 0.07))
    reach = step * edge / 2
    middle = [_middle(rng, length, reach) for length in (width, height)]
    across, down = np.meshgrid(*(2 * [np.arange(edge) - (edge - 1) / 2]))
    x = turn[0, 0] * across + turn[0, 1] * down + middle[0]
    y = turn[1, 0] * across + turn[1, 1] * down + middle[1]
    if rng.random() < 0.3:
        bend = rng.normal(0, rng.uniform(1.0, 4.0) * step, (2, 9, 9)).astype(np.float32)
        x += cv2.resize(bend[0], (edge, edge), interpolation=cv2.INTER_CUBIC)
        y += cv2.resize(bend[1], (edge, edge), interpolation=cv2.INTER_CUBIC)
    x, y = x.astype(np.float32), y.astype(np.float32)
    pixels = cv2.remap(image.pixels, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    pixels = cv2.resize(pixels, (recipe.crop, recipe.crop), interpolation=cv2.INTER_AREA)
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    labels = np.where(inside, image.labels[row.clip(0, height - 1), column.clip(0, width - 1)], _OUTSIDE)
    return np.asarray(pixels, np.uint8), halved(labels.astype(np.int32))


def _middle(rng: np.random.Generator, length: int, reach: float) -> float:
    """A middle with which the crop stays inside, or the image's own where the crop is the larger."""
    room = length / 2 - reach
    return (length - 1) / 2 + (float(rng.uniform(-room, room)) if room > 0 else float(rng.uniform(room, -room)) / 2)


def _density(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(-np.log((pixels.clip(0, 255) + 1) / 256) @ _UNMIX, np.float32)


def _pixels(density: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray((256 * np.exp(-(density @ _STAINS)) - 1).clip(0, 255), np.float32)


def _look(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Mean and deviation of an image's three stains: float32 [2, 3]."""
    density = _density(pixels[::4, ::4].reshape(-1, 3).astype(np.float32))
    return np.stack([density.mean(axis=0), density.std(axis=0) + 0.02])


def _restained(pixels: NDArray[np.float32], look: NDArray[np.float32], strength: float) -> NDArray[np.float32]:
    """Stained as another image is, or part of the way there."""
    density = _density(pixels)
    mean, deviation = density.mean(axis=(0, 1)), density.std(axis=(0, 1)) + 0.02
    target_mean = mean + strength * (look[0] - mean)
    ratio = (look[1] / deviation).clip(0.5, 2.0) ** strength
    return _pixels((density - mean) * ratio + target_mean)


def _tinted(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """More or less of each stain, other light, other gamma."""
    if rng.random() < 0.7:
        density = _density(pixels)
        factor, offset = 1 + rng.normal(0, 0.26, 3), rng.normal(0, 0.05, 3)
        pixels = _pixels((density * factor + offset).astype(np.float32))
    if rng.random() < 0.3:
        pixels = 255 * (pixels / 255) ** np.exp(rng.normal(0, 0.15)) * rng.uniform(0.88, 1.05, 3)
    return np.asarray(pixels.clip(0, 255), np.float32)


def _degraded(rng: np.random.Generator, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Out of focus, sharpened by the scanner, noisy, compressed."""
    kind = rng.random()
    if kind < 0.25:
        pixels = np.asarray(cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 1.2))), np.float32)
    elif kind < 0.4:
        soft = cv2.GaussianBlur(pixels, (0, 0), 1.0)
        pixels = pixels + rng.uniform(0.2, 1.0) * (pixels - soft)
    if rng.random() < 0.25:
        pixels = np.asarray(pixels + rng.normal(0, rng.uniform(1, 8), pixels.shape), np.float32)
    whole = pixels.clip(0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 95))]
        packed = cv2.imencode(".jpg", whole, quality)[1]
        whole = np.asarray(cv2.imdecode(packed, cv2.IMREAD_COLOR), np.uint8)
    return whole.astype(np.float32)


def _normalised(
    rng: np.random.Generator, pixels: NDArray[np.float32], clamp: tuple[float, float]
) -> NDArray[np.float32]:
    """By the crop's own percentiles, or, half the time, by those that a slide around it might have."""
    low, high = np.percentile(pixels, (0.1, 99.9), axis=(0, 1))
    if rng.random() < 0.5:
        low = (low - rng.uniform(0, 30)).clip(0, None)
        high = np.maximum(high, rng.uniform(220, 255))
    return np.asarray(((pixels - low) / np.maximum(high - low, 16)).clip(*clamp), np.float32)
