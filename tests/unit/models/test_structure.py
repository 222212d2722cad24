"""A network is known by its tensors' names and shapes, wholly or not at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from microtome.models.refusals import ModelRefused
from microtome.models.structure import Adaptor, Structure, bare, expected, read_structure
from tests.unit.models.conftest import Weights, random_weights, structure

ADAPTOR = Adaptor((4, 6, 8), 3, concatenates=True)


@pytest.mark.parametrize(
    "known",
    [
        structure(),
        structure((16, 32, 64, 128)),
        structure((4, 4, 4, 4, 4), mlp_width=9),
        structure((4, 8), norm=False),
        structure(decoders=((2, 2, 1, 2, 2, 1),)),
        structure(decoders=((2, 2, 1), (2, 2, 1))),
        structure(decoders=((2,), (1,), (2,))),
        structure(adaptor=ADAPTOR),
        structure(adaptor=Adaptor((4, 6, 8), 3, concatenates=False), norm=False),
    ],
)
def test_what_is_read_is_what_was_built(known: Structure) -> None:
    weights = random_weights(known)
    counted = sum(value.size for name, value in weights.items() if ".running_" not in name)
    assert read_structure(weights) == replace(known, parameters=counted)


def test_the_shipped_size_is_counted_right() -> None:
    assert read_structure(random_weights(structure((16, 32, 64, 128)))).parameters == 959_340


@pytest.mark.parametrize("nesting", ["fcn.", "module.", "fcn.model.", "module.model.", "model."])
def test_nesting_is_taken_off(plain: Structure, nesting: str) -> None:
    weights = random_weights(plain)
    nested = {nesting + name: value for name, value in weights.items()}
    nested["fcn.encoder.0.conv0.1.num_batches_tracked"] = np.array(7)
    # A deployed file holds the pixel classifier twice: in the network and beside it.
    nested |= {name: value for name, value in weights.items() if name.startswith("pixel_classifier")}
    assert bare(nested).keys() == weights.keys()
    assert read_structure(bare(nested)).layers == plain.layers


def test_the_adaptors_unused_layer_may_be_missing() -> None:
    weights = random_weights(structure(adaptor=ADAPTOR))
    kept = {name: value for name, value in weights.items() if "upcat_1.reduce_block" not in name}
    assert read_structure(kept).adaptor == ADAPTOR


def without(name: str) -> Callable[[Weights], object]:
    return lambda weights: weights.pop(name)


def given(name: str, *shape: int) -> Callable[[Weights], object]:
    return lambda weights: weights.update({name: np.zeros(shape, np.float32)})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda weights: weights.clear(), "not an InstanSeg U-Net"),
        (without("encoder.1.conv3.0.weight"), "lacks"),
        (without("encoder.0.conv0.0.weight"), "no tensor"),
        (without("pixel_classifier.fc1.weight"), "no tensor"),
        (without("decoders.0.decoder.1.conv_skip.0.bias"), "lacks"),
        (given("encoder.1.conv3.0.weight", 6, 6, 5, 5), "another shape"),
        (given("encoder.1.conv5.0.weight", 6, 6, 3, 3), "also has"),
        (given("pixel_classifier.fc2.weight", 4, 5), "another shape"),
        (given("decoders.0.final_block.0.0.weight", 3, 4, 1, 1), "3 coordinates"),
        (given("decoders.0.final_block.1.0.weight", 3, 4, 1, 1), "at most 2 sigmas"),
        (given("decoders.0.final_block.3.0.weight", 1, 4, 1, 1), r"gives? \[2, 2, 1, 1\]"),
        (given("encoder.999999999.conv0.0.weight", 1, 1, 1, 1), "also has"),
    ],
)
def test_anything_else_is_refused(plain: Structure, change: Callable[[Weights], object], why: str) -> None:
    weights = random_weights(plain)
    change(weights)
    with pytest.raises(ModelRefused, match=why):
        read_structure(weights)


def test_normalisation_over_the_tile_is_refused(plain: Structure) -> None:
    weights = {name: value for name, value in random_weights(plain).items() if ".running_" not in name}
    with pytest.raises(ModelRefused, match="instance normalisation"):
        read_structure(weights)


def test_more_levels_than_tile_origins_allow_are_refused() -> None:
    with pytest.raises(ModelRefused, match="6 levels"):
        read_structure(random_weights(structure((4,) * 6)))


@pytest.mark.parametrize(
    ("value", "why"),
    [(np.full(4, np.nan, np.float32), "not finite"), (np.zeros(4, np.int64), "floating-point")],
)
def test_tensors_that_are_no_weights_are_refused(plain: Structure, value: np.ndarray, why: str) -> None:
    with pytest.raises(ModelRefused, match=why):
        bare(random_weights(plain) | {"encoder.0.conv0.0.bias": value})


def test_two_different_tensors_of_one_name_are_refused(plain: Structure) -> None:
    weights = random_weights(plain)
    with pytest.raises(ModelRefused, match="two different"):
        bare(weights | {"fcn.encoder.0.conv0.0.bias": weights["encoder.0.conv0.0.bias"] + 1})


def test_names_and_shapes_are_the_packages() -> None:
    shapes = expected(structure())
    assert shapes["encoder.1.conv0.0.weight"] == (6, 4, 1, 1)
    assert shapes["decoders.0.decoder.0.conv_skip.0.weight"] == (6, 6, 1, 1)
    assert shapes["decoders.0.final_block.2.1.running_mean"] == (1,)
    assert shapes["pixel_classifier.fc1.weight"] == (5, 4)
