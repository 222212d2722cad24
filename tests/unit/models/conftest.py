from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from microtome.models.structure import Adaptor, Structure, expected

Weights = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def plain() -> Structure:
    """A small network for one class of objects."""
    return structure()


@pytest.fixture(scope="session")
def weights_of() -> Callable[..., Weights]:
    return random_weights


def structure(
    layers: tuple[int, ...] = (4, 6, 8),
    decoders: tuple[tuple[int, ...], ...] = ((2, 2, 1),),
    *,
    norm: bool = True,
    adaptor: Adaptor | None = None,
    mlp_width: int = 5,
) -> Structure:
    """A structure whose number of parameters is not known yet."""
    heads = [width for decoder in decoders for width in decoder]
    return Structure(layers, 3, decoders, norm, heads[1], heads[2], len(heads) // 3, mlp_width, adaptor, 0)


def random_weights(of: Structure, seed: int = 0) -> Weights:
    """Weights of every name and shape that the network has."""
    rng = np.random.default_rng(seed)
    weights = {}
    for name, shape in expected(of).items():
        spread = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 0.2
        values = rng.normal(0, spread, shape)
        if name.endswith("running_var"):
            values = rng.uniform(0.5, 1.5, shape)
        elif name.endswith(".1.weight"):
            values = rng.uniform(0.7, 1.3, shape)
        weights[name] = values.astype(np.float32)
    return weights
