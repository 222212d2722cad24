"""A model's network as a list of layers, so that it can be rewritten and quantised.

Promises: what `read_network` returns computes what the ONNX file computes; layers come in an order in which each one's
inputs are before it. Refuses, with `UnknownNetwork`: graphs with anything that is not in the list of kinds below; such
a network can still be run as it is, only not rewritten or quantised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from microtome.errors import MicrotomeError

Weights = NDArray[np.float32]
# "picture" is the normalised and clamped picture; "upsample" doubles by repeating; "transposed" has a kernel of 4 and a
# stride of 2 and doubles, too; "pool" halves by the largest of 2 × 2.
Kind = Literal["picture", "convolution", "transposed", "relu", "add", "pool", "upsample", "concat"]
_CLAMPS = ("Maximum", "Minimum", "Clamp")


class UnknownNetwork(MicrotomeError):
    """The network has parts that Microtome cannot take apart; it can only be run as it is."""

    code = "unknown-network"


@dataclass(frozen=True, eq=False)
class Layer:
    """One step. `inputs` are indices of earlier layers. Of a convolution, `weight` is [out, in, k, k] with stride 1 and
    the padding that keeps the size; of a transposed one [in, out, 4, 4]; `bias` is [out]. `largest`
    [out] is given where weights are on their levels already: the magnitude of each output channel's highest level.
    """

    kind: Kind
    inputs: tuple[int, ...] = ()
    weight: Weights | None = None
    bias: Weights | None = None
    largest: Weights | None = None

    @property
    def channels(self) -> tuple[int, int]:
        """Channels in and out, of a layer with weights."""
        assert self.weight is not None, "only layers with weights have channels of their own"
        first, second = self.weight.shape[:2]
        return (first, second) if self.kind == "transposed" else (second, first)


@dataclass(frozen=True, eq=False)
class Network:
    """All layers; the last one's output is the logits. `clamp`: range of the normalised picture."""

    layers: tuple[Layer, ...]
    clamp: tuple[float, float]

    def readers(self, index: int) -> list[int]:
        """Return the layers that read the output of one."""
        return [at for at, layer in enumerate(self.layers) if index in layer.inputs]

    def strides(self) -> list[int]:
        """Return, for each layer, how many pixels of the picture one of its output's is wide."""
        found: list[int] = []
        for layer in self.layers:
            wide = found[layer.inputs[0]] if layer.inputs else 1
            if layer.kind == "pool":
                wide *= 2
            elif layer.kind in {"upsample", "transposed"}:
                wide //= 2
            found.append(wide)
        return found

    def flops_by_layer(self) -> list[float]:
        """Floating-point operations of each convolution (two for a multiplication with addition) per picture pixel."""
        found = []
        for layer, wide in zip(self.layers, self.strides(), strict=True):
            multiplications = 0.0 if layer.weight is None else float(layer.weight.size)
            # Of the sixteen weights of a transposed convolution, an output pixel meets four.
            if layer.kind == "transposed":
                multiplications /= 4
            found.append(2 * multiplications / wide**2)
        return found

    def flops_per_pixel(self) -> float:
        """Floating-point operations of all convolutions per picture pixel."""
        return sum(self.flops_by_layer())


def read_network(core: Any, path: Path) -> Network:  # noqa: ANN401 - OpenVINO's Core
    """Read a model's ONNX file. Raises `UnknownNetwork`."""
    return _Reader().read(core.read_model(str(path)))


