"""A larger network that begins as a smaller one.

Promises: the widened weights give the logits that the smaller network's give, to fp32's rounding (Chen et al. 2016,
Net2Net), and the same seed gives the same weights. Every channel of a level is there as often as the level is wider,
the copies of all one after the other. Copies compute the same: their incoming weights, biases and running statistics
are the original's. What reads them shares the original's weight out among them, in unequal parts: parts that add up to
it, each with its own noise at every tap. Equal parts would send equal gradients back, and copies would stay copies for
ever. Levels are joined by sums only (`models.unet` never concatenates what came from different levels), and copies on
both sides of a sum stand in the same order, so nothing needs to be permuted. The heads' five outputs and the pixel
classifier, which reads them, stay as they are.
Refuses: levels that are not whole multiples of the smaller network's.
Pure: numpy arrays in, numpy arrays out, no torch.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ModelMismatch
from microtome.models.structure import Weights, expected, read_structure


@dataclass(frozen=True, slots=True)
class Widening:
    """How weight is shared out. `noise`: deviation of a copy's part, over the part's usual size; `seed`: of the lot."""

    noise: float = 1.0
    seed: int = 1


def widened(weights: Weights, layers: tuple[int, ...], widening: Widening) -> dict[str, NDArray[np.float32]]:
    """`models.structure.bare` weights of a network with `layers` that computes what the given ones compute.

    Raises `ModelMismatch` if their levels do not go a whole number of times into `layers`, and `ModelRefused` if they
    are not of InstanSeg's network.
    """
    structure = read_structure(weights)
    narrow = structure.layers
    if len(narrow) != len(layers) or any(wide % few for wide, few in zip(layers, narrow, strict=True)):
        raise ModelMismatch(f"A network with layers {narrow} cannot be widened to {layers}: not multiples of them.")
    rng = np.random.default_rng(widening.seed)
    shapes = expected(dataclasses.replace(structure, layers=layers))
    return {name: _spread(weights[name], shape, widening.noise, rng) for name, shape in shapes.items()}


def _spread(
    tensor: NDArray[np.float32], shape: tuple[int, ...], noise: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Rows (what is computed) repeated, columns (what is read) shared out, to `shape`."""
    rows = np.tile(tensor, (shape[0] // tensor.shape[0], *(1 for _ in shape[1:])))
    if rows.shape == shape:
        return rows
    copies = shape[1] // rows.shape[1]
    part = rows / copies
    unequal = rng.standard_normal((copies, *rows.shape), np.float32) * np.float32(noise * np.sqrt((part**2).mean()))
    # What one copy has more the others have less.
    return np.concatenate(list(part + unequal - unequal.mean(axis=0)), axis=1)
