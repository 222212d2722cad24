"""A network is felt as far as its structure allows, and no further."""

from __future__ import annotations

import numpy as np
import pytest

from microtome.models.context import felt_radius, halo_for, structural_radius
from microtome.models.graph import network_bytes
from microtome.models.refusals import ModelRefused
from microtome.models.structure import Adaptor, Structure
from tests.unit.models.conftest import random_weights, structure


def runner(of: Structure) -> object:
    import onnxruntime

    weights = {name: np.abs(value) for name, value in random_weights(of).items()}
    # Nothing is switched off by a ReLU and nothing cancels: what can be felt is felt.
    weights |= {name: np.zeros_like(value) for name, value in weights.items() if name.endswith("running_mean")}
    session = onnxruntime.InferenceSession(network_bytes(of, weights, 0, 0.5), providers=["CPUExecutionProvider"])

    def infer(pixels: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        logits: np.ndarray = session.run(["logits"], {"pixels": pixels, "low": low * 0, "scale": scale / 255})[0]
        return logits

    return infer


@pytest.mark.parametrize(
    ("known", "bound", "least"),
    [
        (structure((3, 3)), 17, 15),
        (structure((3, 3, 3)), 43, 37),
        # The maxima over channels hide much of what is far away.
        (structure((3, 3), adaptor=Adaptor((2, 2, 2), 3, concatenates=True)), 68, 40),
    ],
)
def test_the_bound_holds_and_is_reached(known: Structure, bound: int, least: int) -> None:
    assert structural_radius(known) == bound
    # Sums of many small numbers do not feel the farthest ones in their last bit.
    assert least <= felt_radius(runner(known), bound) <= bound  # type: ignore[arg-type]


def test_the_bound_of_the_shipped_size() -> None:
    assert structural_radius(structure((16, 32, 64, 128))) == 95
    assert halo_for(95) == 96
    assert halo_for(96) == 96
    assert halo_for(97) == 112


def test_a_network_that_is_felt_further_is_refused() -> None:
    with pytest.raises(ModelRefused, match="structure allows 17"):
        felt_radius(runner(structure((3, 3, 3))), 17)  # type: ignore[arg-type]
