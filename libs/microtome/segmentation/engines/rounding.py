"""Which values inside a network are kept in bytes: all that are kept at all.

Promises: with the layers of `rounded_layers` in bytes, a convolution reads bytes and writes bytes, and what it adds,
cuts and rounds on the way never reaches memory in floats. Rounding an output once, where it is made, serves everyone
who reads it. Refuses: nothing; the range of each is somebody else's to choose, see `calibration`.
"""

from __future__ import annotations

from microtome.segmentation.engines.network import Network

# They pass on values as they are: rounded before them is rounded behind them.
_PASSING = frozenset({"pool", "upsample", "concat"})
_WEIGHTED = frozenset({"convolution", "transposed"})


def rounded_layers(network: Network) -> list[int]:
    """Return the layers whose outputs are kept, but for the logits: what convolutions and sums read.

    One summand of each sum is not among them if the convolution that makes it has no other reader: it is added while it
    is still in that convolution's registers.
    """
    found: set[int] = set()
    for index, layer in enumerate(network.layers):
        if layer.kind in _WEIGHTED or layer.kind == "add":
            in_passing = _added_at_once(network, index) if layer.kind == "add" else None
            found.update(maker for at in layer.inputs if at != in_passing for maker in makers(network, at))
    return sorted(found)


def makers(network: Network, index: int) -> list[int]:
    """Return the layers whose values the output of one consists of, unchanged."""
    layer = network.layers[index]
    if layer.kind not in _PASSING:
        return [index]
    return [maker for at in layer.inputs for maker in makers(network, at)]


def sharing_ranges(network: Network) -> list[list[int]]:
    """Return groups of layers that must be rounded alike, since their outputs are put together."""
    return [makers(network, index) for index, layer in enumerate(network.layers) if layer.kind == "concat"]


def _added_at_once(network: Network, index: int) -> int | None:
    """Return the input of a sum that its convolution can add to the other: of two, the larger convolution's."""
    sizes = {at: size for at in network.layers[index].inputs if (size := _weights_behind(network, at, index))}
    return max(sizes, key=lambda at: sizes[at]) if sizes else None


def _weights_behind(network: Network, at: int, reader: int) -> int:
    """Count the weights of the convolution whose output, with or without ReLU, only `reader` reads; 0 if there is none.

    A transposed one counts 0, too: OpenVINO cannot add in it.
    """
    while True:
        layer = network.layers[at]
        if network.readers(at) != [reader]:
            return 0
        if layer.kind == "convolution" and layer.weight is not None:
            return int(layer.weight.size)
        if layer.kind != "relu":
            return 0
        at, reader = layer.inputs[0], at