class _Reader:
    """Walks OpenVINO's graph of the file from its inputs to its output."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        # By the name of OpenVINO's node: which layer makes its output.
        self._made_by: dict[str, int] = {}
        self._clamp: tuple[float, float] | None = None

    def read(self, graph: Any) -> Network:  # noqa: ANN401
        for node in graph.get_ordered_ops():
            self._take(node)
        if self._clamp is None or len(graph.get_results()) != 1:
            raise UnknownNetwork("The network has not the one input and the one output of a segmentation network.")
        last = self._layer_of(graph.get_results()[0].input_value(0))
        if last != len(self._layers) - 1:
            raise UnknownNetwork("The network's output is not its last layer.")
        return Network(tuple(self._layers), self._clamp)

    def _take(self, node: Any) -> None:  # noqa: ANN401
        kind = node.get_type_name()
        if kind in _CLAMPS and self._clamp is None:
            if (clamp := _clamp_of(node)) is not None:
                self._clamp = clamp
                self._add(node, Layer("picture"))
        elif self._clamp is None or kind in {"Constant", "Parameter", "Result"}:
            return  # the normalisation in front, which is the same for all models, and what others point at
        elif kind == "Convolution":
            self._add(node, Layer("convolution", (self._layer_of(node.input_value(0)),), _weights_of(node)))
        elif kind == "Add":
            self._take_add(node)
        elif kind == "Relu":
            self._add(node, Layer("relu", (self._layer_of(node.input_value(0)),)))
        elif kind == "MaxPool":
            _require(_attributes(node, "kernel", "strides", "pads_begin", "pads_end"), [[2, 2], [2, 2], [0, 0], [0, 0]])
            self._add(node, Layer("pool", (self._layer_of(node.input_value(0)),)))
        elif kind == "Interpolate":
            _require(_scales_of(node), [2.0, 2.0])
            self._add(node, Layer("upsample", (self._layer_of(node.input_value(0)),)))
        elif kind == "Concat" and all(self._known(value) for value in node.input_values()):
            self._add(node, Layer("concat", tuple(self._layer_of(value) for value in node.input_values())))
        elif any(self._known(value) for value in node.input_values()) and kind != "ShapeOf":
            raise UnknownNetwork(f"The network has a step '{kind}' that Microtome cannot rewrite.")

    def _take_add(self, node: Any) -> None:  # noqa: ANN401
        known = [self._known(value) for value in node.input_values()]
        if all(known):
            self._add(node, Layer("add", tuple(self._layer_of(value) for value in node.input_values())))
        elif known[0]:
            at = self._layer_of(node.input_value(0))
            layer = self._layers[at]
            bias = _constant_behind(node.input_value(1))
            if layer.kind != "convolution" or layer.bias is not None or layer.weight is None:
                raise UnknownNetwork("The network adds a constant to what is not a convolution.")
            _require(bias.size, layer.weight.shape[0])
            self._layers[at] = Layer("convolution", layer.inputs, layer.weight, bias.ravel())
            self._made_by[node.get_friendly_name()] = at
        elif any(known):
            raise UnknownNetwork("The network adds something to a constant.")

    def _add(self, node: Any, layer: Layer) -> None:  # noqa: ANN401
        self._made_by[node.get_friendly_name()] = len(self._layers)
        self._layers.append(layer)

    def _known(self, value: Any) -> bool:  # noqa: ANN401
        return value.get_node().get_friendly_name() in self._made_by

    def _layer_of(self, value: Any) -> int:  # noqa: ANN401
        name = value.get_node().get_friendly_name()
        if name not in self._made_by:
            raise UnknownNetwork(f"The network reads '{name}', which is no layer.")
        return self._made_by[name]


def _clamp_of(node: Any) -> tuple[float, float] | None:  # noqa: ANN401
    """Give the range to which `node` is the last step of clamping, if it is one."""
    if node.get_type_name() == "Clamp":
        low, high = _attributes(node, "min", "max")
        return float(low), float(high)
    if node.get_type_name() == "Minimum":
        parts = [value.get_node() for value in node.input_values()]
        lower = next((part for part in parts if part.get_type_name() == "Maximum"), None)
        if lower is not None:
            bounds = [
                next(part for part in pair if part.get_type_name() == "Constant")
                for pair in ([value.get_node() for value in lower.input_values()], parts)
            ]
            return float(bounds[0].data.item()), float(bounds[1].data.item())
    return None


def _weights_of(node: Any) -> Weights:  # noqa: ANN401
    source = node.input_value(1).get_node()
    if source.get_type_name() != "Constant":
        raise UnknownNetwork("The network has a convolution whose weights are computed.")
    weight = np.array(source.data, np.float32)
    kernel = weight.shape[2]
    around = [kernel // 2, kernel // 2]
    _require(weight.shape[2:] in {(1, 1), (3, 3)}, True)
    _require(_attributes(node, "strides", "dilations", "pads_begin", "pads_end"), [[1, 1], [1, 1], around, around])
    return weight


def _constant_behind(value: Any) -> Weights:  # noqa: ANN401
    """Give the constant that `value` is, reshaped or not."""
    node = value.get_node()
    while node.get_type_name() in {"Reshape", "Convert", "Unsqueeze"}:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        raise UnknownNetwork(f"The network adds a computed '{node.get_type_name()}'.")
    return np.array(node.data, np.float32)


def _scales_of(node: Any) -> list[float]:  # noqa: ANN401
    """Give by how much an interpolation by repetition enlarges height and width; anything else is refused."""
    attributes = node.get_attributes()
    how = [attributes.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode")]
    _require(how, ["nearest", "asymmetric", "floor"])
    for value in node.input_values()[1:]:
        source = value.get_node()
        if source.get_type_name() == "Constant" and source.data.dtype.kind == "f":
            return [float(scale) for scale in source.data.ravel()[-2:]]
    raise UnknownNetwork("The network enlarges by a factor that is computed.")


def _attributes(node: Any, *names: str) -> list[Any]:  # noqa: ANN401
    attributes = node.get_attributes()
    values = [attributes[name] for name in names]
    return [list(value) if isinstance(value, Sequence) else value for value in values]


def _require(found: object, expected: object) -> None:
    if found != expected:
        raise UnknownNetwork(f"The network has a step with {found}, where Microtome can rewrite only {expected}.")
