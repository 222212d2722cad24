"""The graph computes what the weights mean. (Against PyTorch and the package: tests/parity.)"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from microtome.models.graph import bare_network, largest_logit_at, network_bytes
from microtome.models.structure import Adaptor, Structure, bare, read_structure
from microtome.segmentation.model import shipped_models
from microtome.training.labelled import REPORTED
from tests.unit.models.conftest import Weights, random_weights, structure

SHARED = Path(__file__).parents[4] / "shared" / "models"
FOREGROUND = 0.5


def run(of: Structure, weights: Weights, images: np.ndarray, object_class: int = 0) -> np.ndarray:
    graph = bare_network(of, weights, object_class, FOREGROUND).SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(None, {"x": images})[0]
    return logits


def images(count: int = 2, height: int = 48, width: int = 32) -> np.ndarray:
    return np.random.default_rng(9).normal(0, 1, (count, 3, height, width)).astype(np.float32)


def convolved(image: np.ndarray, weights: Weights, name: str, *, active: bool = True) -> np.ndarray:
    """Convolution, batch normalisation and ReLU in double precision, written as in the textbook."""
    kernel, bias = weights[f"{name}.0.weight"].astype(float), weights[f"{name}.0.bias"].astype(float)
    size = kernel.shape[2]
    padded = np.pad(image, ((0, 0), (size // 2,) * 2, (size // 2,) * 2))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), axis=(1, 2))
    value = np.einsum("chwij,ocij->ohw", windows, kernel) + bias[:, None, None]
    if f"{name}.1.weight" in weights:
        gain, shift, mean, variance = (
            weights[f"{name}.1.{part}"].astype(float)[:, None, None]
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        value = (value - mean) / np.sqrt(variance + 1e-5) * gain + shift
    return np.maximum(value, 0) if active else value


def by_hand(weights: Weights, image: np.ndarray) -> np.ndarray:
    """A network of two levels."""

    def pairs(name: str, at: np.ndarray, skip: np.ndarray | None = None) -> np.ndarray:
        inner = convolved(at, weights, f"{name}.conv1")
        if skip is not None:
            inner = inner + convolved(skip, weights, f"{name}.conv_skip")
        first = convolved(at, weights, f"{name}.conv0") + convolved(inner, weights, f"{name}.conv2")
        return first + convolved(convolved(first, weights, f"{name}.conv3"), weights, f"{name}.conv4")

    full = pairs("encoder.0", image.astype(float))
    channels, height, width = full.shape
    half = pairs("encoder.1", full.reshape(channels, height // 2, 2, width // 2, 2).max((2, 4)))
    up = pairs("decoders.0.decoder.0", half.repeat(2, 1).repeat(2, 2), full)
    return np.concatenate([convolved(up, weights, f"decoders.0.final_block.{head}", active=False) for head in range(3)])


@pytest.mark.parametrize("norm", [True, False])
def test_it_is_what_one_computes_by_hand(norm: bool) -> None:
    known = structure((3, 5), norm=norm)
    weights = random_weights(known)
    given = images(1, 16, 24)
    np.testing.assert_allclose(run(known, weights, given)[0], by_hand(weights, given[0]), atol=1e-5)


def test_the_same_weights_give_the_same_bytes(plain: Structure) -> None:
    weights = random_weights(plain)
    first, second = (network_bytes(plain, dict(weights), 0, FOREGROUND) for _ in range(2))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()
    assert network_bytes(plain, random_weights(plain, seed=1), 0, FOREGROUND) != first


@pytest.mark.parametrize("decoders", [((2, 2, 1, 2, 2, 1),), ((2, 2, 1), (2, 2, 1))])
def test_each_class_of_objects_has_its_own_channels(decoders: tuple[tuple[int, ...], ...]) -> None:
    both = structure(decoders=decoders)
    weights = random_weights(both)
    one = structure()
    for number in range(2):
        renamed = dict(weights)
        for name, value in weights.items():
            if len(decoders) == 2 and name.startswith(f"decoders.{number}."):
                renamed[name.replace(f"decoders.{number}.", "decoders.0.", 1)] = value
            head = name.split(".")
            if len(decoders) == 1 and head[2] == "final_block" and int(head[3]) // 3 == number:
                renamed[".".join([*head[:3], str(int(head[3]) % 3), *head[4:]])] = value
        np.testing.assert_allclose(run(both, weights, images(), number), run(one, renamed, images()), atol=1e-6)


def test_a_missing_sigma_is_zero_and_a_second_seed_map_erases_seeds() -> None:
    known, other = structure(decoders=((2, 1, 2),)), structure(decoders=((2, 1, 1),))
    weights = random_weights(known)

    def alone(row: int) -> np.ndarray:
        """One of the two seed maps, from a network that has only this one."""
        kept = {part: value[[row]] for part, value in weights.items() if ".final_block.2." in part}
        return run(other, weights | kept, images())[:, 4]

    weights["decoders.0.final_block.2.1.bias"][1] -= np.median(alone(1))
    logits = run(known, weights, images())
    assert logits.shape == (2, 5, 48, 32)
    assert (logits[:, 3] == 0).all()
    erased = alone(1) <= largest_logit_at(FOREGROUND)
    assert 0.4 < erased.mean() < 0.6
    assert (logits[:, 4][erased] == -7.5).all()
    np.testing.assert_allclose(logits[:, 4][~erased], alone(0)[~erased], atol=1e-6)


@pytest.mark.parametrize("concatenates", [True, False])
def test_the_adaptor_does_not_feel_the_order_of_channels(concatenates: bool) -> None:
    known = structure(adaptor=Adaptor((3, 4, 5), 3, concatenates))
    weights = random_weights(known)
    given = images()
    mixed = run(known, weights, np.ascontiguousarray(given[:, [2, 0, 1]]))
    np.testing.assert_allclose(mixed, run(known, weights, given), atol=1e-5)
    assert np.abs(run(known, weights, given[::-1].copy()) - mixed).max() > 1e-3
    grey = given[:, [0]].repeat(3, 1)
    assert np.abs(run(known, weights, grey) - mixed).max() > 1e-3


@pytest.mark.parametrize("probability", [0.5, 0.3, 0.7, 0.53])
def test_the_last_logit_that_says_no(probability: float) -> None:
    at = largest_logit_at(probability)

    def sigmoid(logit: np.float32) -> np.float32:
        return np.float32(1) / (np.float32(1) + np.float32(np.exp(-np.float64(logit))))

    assert sigmoid(at) <= np.float32(probability) < sigmoid(np.nextafter(at, np.float32(9)))


@pytest.mark.skipif(not SHARED.is_dir(), reason="the first weights are not at ../shared/models")
def test_the_first_weights_give_the_network_they_came_with() -> None:
    from safetensors.numpy import load_file

    weights = bare(load_file(SHARED / "first_brightfield_nuclei_16.safetensors"))
    known = read_structure(weights)
    assert known == replace(structure((16, 32, 64, 128)), parameters=959_340)
    bare_onnx = onnxruntime.InferenceSession(
        str(SHARED / "first_brightfield_nuclei_16.onnx"), providers=["CPUExecutionProvider"]
    )
    given = images(2, 64, 96)
    np.testing.assert_allclose(run(known, weights, given), bare_onnx.run(None, {"x": given})[0], atol=1e-4)


@pytest.mark.parametrize("folder", shipped_models().values(), ids=shipped_models())
def test_the_shipped_weights_give_the_shipped_network(folder: Path) -> None:
    from safetensors.numpy import load_file

    weights = bare(load_file(folder / "weights.safetensors"))
    assert network_bytes(read_structure(weights), weights, 0, FOREGROUND) == (folder / "model.onnx").read_bytes()


@pytest.mark.parametrize("folder", shipped_models().values(), ids=shipped_models())
def test_the_shipped_weights_say_what_they_learned_from(folder: Path) -> None:
    from safetensors import safe_open

    with safe_open(folder / "weights.safetensors", "np") as file:
        recipe = json.loads(file.metadata()["recipe"])
    seen = {*recipe["data"]["learned"], *recipe["data"]["choosing"]}
    assert {"tnbc01", "nuinsseg"} < seen
    assert not seen & REPORTED
