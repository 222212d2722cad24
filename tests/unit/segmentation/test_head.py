"""The compiled head against a slow one written from the description; `test_head_parity` has the package's own."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from reference_head import reference_labels
from scipy import ndimage

from microtome.segmentation.grow import sigmoid
from microtome.segmentation.head import _smallest_logit, find_instances
from microtome.segmentation.model import Model, PixelClassifier


def smooth_logits(seed: int, blur: float, spread: float, size: tuple[int, int] = (128, 144)) -> np.ndarray:
    """Fields in which peaks, overlaps, holes and windows full to the border are all frequent."""
    rng = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(rng.normal(size=(5, *size)), (0, blur, blur))
    noise /= noise.std((1, 2), keepdims=True)
    gains = np.array([spread, spread, 2, 2, 6])
    return np.ascontiguousarray(noise * gains[:, None, None], np.float32)


@pytest.mark.parametrize("blur", [1.5, 3, 5, 9, 16])
@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
def test_it_agrees_with_the_slow_head(model: Model, blur: float, spread: float) -> None:
    logits = smooth_logits(int(blur * 10 + spread * 7), blur, spread)
    found = find_instances(logits, model)
    assert (found.labels == reference_labels(logits, model)).all()


def test_plateaus_are_broken_by_scan_order(model: Model) -> None:
    logits = np.round(smooth_logits(5, 4, 0.5) / 4).astype(np.float32) * 4
    found = find_instances(logits, model)
    assert len(found.label) > 3
    assert (found.labels == reference_labels(logits, model)).all()


@pytest.mark.parametrize("value", [-30.0, 0.0, 30.0])
def test_constant_logits(model: Model, value: float) -> None:
    logits = np.full((5, 80, 96), value, np.float32)
    assert (find_instances(logits, model).labels == reference_labels(logits, model)).all()


def test_objects_describe_the_labels(model: Model) -> None:
    logits = smooth_logits(3, 3, 1.0)
    found = find_instances(logits, model)
    assert sorted(set(np.unique(found.labels)) - {0}) == found.label.tolist()
    for k, label in enumerate(found.label):
        ys, xs = np.nonzero(found.labels == label)
        assert found.area[k] == len(ys)
        assert found.box[k].tolist() == [ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]
        y, x = found.seed[k]
        assert found.score[k] == logits[4, y, x] / np.float32(15) + np.float32(0.5)


def test_not_a_number_is_background(model: Model) -> None:
    logits = np.full((5, 80, 80), np.nan, np.float32)
    assert not find_instances(logits, model).labels.any()


def test_images_smaller_than_a_window(model: Model) -> None:
    logits = np.full((5, 9, 70), -20, np.float32)
    logits[4, 4, 40] = 20
    assert find_instances(logits, model).labels.shape == (9, 70)


@pytest.mark.parametrize("probability", [0.001, 0.5, 0.53, 0.75, 0.9, 0.999])
def test_the_threshold_on_logits_is_the_one_on_probabilities(probability: float) -> None:
    at = _smallest_logit(np.float32(probability))
    assert sigmoid(at) >= np.float32(probability) > sigmoid(np.nextafter(at, np.float32(-np.inf)))


def test_a_wider_classifier_runs_as_well(model: Model) -> None:
    """One that has two hidden units more, of which nothing comes, finds the same to the last bit."""
    n, flat = model.pixel_classifier.hidden, model.pixel_classifier.flat
    w1, b1, w2, b2, w3, b3 = np.split(flat, np.cumsum([4 * n, n, n * n, n, n]))
    wide = [
        np.pad(w1.reshape(n, 4), ((0, 2), (0, 0))), np.pad(b1, (0, 2)), np.pad(w2.reshape(n, n), (0, 2)),
        np.pad(b2, (0, 2)), np.pad(w3, (0, 2)), b3,
    ]  # fmt: skip
    wider = PixelClassifier(n + 2, np.concatenate([part.ravel() for part in wide]).astype(np.float32))
    logits = smooth_logits(4, 4, 1.0)
    found = find_instances(logits, dataclasses.replace(model, pixel_classifier=wider))
    assert len(found.label) > 3
    assert (found.labels == find_instances(logits, model).labels).all()
