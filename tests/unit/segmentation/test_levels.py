"""int8: channels on equal scales, weights on levels that err little together, and what is kept of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from microtome.segmentation.engines.emitting import InBytes, largest_weights
from microtome.segmentation.engines.equalising import equalised, equalising_factors
from microtome.segmentation.engines.levels import Read, levelled, levels_of, with_levels
from microtome.segmentation.engines.network import Kind, Layer, Network
from microtome.segmentation.engines.packing import packed, unpacked
from microtome.segmentation.engines.rounding import rounded_layers


def some(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(0, 1, shape).astype(np.float32)


def network(seed: int = 0) -> Network:
    """With a sum, a pool and a transposed convolution."""
    rng = np.random.default_rng(seed)
    layers = (
        Layer("picture"),
        Layer("convolution", (0,), some(rng, 4, 3, 3, 3), some(rng, 4)),
        Layer("relu", (1,)),
        Layer("convolution", (2,), some(rng, 4, 4, 1, 1), some(rng, 4)),
        Layer("relu", (3,)),
        Layer("add", (2, 4)),
        Layer("pool", (5,)),
        Layer("transposed", (6,), some(rng, 4, 6, 4, 4), some(rng, 6)),
        Layer("relu", (7,)),
        Layer("convolution", (8,), some(rng, 5, 6, 1, 1), some(rng, 5)),
    )
    return Network(layers, (-2.0, 3.0))


def test_equal_scales_change_nothing_but_the_scales() -> None:
    from microtome.segmentation.engines.emitting import emit
    from microtome.segmentation.engines.openvino_cpu import openvino_module

    pytest.importorskip("openvino")
    ov, before = openvino_module(), network()
    tops = {2: np.array([1, 4, 16, 0], np.float32), 5: np.array([9, 4, 16, 0], np.float32)}
    tops[8] = np.array([1, 1, 1, 1, 1, 25], np.float32)
    factors = equalising_factors(before, tops)
    np.testing.assert_allclose(factors[2], [4 / 3, 2, 1, 8])
    assert all((factors[at] == factors[2]).all() for at in (1, 3, 4, 5, 6)), "they are added and pooled"
    np.testing.assert_allclose(factors[8], [5, 5, 5, 5, 5, 1])
    assert 0 not in factors, "the picture is what it is"
    assert 9 not in factors, "and the logits"
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    feed = {"pixels": pixels, "low": np.zeros((1, 3), np.float32), "scale": np.full((1, 3), 1 / 255, np.float32)}
    found = [
        np.array(ov.Core().compile_model(emit(ov, of), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(feed)[0])
        for of in (before, equalised(before, factors))
    ]
    assert np.abs(found[0]).mean() > 1
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-4)


def smooth(rng: np.random.Generator, channels: int) -> np.ndarray:
    """Values as layers have them: not negative, alike in neighbours, and channels go together."""
    field = np.cumsum(np.cumsum(rng.normal(0, 1, (3, 60, 60)), axis=1), axis=2)
    mixed = np.tensordot(rng.normal(0, 1, (channels, 3)), field, 1) + rng.normal(0, 1, (channels, 60, 60))
    return np.maximum(mixed, 0).astype(np.float32) / 10


@pytest.mark.parametrize(("kind", "shape"), [("convolution", (6, 4, 3, 3)), ("transposed", (4, 6, 4, 4))])
def test_sums_err_less_than_with_each_weight_at_its_nearest_level(kind: Kind, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(3)
    layer = Layer(kind, (0,), some(rng, *shape), some(rng, 6))
    assert layer.weight is not None
    axis = 1 if kind == "transposed" else 0
    largest = largest_weights(layer.weight, axis).ravel()
    shaped = largest.reshape((1, -1, 1, 1) if axis else (-1, 1, 1, 1)) / 127
    nearest = with_levels(layer, np.rint(layer.weight / shaped).astype(np.int8), largest, np.asarray(layer.bias))
    read = Read.of(layer)
    for seed in (1, 2):
        read.add(layer, smooth(rng, 4), seed)
    found = levelled(layer, read)
    assert np.abs(levels_of(found)).max() <= 127
    assert np.abs(np.asarray(found.weight) - layer.weight).max() < 4 * float(shaped.max()), "no weight goes far"
    # On what the layer reads that was not measured.
    fresh = smooth(rng, 4)
    errors = [np.square(output(of, fresh) - output(layer, fresh)).mean() for of in (found, nearest)]
    assert errors[0] < 0.3 * errors[1]


def output(layer: Layer, values: np.ndarray) -> np.ndarray:
    """What a layer gives, by definition, in doubles; without its edges."""
    weight, bias = np.asarray(layer.weight, np.float64), np.asarray(layer.bias, np.float64)
    if layer.kind == "convolution":
        windows = np.lib.stride_tricks.sliding_window_view(values.astype(np.float64), (3, 3), (1, 2))
        return np.asarray(np.einsum("iyxkl,oikl->oyx", windows, weight) + bias[:, None, None])
    _, height, width = values.shape
    made = np.zeros((weight.shape[1], 2 * height + 2, 2 * width + 2))
    for y in range(4):
        for x in range(4):
            made[:, y : y + 2 * height : 2, x : x + 2 * width : 2] += np.einsum(
                "iyx,io->oyx", values, weight[:, :, y, x]
            )
    return np.asarray(made[:, 4:-4, 4:-4] + bias[:, None, None])


def test_what_is_always_the_same_is_left_to_the_bias() -> None:
    rng = np.random.default_rng(5)
    layer = Layer("convolution", (0,), some(rng, 3, 2, 1, 1), None)
    read = Read.of(layer)
    read.add(layer, np.full((2, 8, 8), 7.0, np.float32), 1)
    found = levelled(layer, read)
    sums = np.asarray(found.weight)[:, :, 0, 0].sum(axis=1) * 7 + found.bias
    np.testing.assert_allclose(sums, np.asarray(layer.weight)[:, :, 0, 0].sum(axis=1) * 7, rtol=1e-5)


def rounded() -> InBytes:
    rng, of = np.random.default_rng(4), network()
    layers = []
    for layer in of.layers:
        if layer.weight is not None:
            read = Read.of(layer)
            read.add(layer, smooth(rng, layer.channels[0]), 1)
            layer = levelled(layer, read)  # noqa: PLW2901
        layers.append(layer)
    ranges = dict.fromkeys(rounded_layers(of), (0.0, 3.0))
    return InBytes(Network(tuple(layers), of.clamp), ranges, (0.0, 0.1, 0.2, 0.3, 0.4))


def test_what_is_unpacked_is_what_was_packed() -> None:
    before = rounded()
    after = unpacked(json.loads(json.dumps(packed(before))), network(), 5)
    assert after is not None
    assert (after.ranges, after.shift) == (before.ranges, before.shift)
    for one, other in zip(before.network.layers, after.network.layers, strict=True):
        for name in ("weight", "bias", "largest"):
            ours, theirs = getattr(one, name), getattr(other, name)
            assert (ours is None and theirs is None) or ours.tobytes() == theirs.tobytes()


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "nothing": lambda _: None,
    "six numbers for five channels": lambda kept: kept["shift"].append(1.0),
    "no number": lambda kept: kept["shift"].__setitem__(0, float("nan")),
    "a range of nobody": lambda kept: kept["ranges"].update({"9": [0.0, 1.0]}),
    "an empty range": lambda kept: kept["ranges"].update({"2": [0.0, 0.0]}),
    "no weights": lambda kept: kept["weights"].pop("3"),
    "another layer's": lambda kept: kept["weights"].update({"3": kept["weights"]["1"]}),
    "half a text": lambda kept: kept["weights"]["3"].update(levels=kept["weights"]["3"]["levels"][:-8]),
    "no steps": lambda kept: kept["weights"]["3"].update(largest=kept["weights"]["3"]["bias"]),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_of_what_was_damaged_nothing_is_taken(what: str) -> None:
    kept = packed(rounded())
    assert unpacked(kept, network(), 5) is not None
    DAMAGE[what](kept)
    assert unpacked(None if what == "nothing" else kept, network(), 5) is None
