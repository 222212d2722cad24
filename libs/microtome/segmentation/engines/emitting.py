"""From layers to a graph that OpenVINO compiles, in floats or in bytes.

Promises: the graph takes what the model's ONNX file takes (`pixels`, `low`, `scale`) and gives `logits`. With `ranges`,
the outputs of those layers are rounded to 256 steps of their range wherever they are read, and the weights of each
output channel of the convolutions that read them to 255 steps symmetric about 0, so that these compute on 8-bit
integers. Refuses: to choose ranges; see `calibration`, and `rounding` for the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.network import Layer, Network, Weights
from microtome.segmentation.engines.rounding import makers

# Lowest and highest value that a layer's output takes, by the layer's index.
Ranges = Mapping[int, tuple[float, float]]


def emit(
    ov: Any,  # noqa: ANN401 - the openvino module
    network: Network,
    ranges: Ranges | None = None,
    taps: Collection[int] = (),
) -> Any:  # noqa: ANN401
    """Build an `openvino.Model`.

    `ranges`: of every layer that is to be rounded. `taps`: layers whose outputs are outputs of the graph, too, after
    the logits.
    """
    return _Emitter(ov, network, ranges or {}).model(taps)


class _Emitter:
    def __init__(self, ov: Any, network: Network, ranges: Ranges) -> None:  # noqa: ANN401
        self._ov = ov
        self._ops = ov.opset13
        self._network = network
        self._ranges = ranges
        self._outputs: list[Any] = []

    def model(self, taps: Collection[int]) -> Any:  # noqa: ANN401
        pixels = self._ops.parameter(self._ov.PartialShape([-1, -1, -1, 3]), np.uint8, name="pixels")
        low, scale = (
            self._ops.parameter(self._ov.PartialShape([-1, 3]), np.float32, name=name) for name in ("low", "scale")
        )
        for parameter, name in ((pixels, "pixels"), (low, "low"), (scale, "scale")):
            parameter.output(0).set_names({name})
        for index, layer in enumerate(self._network.layers):
            made = self._picture(pixels, low, scale) if layer.kind == "picture" else self._step(layer)
            self._outputs.append(self._rounded(made, self._ranges[index]) if index in self._ranges else made)
        results = [self._ops.result(self._outputs[-1])]
        results[0].output(0).set_names({"logits"})
        results += [self._ops.result(self._outputs[tap]) for tap in sorted(taps)]
        return self._ov.Model(results, [pixels, low, scale], "microtome")

    def _picture(self, pixels: Any, low: Any, scale: Any) -> Any:  # noqa: ANN401
        ops = self._ops
        # Bytes are the cheapest thing to transpose.
        planes = ops.transpose(pixels, ops.constant(np.array([0, 3, 1, 2], np.int64)))
        axes = ops.constant(np.array([2, 3], np.int64))
        above = ops.subtract(ops.convert(planes, "f32"), ops.unsqueeze(low, axes))
        return ops.clamp(ops.multiply(above, ops.unsqueeze(scale, axes)), *self._network.clamp)

    def _step(self, layer: Layer) -> Any:  # noqa: ANN401
        ops = self._ops
        first = self._outputs[layer.inputs[0]]
        if layer.kind in {"convolution", "transposed"}:
            return self._convolution(layer)
        if layer.kind == "relu":
            return ops.relu(first)
        if layer.kind == "add":
            return ops.add(first, self._outputs[layer.inputs[1]])
        if layer.kind == "concat":
            return ops.concat([self._outputs[at] for at in layer.inputs], 1)
        if layer.kind == "pool":
            # The names of OpenVINO's older set of operations: one output, no indices of the largest.
            return self._ov.opset1.max_pool(first, [2, 2], [0, 0], [0, 0], [2, 2], "floor", "valid")
        assert layer.kind == "upsample", f"a layer of kind {layer.kind}"
        scales = ops.constant(np.array([2, 2], np.float32))
        axes = ops.constant(np.array([2, 3], np.int64))
        return self._ov.opset11.interpolate(
            first, scales, "nearest", "scales", coordinate_transformation_mode="asymmetric", nearest_mode="floor",
            axes=axes,
        )  # fmt: skip

    def _convolution(self, layer: Layer) -> Any:  # noqa: ANN401
        ops, weight = self._ops, layer.weight
        assert weight is not None, "a convolution has weights"
        data = self._outputs[layer.inputs[0]]
        axis = 1 if layer.kind == "transposed" else 0
        in_bytes = all(maker in self._ranges for maker in makers(self._network, layer.inputs[0]))
        weights = self._weights(weight, axis) if in_bytes else ops.constant(weight)
        if layer.kind == "transposed":
            made = ops.convolution_backprop_data(data, weights, [2, 2], None, [1, 1], [1, 1], [1, 1])
        else:
            around = [weight.shape[2] // 2] * 2
            made = ops.convolution(data, weights, [1, 1], around, around, [1, 1])
        if layer.bias is None:
            return made
        return ops.add(made, ops.constant(layer.bias.reshape(1, -1, 1, 1)))

    def _rounded(self, values: Any, bounds: tuple[float, float]) -> Any:  # noqa: ANN401
        sides = [self._ops.constant(np.float32(bound)) for bound in grid_of_bytes(*bounds)]
        return self._ops.fake_quantize(values, *sides, *sides, 256)

    def _weights(self, weight: Weights, axis: int) -> Any:  # noqa: ANN401
        bound = largest_weights(weight, axis)
        bounds = [self._ops.constant(side) for side in (-bound, bound)]
        return self._ops.fake_quantize(self._ops.constant(weight), *bounds, *bounds, 255)


def grid_of_bytes(low: float, high: float) -> tuple[float, float]:
    """Widen a range so that 0 is one of its 256 steps exactly: padding with zeros stays what it is."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == 0.0 or high == 0.0:
        return low, max(high, low + 1e-6)
    step = (high - low) / 255
    below = round(-low / step)
    step = max(-low / below if below else 0.0, high / (255 - below) if below < 255 else 0.0)
    return -below * step, (255 - below) * step


def largest_weights(weight: Weights, axis: int) -> NDArray[np.float32]:
    """Give the largest magnitude of each output channel, shaped to go with `weight`."""
    others = tuple(at for at in range(weight.ndim) if at != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    return np.asarray(np.maximum(largest, np.float32(1e-8)), np.float32)
