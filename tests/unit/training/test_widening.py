"""A widened network computes what the smaller one does, and its copies do not stay copies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from safetensors.numpy import load_file

from microtome.errors import MicrotomeError, ModelMismatch
from microtome.models.graph import bare_network
from microtome.models.structure import Weights, bare, read_structure
from microtome.segmentation.model import load_model
from microtome.training.widening import Widening, widened
from tests.unit.models.conftest import random_weights, structure


def _logits(weights: Weights, images: np.ndarray) -> np.ndarray:
    graph = bare_network(read_structure(weights), weights, 0, 0.5).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"x": images})[0]
    return logits


def _images() -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 2, (1, 3, 96, 64)).astype(np.float32)


def _embedded() -> Weights:
    folder: Path = load_model("embedded").network.parent
    return bare(load_file(folder / "weights.safetensors"))


def test_the_embedded_network_twice_as_wide_gives_the_same_logits() -> None:
    small = _embedded()
    large = widened(small, (32, 64, 128, 256), Widening())
    assert read_structure(large).layers == (32, 64, 128, 256)
    expected = _logits(small, _images())
    assert np.abs(expected).max() > 5
    np.testing.assert_allclose(_logits(large, _images()), expected, atol=5e-5)


@pytest.mark.parametrize("layers", [(4, 6, 8), (8, 6, 24), (12, 18, 8)])
@pytest.mark.parametrize("norm", [True, False])
def test_each_level_may_be_wider_by_its_own_factor(layers: tuple[int, ...], norm: bool) -> None:
    small = random_weights(structure(norm=norm))
    given = _images()
    got = _logits(widened(small, layers, Widening(noise=2.0)), given)
    np.testing.assert_allclose(got, _logits(small, given), atol=1e-4, rtol=1e-4)


def test_copies_are_read_by_unequal_weights_unless_there_is_no_noise() -> None:
    small = random_weights(structure())
    name = "encoder.0.conv1.0.weight", "encoder.0.conv2.0.weight"
    large, equal = (widened(small, (8, 12, 16), Widening(noise=noise)) for noise in (1.0, 0.0))
    # What reads the image computes the same twice; what reads the copies does not read them alike.
    assert np.array_equal(large[name[0]][:4], large[name[0]][4:])
    for each in (large[name[1]][:4, :4] - large[name[1]][:4, 4:], large[name[1]][:4] - large[name[1]][4:]):
        assert np.abs(each).mean() > 0.3 * np.abs(large[name[1]]).mean()
    assert np.array_equal(equal[name[1]][:, :4], equal[name[1]][:, 4:])


def test_a_seed_gives_the_same_weights_and_another_others() -> None:
    small = random_weights(structure())
    first, again, other = (widened(small, (8, 12, 16), Widening(seed=seed)) for seed in (1, 1, 2))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["encoder.1.conv2.0.weight"], other["encoder.1.conv2.0.weight"])


@pytest.mark.parametrize("layers", [(8, 12), (8, 9, 16), (2, 3, 4)])
def test_what_is_no_multiple_is_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(ModelMismatch, match="multiples"):
        widened(random_weights(structure()), layers, Widening())


def test_other_networks_are_refused() -> None:
    with pytest.raises(MicrotomeError):
        widened({"fc.weight": np.zeros((2, 2), np.float32)}, (8, 12, 16), Widening())
