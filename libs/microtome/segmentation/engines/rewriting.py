"""The same network with less to compute.

Promises: what a rewritten network computes is what it computed, up to the order in which floats are added: a doubled
picture is not computed on where one pixel would do. Refuses: nothing; what does not fit a rule stays as it is.

Three rules. A 1 × 1 convolution and a ReLU commute with doubling, so they go before it: a quarter of the work. A 3 × 3
convolution of a doubled picture meets at each pixel only 2 × 2 different values, so it is a transposed convolution with
a kernel of 4 and a stride of 2 whose weights are sums: 4 multiplications for 9. And convolutions of the same input
whose outputs are put together are one convolution.
"""

from __future__ import annotations

import numpy as np

from microtome.segmentation.engines.network import Layer, Network, Weights


def rewritten(network: Network) -> Network:
    """Apply all rules."""
    return _without_unread(_heads_joined(_doubled_late(network)))


def transposed_kernel(weight: Weights) -> Weights:
    """Give the [in, out, 4, 4] weights that do at stride 2 what 3 × 3 weights [out, in, 3, 3] do on a doubled picture.

    Output pixel 2i + t - 1, for t from 0 to 3, meets input pixel i through those taps k of the three for which half of
    t - 1 + k - 1, rounded down, is 0.
    """
    taps = np.array([[(t + k - 2) // 2 == 0 for k in range(3)] for t in range(4)], np.float64)
    summed = np.einsum("oikl,tk,ul->iotu", weight.astype(np.float64), taps, taps)
    return np.ascontiguousarray(summed, np.float32)


class _Rebuilding:
    """Copies a network layer by layer; `places` says where each old layer's output is now."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.layers: list[Layer] = []
        self.places: dict[int, int] = {}

    def add(self, layer: Layer) -> int:
        self.layers.append(layer)
        return len(self.layers) - 1

    def copy(self, index: int) -> None:
        layer = self.network.layers[index]
        inputs = tuple(self.places[at] for at in layer.inputs)
        self.places[index] = self.add(Layer(layer.kind, inputs, layer.weight, layer.bias))

    def result(self) -> Network:
        return Network(tuple(self.layers), self.network.clamp)


def _doubled_late(network: Network) -> Network:
    """Move doubling behind 1 × 1 convolutions and their ReLU, and into 3 × 3 convolutions."""
    new = _Rebuilding(network)
    # Old layers whose output is there only at half its size, and where.
    halves: dict[int, int] = {}

    def at_full_size(index: int) -> int:
        if index not in new.places:
            new.places[index] = new.add(Layer("upsample", (halves[index],)))
        return new.places[index]

    for index, layer in enumerate(network.layers):
        source = layer.inputs[0] if layer.inputs else -1
        if layer.kind == "upsample":
            halves[index] = new.places[source]
        elif source in halves and layer.kind == "relu":
            halves[index] = new.add(Layer("relu", (halves[source],)))
        elif source in halves and layer.kind == "convolution":
            assert layer.weight is not None
            if layer.weight.shape[2] == 1:
                halves[index] = new.add(Layer("convolution", (halves[source],), layer.weight, layer.bias))
            else:
                weight = transposed_kernel(layer.weight)
                new.places[index] = new.add(Layer("transposed", (halves[source],), weight, layer.bias))
        else:
            for at in layer.inputs:
                at_full_size(at) if at in halves else None
            new.copy(index)
    return new.result()


def _heads_joined(network: Network) -> Network:
    """Make one convolution of those 1 × 1 convolutions of one input that are only put together."""
    new = _Rebuilding(network)
    for index, layer in enumerate(network.layers):
        parts = [network.layers[at] for at in layer.inputs]
        joined = (
            layer.kind == "concat"
            and all(part.kind == "convolution" and part.weight is not None for part in parts)
            and len({part.inputs for part in parts}) == 1
            and len({part.weight.shape[1:] for part in parts if part.weight is not None}) == 1
            and all(part.bias is not None for part in parts)
        )
        if joined:
            weight = np.concatenate([part.weight for part in parts if part.weight is not None])
            bias = np.concatenate([part.bias for part in parts if part.bias is not None])
            source = new.places[parts[0].inputs[0]]
            new.places[index] = new.add(Layer("convolution", (source,), weight, bias))
        else:
            new.copy(index)
    return new.result()


def _without_unread(network: Network) -> Network:
    """Drop what nobody reads any more."""
    needed = {len(network.layers) - 1}
    for index in range(len(network.layers) - 1, -1, -1):
        if index in needed:
            needed.update(network.layers[index].inputs)
    new = _Rebuilding(network)
    for index in range(len(network.layers)):
        if index in needed:
            new.copy(index)
    return new.result()
