"""The same network with its channels on more equal scales, so that each uses more of the 256 steps of its layer.

Promises: what an equalised network computes is what it computed, up to the rounding of floats: behind a ReLU a channel
may be made larger by any factor if those who read it divide by the same, and sums, pools and doubling pass factors on.
Refuses: to touch the picture and the logits, and channels that are put together with others.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.disjoint import DisjointSets
from microtome.segmentation.engines.network import Layer, Network

Factors = Mapping[int, NDArray[np.float64]]
# What passes on the factors of what it reads.
_TRANSPARENT = frozenset({"relu", "add", "pool", "upsample"})
# Factors are this power of what would make all channels alike: the root leaves room above what was seen of a channel
# that is rarely large, and spares the small weights of the layer behind.
_POWER = 0.5
# A channel is made larger by no more than the root of this.
_LARGEST = 64.0


def equalising_factors(network: Network, tops: Mapping[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float64]]:
    """Choose by how much each channel of each layer is multiplied, of layers where it may be.

    `tops`: the largest magnitudes [channels] of the layers that are to be rounded.
    """
    factors: dict[int, NDArray[np.float64]] = {}
    for group in _groups(network):
        known = [tops[layer] for layer in group if layer in tops]
        if known:
            highest = np.max(known, axis=0).astype(np.float64)
            top = max(float(highest.max()), 1e-6)
            factors |= dict.fromkeys(group, (top / np.maximum(highest, top / _LARGEST)) ** _POWER)
    return factors


def equalised(network: Network, factors: Factors) -> Network:
    """Multiply the outputs of layers by `factors`, as weights and biases of those that make and read them."""
    layers = (
        layer if layer.weight is None else _scaled(layer, factors.get(index), factors.get(layer.inputs[0]))
        for index, layer in enumerate(network.layers)
    )
    return Network(tuple(layers), network.clamp)


def _scaled(layer: Layer, out: NDArray[np.float64] | None, read: NDArray[np.float64] | None) -> Layer:
    assert layer.weight is not None, "only layers with weights are scaled"
    weight, bias = layer.weight.astype(np.float64), layer.bias
    outputs = 0 if layer.kind == "convolution" else 1
    if out is not None:
        weight *= _along(out, outputs)
    if read is not None:
        weight /= _along(read, 1 - outputs)
    if bias is not None and out is not None:
        bias = (bias * out).astype(np.float32)
    return dataclasses.replace(layer, weight=np.ascontiguousarray(weight, np.float32), bias=bias)


def _along(factor: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Shape one number a channel to go with weights of four axes."""
    return np.expand_dims(factor, tuple(at for at in range(4) if at != axis))


def _groups(network: Network) -> list[list[int]]:
    """Return the layers whose channels can only be scaled together, of all that can be."""
    groups = DisjointSets(len(network.layers))
    for index, layer in enumerate(network.layers):
        if layer.kind in _TRANSPARENT:
            for at in layer.inputs:
                groups.join(index, at)
    fixed = {groups.of(len(network.layers) - 1)}
    for index, layer in enumerate(network.layers):
        if layer.kind in {"picture", "concat"}:
            fixed |= {groups.of(index), *map(groups.of, layer.inputs)}
    return [group for group in groups.sets() if groups.of(group[0]) not in fixed]
