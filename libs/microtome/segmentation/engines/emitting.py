"""From layers to a graph that OpenVINO compiles, in floats or in bytes.

Promises: the graph takes what the model's ONNX file takes (`pixels`, `low`, `scale`) and gives `logits`. With `ranges`,
the outputs of those layers are rounded to 256 steps of their range wherever they are read, and the weights of each
output channel of the convolutions that read them to 255 steps symmetric about 0, so that these compute on 8-bit
integers. Refuses: to choose ranges; see `calibration`, and `rounding` for the layers.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.network import Layer, Network, Weights
from microtome.segmentation.engines.rounding import makers
from microtome.segmentation.engines.trimming import Cut, Trimming
from microtome.segmentation.grid import STRIDE

# Lowest and highest value that a layer's output takes, by the layer's index.
Ranges = Mapping[int, tuple[float, float]]
# Of weights, on each side of 0.
LEVELS = 127
# Beyond any picture.
_FAR = 2**30


@dataclass(frozen=True, eq=False)
class InBytes:
    """A network whose weights are on their levels, `ranges` of the layers that are rounded, and what is added to each
    channel of the logits, `shift`.
    """

    network: Network
    ranges: Ranges
    shift: tuple[float, ...]


def emit(
    ov: Any,  # noqa: ANN401 - the openvino module
    network: Network,
    ranges: Ranges | None = None,
    taps: Collection[int] = (),
    trim: Trimming | None = None,
    shift: Sequence[float] = (),
) -> Any:  # noqa: ANN401
    """Build an `openvino.Model`.

    `ranges`: of every layer that is to be rounded. `shift`: what is added to each channel of the logits. `taps`: layers
    whose outputs are outputs of the graph, too, after the logits. `trim`: cuts to make, for each different one of which
    (`different_cuts`) the graph takes the int64 [2] inputs `begin<n>` and `end<n>`, rows and columns.
    """
    return _Emitter(ov, network, ranges or {}, trim or Trimming()).model(taps, shift)


def different_cuts(trim: Trimming) -> list[Cut]:
    """Return the cuts in the order of their inputs to the graph."""
    return list(dict.fromkeys([*trim.read.values(), *trim.made.values()]))


class _Emitter:
    def __init__(self, ov: Any, network: Network, ranges: Ranges, trim: Trimming) -> None:  # noqa: ANN401
        self._ov = ov
        self._ops = ov.opset13
        self._network = network
        self._ranges = ranges
        self._trim = trim
        self._outputs: list[Any] = []
        self._bounds: dict[Cut, tuple[Any, Any]] = {}
        self._cuts: dict[tuple[int, Cut], Any] = {}

    def model(self, taps: Collection[int], shift: Sequence[float]) -> Any:  # noqa: ANN401
        # OpenVINO follows what it knows of shapes, and copies what is to be added to something of which it knows more.
        # From the least that a side can have it knows the same of all summands.
        side = self._ov.Dimension(STRIDE, -1)
        pixels = self._ops.parameter(self._ov.PartialShape([-1, side, side, 3]), np.uint8, name="pixels")
        low, scale = (
            self._ops.parameter(self._ov.PartialShape([-1, 3]), np.float32, name=name) for name in ("low", "scale")
        )
        for parameter, name in ((pixels, "pixels"), (low, "low"), (scale, "scale")):
            parameter.output(0).set_names({name})
        edges = [self._edges(number, cut) for number, cut in enumerate(different_cuts(self._trim))]
        for index, layer in enumerate(self._network.layers):
            made = self._picture(pixels, low, scale) if layer.kind == "picture" else self._step(index, layer)
            if index in self._trim.made:
                made = self._cut(made, self._trim.made[index])
            if index in self._ranges:
                made = self._rounded(made, self._ranges[index])
                made = self._of_any_size(made) if self._bounds and self._enlarged(index) else made
            self._outputs.append(made)
        logits = self._outputs[-1]
        if shift:
            logits = self._ops.add(logits, self._ops.constant(np.array(shift, np.float32).reshape(1, -1, 1, 1)))
        results = [self._ops.result(logits)]
        results[0].output(0).set_names({"logits"})
        results += [self._ops.result(self._outputs[tap]) for tap in sorted(taps)]
        return self._ov.Model(results, [pixels, low, scale, *chain(*edges)], "microtome")

    def _edges(self, number: int, cut: Cut) -> tuple[Any, Any]:
        begin, end = (
            self._ops.parameter(self._ov.PartialShape([2]), np.int64, name=f"{name}{number}")
            for name in ("begin", "end")
        )
        begin.output(0).set_names({f"begin{number}"})
        end.output(0).set_names({f"end{number}"})
        self._bounds[cut] = begin, end
        return begin, end

    def _read(self, index: int, at: int) -> Any:  # noqa: ANN401
        """What a layer reads of another's output."""
        cut = self._trim.read.get((index, at))
        if cut is None:
            return self._outputs[at]
        if (at, cut) not in self._cuts:
            self._cuts[at, cut] = self._cut(self._outputs[at], cut)
        return self._cuts[at, cut]

    def _cut(self, values: Any, cut: Cut) -> Any:  # noqa: ANN401
        once, axes = (self._ops.constant(np.array(numbers, np.int64)) for numbers in ([1, 1], [2, 3]))
        return self._ops.slice(values, *self._bounds[cut], once, axes)

    def _enlarged(self, index: int) -> bool:
        """Whether a layer's output is what a transposed convolution makes."""
        layer = self._network.layers[index]
        return layer.kind == "transposed" or (layer.kind == "relu" and self._enlarged(layer.inputs[0]))

    def _of_any_size(self, values: Any) -> Any:  # noqa: ANN401
        """Give the same values, copied, and nothing known of their shape.

        Of what was cut OpenVINO knows nothing, but of what a transposed convolution makes of it that a side has two
        pixels. It would copy that, the sum that it goes into and the next one's other summand: three copies for one.
        """
        once, axes = (self._ops.constant(np.array(numbers, np.int64)) for numbers in ([1, 1], [2, 3]))
        begin, far = (self._ops.constant(np.array([number] * 2, np.int64)) for number in (0, _FAR))
        _, end = next(iter(self._bounds.values()))
        return self._ops.slice(values, begin, self._ops.add(end, far), once, axes)

    def _picture(self, pixels: Any, low: Any, scale: Any) -> Any:  # noqa: ANN401
        ops = self._ops
        # Bytes are the cheapest thing to transpose.
        planes = ops.transpose(pixels, ops.constant(np.array([0, 3, 1, 2], np.int64)))
        axes = ops.constant(np.array([2, 3], np.int64))
        above = ops.subtract(ops.convert(planes, "f32"), ops.unsqueeze(low, axes))
        return ops.clamp(ops.multiply(above, ops.unsqueeze(scale, axes)), *self._network.clamp)

    def _step(self, index: int, layer: Layer) -> Any:  # noqa: ANN401
        ops = self._ops
        first, *others = (self._read(index, at) for at in layer.inputs)
        if layer.kind in {"convolution", "transposed"}:
            return self._convolution(layer, first)
        if layer.kind == "relu":
            return ops.relu(first)
        if layer.kind == "add":
            return ops.add(first, others[0])
        if layer.kind == "concat":
            return ops.concat([first, *others], 1)
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

    def _convolution(self, layer: Layer, data: Any) -> Any:  # noqa: ANN401
        ops, weight = self._ops, layer.weight
        assert weight is not None, "a convolution has weights"
        in_bytes = all(maker in self._ranges for maker in makers(self._network, layer.inputs[0]))
        if layer.kind == "transposed" and not in_bytes:
            return self._doubling(layer, data)
        axis = 1 if layer.kind == "transposed" else 0
        weights = self._weights(layer, axis) if in_bytes else ops.constant(weight)
        if layer.kind == "transposed":
            made = ops.convolution_backprop_data(data, weights, [2, 2], None, [1, 1], [1, 1], [1, 1])
        else:
            around = [weight.shape[2] // 2] * 2
            # With padding that keeps the size by definition, as much is known of the output's shape as of the input's.
            made = ops.convolution(data, weights, [1, 1], around, around, [1, 1], "same_upper")
        return made if layer.bias is None else ops.add(made, ops.constant(layer.bias.reshape(1, -1, 1, 1)))

    def _doubling(self, layer: Layer, data: Any) -> Any:  # noqa: ANN401
        """A transposed convolution as one of 2 × 2, whose four times as many channels are laid out as 2 × 2 pixels.

        In floats OpenVINO's own adds up in an order that depends on the picture's shape, and is slower.
        """
        ops = self._ops
        assert layer.weight is not None, "a convolution has weights"
        made = ops.convolution(data, ops.constant(four_kernels(layer.weight)), [1, 1], [1, 1], [1, 1], [1, 1])
        if layer.bias is not None:
            made = ops.add(made, ops.constant(np.tile(layer.bias, 4).reshape(1, -1, 1, 1)))
        laid = ops.depth_to_space(made, "blocks_first", 2)
        inside = [ops.constant(np.array(numbers, np.int64)) for numbers in ([1, 1], [-1, -1], [1, 1], [2, 3])]
        return ops.slice(laid, *inside)

    def _rounded(self, values: Any, bounds: tuple[float, float]) -> Any:  # noqa: ANN401
        sides = [self._ops.constant(np.float32(bound)) for bound in grid_of_bytes(*bounds)]
        return self._ops.fake_quantize(values, *sides, *sides, 256)

    def _weights(self, layer: Layer, axis: int) -> Any:  # noqa: ANN401
        assert layer.weight is not None, "a convolution has weights"
        bound = largest_weights(layer.weight, axis) if layer.largest is None else layer.largest
        shape = [-1 if at == axis else 1 for at in range(layer.weight.ndim)]
        bounds = [self._ops.constant(np.ascontiguousarray(side.reshape(shape))) for side in (-bound, bound)]
        return self._ops.fake_quantize(self._ops.constant(layer.weight), *bounds, *bounds, 2 * LEVELS + 1)


def grid_of_bytes(low: float, high: float) -> tuple[float, float]:
    """Widen a range so that 0 is one of its 256 steps exactly: padding with zeros stays what it is."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == 0.0 or high == 0.0:
        return low, max(high, low + 1e-6)
    step = (high - low) / 255
    below = round(-low / step)
    step = max(-low / below if below else 0.0, high / (255 - below) if below < 255 else 0.0)
    return -below * step, (255 - below) * step


def four_kernels(weight: Weights) -> Weights:
    """Give the [4 · out, in, 2, 2] weights whose outputs, as 2 × 2 pixels, are what [in, out, 4, 4] give at stride 2.

    With a border of one zero around, and with one pixel more on each side.
    """
    parts = [weight[:, :, y + 2 :: -2, x + 2 :: -2] for y in (0, 1) for x in (0, 1)]
    return np.ascontiguousarray(np.concatenate([part.transpose(1, 0, 2, 3) for part in parts]), np.float32)


def largest_weights(weight: Weights, axis: int) -> NDArray[np.float32]:
    """Give the largest magnitude of each output channel, shaped to go with `weight`."""
    others = tuple(at for at in range(weight.ndim) if at != axis)
    largest = np.abs(weight).max(axis=others, keepdims=True)
    return np.asarray(np.maximum(largest, np.float32(1e-8)), np.float32)
