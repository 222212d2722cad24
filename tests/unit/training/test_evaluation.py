"""Scoring a network through the head that users get."""

from __future__ import annotations

import dataclasses

import numpy as np

from microtome.segmentation.model import Model, PixelClassifier, load_model
from microtome.training import evaluation, report
from microtome.training.geometry import DISTANCE_SCALE, distance, doubled
from microtome.training.labelled import Labelled


def _plain() -> Model:
    """A hand-written pixel classifier: a pixel belongs when its embedding is within 1 of the seed's."""
    first = np.zeros((5, 4), np.float32)
    first[0, 0], first[1, 0], first[2, 1], first[3, 1] = 1, -1, 1, -1
    parts = (first, np.zeros(5), np.eye(5), np.zeros(5), np.full(5, -10.0), [10.0])
    flat = np.concatenate([np.ravel(part) for part in parts]).astype(np.float32)
    return dataclasses.replace(load_model("embedded"), pixel_classifier=PixelClassifier(hidden=5, flat=flat))


MODEL = _plain()


def _image() -> Labelled:
    y, x = np.mgrid[:64, :64]
    labels = np.zeros((64, 64), np.int32)
    for n, (cy, cx) in enumerate([(16, 16), (16, 48), (44, 30)], start=1):
        labels[np.hypot(y - cy, x - cx) < 7] = n
    pixels = np.where(labels[..., None] > 0, 80, 230).astype(np.uint8).repeat(3, axis=2)
    return Labelled("discs", "tnbc05", doubled(pixels), doubled(labels), 0.25, False, "")


def _perfect(image: Labelled) -> np.ndarray:
    """Logits of a network that knows the truth: seeds from the distance map, embeddings that point at the middle."""
    half = image.labels[::2, ::2]
    logits = np.zeros((5, *half.shape), np.float32)
    logits[4] = (distance(half) - 0.5) * DISTANCE_SCALE
    y, x = np.mgrid[: half.shape[0], : half.shape[1]]
    for label in (1, 2, 3):
        inside = half == label
        for channel, at in ((0, x), (1, y)):
            wanted = (at[inside].mean() - at[inside]) * MODEL.coordinate_step
            logits[channel][inside] = -np.log(1 / (wanted / 8 + 0.5) - 1)
    return logits


def test_what_a_network_is_given_is_the_halved_normalised_picture() -> None:
    seen = {}

    def network(pixels: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        seen.update(shape=pixels.shape, low=low, high=low + 1 / scale)
        return np.zeros((5, *pixels.shape[:2]), np.float32)

    logits = evaluation.logits_of(network, _image(), (0.1, 99.9))
    assert logits.shape == (5, 64, 64)
    assert seen["shape"] == (64, 64, 3)
    assert np.allclose(seen["low"], 80)
    assert np.allclose(seen["high"], 230)


def test_seeds_of_the_distance_map_are_one_for_each_nucleus() -> None:
    image = _image()
    total = evaluation.tally([(_perfect(image), image)], MODEL)
    assert (total.truth, total.found, total.matched[0]) == (3, 3, 3)
    assert total.scores.sq > 0.9
    nothing = np.full((5, 64, 64), -8, np.float32)
    assert evaluation.tally([(nothing, image)], MODEL).found == 0


def test_calibration_takes_the_thresholds_with_the_best_quality() -> None:
    image = _image()
    pairs = [(_perfect(image), image)]
    model, scores = evaluation.calibrate(pairs, MODEL)
    assert scores == evaluation.tally(pairs, model).scores
    assert scores.pq >= evaluation.tally(pairs, MODEL).scores.pq
    assert model.seed_threshold in evaluation.SEED_THRESHOLDS
    assert model.mask_threshold in evaluation.MASK_THRESHOLDS


def test_a_picture_shows_what_is_right_made_up_and_missed() -> None:
    image = _image()
    found = np.where(image.labels == 3, 0, image.labels)
    found[60:80, 0:16] = 9
    colours = {tuple(colour) for colour in report.drawn(image, found).reshape(-1, 3).tolist()}
    assert {(40, 200, 40), (40, 40, 230), (230, 120, 20)} <= colours
    rows = {"perfect": report.scored([image], lambda each: each.labels)}
    assert "| perfect | 1.000 | 1.000 | 1.000 | 1.000 | 1.000 | 3 for 3 |" in report.table(rows)
