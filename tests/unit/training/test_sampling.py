"""Procedural pictures and samples: the same each time, outlines on their nuclei."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.training.geometry import distance
from microtome.training.labelled import Labelled
from microtome.training.procedural import picture
from microtome.training.sampling import Recipe, Sampler

RECIPE = Recipe(crop=96, shares=(("procedural", 1.0),))


@pytest.fixture(scope="module")
def images() -> tuple[Labelled, ...]:
    return tuple(Labelled(str(n), "procedural", *picture(n, 192), 0.5, False, "") for n in range(3))


def test_a_picture_is_its_seeds(images: tuple[Labelled, ...]) -> None:
    pixels, labels = picture(1, 192)
    assert np.array_equal(pixels, images[1].pixels)
    assert np.array_equal(labels, images[1].labels)
    assert not np.array_equal(pixels, images[2].pixels)


def test_pictures_show_their_nuclei_darker_than_what_is_around() -> None:
    darker = []
    for seed in range(6):
        pixels, labels = picture(seed, 192)
        assert labels.max() > 3
        darker.append(pixels[labels > 0].mean() < pixels[labels == 0].mean())
    assert sum(darker) >= 5


def test_a_sample_is_its_number(images: tuple[Labelled, ...]) -> None:
    one, other = Sampler(images, RECIPE), Sampler(images, RECIPE)
    other.draw(5)
    for number in (3, 17):
        a, b = one.draw(number), other.draw(number)
        assert np.array_equal(a.pixels, b.pixels)
        assert np.array_equal(a.labels, b.labels)
    assert not np.array_equal(one.draw(3).pixels, one.draw(4).pixels)


def test_samples_are_what_the_loss_expects(images: tuple[Labelled, ...]) -> None:
    sampler = Sampler(images, RECIPE)
    for number in range(8):
        sample = sampler.draw(number)
        assert sample.pixels.shape == (3, 96, 96)
        assert sample.pixels.dtype == np.float32
        assert sample.pixels.min() >= -2
        assert sample.pixels.max() <= 3
        assert np.allclose(sample.distance, distance(sample.labels), atol=1e-5)
        assert set(np.unique(sample.certain)) <= {0.0, 1.0}
        assert sample.labels.min() >= 0


def test_outlines_stay_on_their_nuclei_however_the_picture_is_bent() -> None:
    """Black discs on white: wherever a sample is surely disc or surely not, its label says the same."""
    y, x = np.mgrid[:256, :256]
    labels = np.zeros((256, 256), np.int32)
    for n, (cy, cx) in enumerate([(60, 60), (60, 190), (190, 60), (190, 190), (125, 125)], start=1):
        labels[np.hypot(y - cy, x - cx) < 24] = n
    pixels = np.where(labels[..., None] > 0, 20, 235).astype(np.uint8).repeat(3, axis=2)
    sampler = Sampler((Labelled("discs", "procedural", pixels, labels, 0.25, False, ""),), RECIPE)
    right, total = 0, 0
    for number in range(40):
        sample = sampler.draw(number)
        grey = sample.pixels.mean(axis=0)
        middle = (grey.min() + grey.max()) / 2
        if grey.max() - grey.min() < 0.5 or not sample.labels.any():
            continue
        certain = sample.certain > 0
        right += int((((grey < middle) == (sample.labels > 0)) & certain).sum())
        total += int(certain.sum())
    assert total > 100_000
    assert right / total > 0.985


def test_guessed_borders_are_doubtful() -> None:
    labels = np.zeros((256, 256), np.int32)
    labels[80:180, 40:128], labels[80:180, 128:220] = 1, 2
    pixels = np.where(labels[..., None] > 0, 90, 230).astype(np.uint8).repeat(3, axis=2)
    sure, guessed = (
        Sampler((Labelled("two", "procedural", pixels, labels, 0.25, guess, ""),), RECIPE) for guess in (False, True)
    )
    fewer = [sure.draw(n).certain.sum() - guessed.draw(n).certain.sum() for n in range(12)]
    assert min(fewer) >= 0
    assert max(fewer) > 20
