"""A network in bytes as plain values, to be kept on disk.

Promises: what is unpacked is what was packed, to the last bit; of what does not fit the network nothing is taken.
Refuses: to know where it is kept; see `memory`.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from microtome.segmentation.engines.emitting import LEVELS, InBytes
from microtome.segmentation.engines.levels import levels_of, with_levels
from microtome.segmentation.engines.network import Layer, Network
from microtome.segmentation.engines.rounding import rounded_layers


def packed(of: InBytes) -> dict[str, Any]:
    """Give plain values."""
    weights = {
        str(index): {"levels": _text(levels_of(layer)), "largest": _text(layer.largest), "bias": _text(layer.bias)}
        for index, layer in enumerate(of.network.layers)
        if layer.largest is not None and layer.bias is not None
    }
    ranges = {str(layer): list(bounds) for layer, bounds in of.ranges.items()}
    return {"ranges": ranges, "shift": list(of.shift), "weights": weights}


def unpacked(values: object, network: Network, channels: int) -> InBytes | None:
    """Read what `packed` gave for this network, whose logits have so many channels; None for anything else."""
    if not isinstance(values, dict):
        return None
    try:
        ranges = {int(layer): (float(low), float(high)) for layer, (low, high) in values["ranges"].items()}
        shift = tuple(float(each) for each in values["shift"])
        layers = tuple(
            layer if layer.weight is None else _layer(layer, values["weights"][str(index)])
            for index, layer in enumerate(network.layers)
        )
    except (TypeError, ValueError, LookupError, AttributeError, zlib.error):
        return None
    sound = sorted(ranges) == rounded_layers(network) and all(
        math.isfinite(low) and math.isfinite(high) and low <= 0 <= high and low < high for low, high in ranges.values()
    )
    if not sound or len(shift) != channels or not all(map(math.isfinite, shift)):
        return None
    return InBytes(Network(layers, network.clamp), ranges, shift)


def _layer(layer: Layer, kept: Mapping[str, str]) -> Layer:
    """Give the layer with the weights that were kept. Raises `ValueError` if they are no such layer's."""
    assert layer.weight is not None, "only layers with weights are kept"
    outputs = layer.channels[1]
    levels = _array(kept["levels"], np.int8).reshape(layer.weight.shape)
    largest, bias = (_array(kept[name], np.float32).reshape(outputs) for name in ("largest", "bias"))
    if levels.min() < -LEVELS or not (np.isfinite(largest).all() and np.isfinite(bias).all() and largest.min() > 0):
        raise ValueError("levels, their steps or biases are none")
    return with_levels(layer, levels, largest, bias)


def _text(values: NDArray[Any] | None) -> str:
    assert values is not None, "what was rounded has all of it"
    return base64.b64encode(zlib.compress(values.tobytes(), 1)).decode("ascii")


def _array(text: str, kind: DTypeLike) -> NDArray[Any]:
    return np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), kind)
