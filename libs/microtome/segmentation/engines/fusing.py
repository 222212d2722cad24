"""Which layers of a network are done in one go.

Promises: each step is one convolution with what follows it: its ReLU, a sum with what an earlier step gave, a pool.
Refuses, with `UnknownNetwork`: networks with anything else, and with channels that are no multiples of 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from microtome.segmentation.engines.network import Layer, Network, UnknownNetwork, Weights
from microtome.segmentation.engines.trimming import Trimming
from microtome.segmentation.engines.vectors import LANES
from microtome.segmentation.grid import Rect

Kind = Literal["first", "pointwise", "winograd", "logits"]
Other = Literal["none", "same", "doubled"]
# Regions begin and end at whole tiles of the convolutions.
_ALIGNED = 4


@dataclass(frozen=True, eq=False)
class Step:
    """`weight` is [out, in, k, k]. `value`, `source`, `other`, `pooled`: indices of the layers whose outputs they are.

    `doubled`: the source is read doubled; `adds`: how `other` is.
    """

    kind: Kind
    value: int
    source: int
    weight: Weights
    bias: Weights
    doubled: bool = False
    other: int = -1
    adds: Other = "none"
    pooled: int = -1


def plain_kernel(weight: Weights) -> Weights:
    """Give back the weights [out, in, 3, 3] of which `rewriting.transposed_kernel` made sums [in, out, 4, 4]."""
    back = np.array([[0, 0, 0, 1], [-1, 1, 0, 0], [1, 0, 0, 0]], np.float64)
    plain = np.einsum("kt,lu,iotu->oikl", back, back, weight.astype(np.float64))
    return np.ascontiguousarray(plain, np.float32)


def fused(network: Network) -> list[Step]:
    """Choose the steps of a rewritten network, in their order. Raises `UnknownNetwork`."""
    return _Fusing(network).steps()


class _Fusing:
    def __init__(self, network: Network) -> None:
        self._network = network
        # Which step makes a layer's output, and convolutions that wait for their sum.
        self._made_by: dict[int, int] = {}
        self._steps: list[Step] = []

    def steps(self) -> list[Step]:
        layers, last = self._network.layers, len(self._network.layers) - 1
        for index, layer in enumerate(layers):
            if layer.kind == "relu" and not self._summed(index):
                self._add(self._convolution(layer.inputs[0], index))
            elif layer.kind == "add":
                self._sum(index)
            elif layer.kind == "pool":
                self._pool(index)
            elif index == last:
                self._add(self._convolution(index, index))
            elif layer.kind in {"convolution", "transposed"}:
                self._require(self._kinds(index) == ["relu"], "a convolution without ReLU")
            elif layer.kind == "upsample":
                self._require(self._kinds(index) == ["add"], "doubling that is not added")
            else:
                self._require(layer.kind in {"picture", "relu"}, f"a step '{layer.kind}'")
        return self._steps

    def _kinds(self, index: int) -> list[str]:
        return [self._network.layers[at].kind for at in self._network.readers(index)]

    def _add(self, step: Step) -> None:
        self._made_by[step.value] = len(self._steps)
        self._steps.append(step)

    def _summed(self, index: int) -> bool:
        """Say whether a ReLU's output is added by the step that makes it."""
        readers = self._network.readers(index)
        if len(readers) != 1 or self._network.layers[readers[0]].kind != "add" or not self._is_wide(index):
            return False
        return self._last_summand(readers[0]) == index

    def _is_wide(self, index: int) -> bool:
        """Say whether a layer is the ReLU of a 3 × 3 convolution of many channels, which nothing else reads."""
        layer = self._network.layers[index]
        if layer.kind != "relu" or len(self._network.readers(index)) != 1:
            return False
        source = self._network.layers[layer.inputs[0]]
        three = source.kind == "convolution" and source.weight is not None and source.weight.shape[2] == 3
        return source.kind == "transposed" or (three and source.channels[0] % LANES == 0)

    def _last_summand(self, index: int) -> int:
        return max((at for at in self._network.layers[index].inputs if self._is_wide(at)), default=-1)

    def _sum(self, index: int) -> None:
        summand = self._last_summand(index)
        self._require(summand >= 0, "a sum of what no 3 × 3 convolution makes")
        layers = self._network.layers
        others = [at for at in layers[index].inputs if at != summand]
        self._require(len(others) == 1, "a sum of a layer with itself")
        doubled = layers[others[0]].kind == "upsample"
        other = layers[others[0]].inputs[0] if doubled else others[0]
        self._require(other in self._made_by, "a sum with what is not there yet")
        self._add(self._convolution(layers[summand].inputs[0], index, other, "doubled" if doubled else "same"))

    def _pool(self, index: int) -> None:
        source = self._network.layers[index].inputs[0]
        at = self._made_by.get(source, -1)
        self._require(at >= 0, "a pool of what is not there")
        step = self._steps[at]
        self._require(step.kind == "winograd" and step.value == source and step.pooled < 0, "a pool of that")
        self._made_by[index] = at
        self._steps[at] = Step(
            step.kind, step.value, step.source, step.weight, step.bias, step.doubled, step.other, step.adds, index
        )

    def _convolution(self, index: int, value: int, other: int = -1, adds: Other = "none") -> Step:
        layer = self._network.layers[index]
        self._require(layer.kind in {"convolution", "transposed"}, "a ReLU of what is no convolution")
        assert layer.weight is not None, "a convolution has weights"
        source, doubled = layer.inputs[0], layer.kind == "transposed"
        weight = plain_kernel(layer.weight) if doubled else layer.weight
        kind = self._kind(layer, value)
        of_picture = self._network.layers[source].kind == "picture"
        self._require(of_picture == (kind == "first"), "a picture that is read late")
        self._require(of_picture or source in self._made_by, "a convolution of what is not there")
        bias = np.zeros(len(weight), np.float32) if layer.bias is None else layer.bias
        return Step(kind, value, source, weight, bias, doubled, other, adds)

    def _kind(self, layer: Layer, value: int) -> Kind:
        channels_in, channels_out = layer.channels
        assert layer.weight is not None, "a convolution has weights"
        one = layer.weight.shape[2] == 1
        if value == len(self._network.layers) - 1:
            self._require(layer.kind == "convolution" and one and channels_out <= LANES, "such an end")
            return "logits"
        self._require(channels_out % LANES == 0, f"{channels_out} channels")
        if channels_in == 3:
            return "first"
        self._require(channels_in % LANES == 0, f"{channels_in} channels")
        return "pointwise" if one else "winograd"

    @staticmethod
    def _require(holds: bool, otherwise: str) -> None:
        if not holds:
            raise UnknownNetwork(f"The network has {otherwise}, which Microtome's own kernels do not compute.")


@dataclass(frozen=True)
class Regions:
    """Where each layer's output is computed, in its own pixels."""

    of: Mapping[int, Rect] = field(default_factory=dict)


def regions(network: Network, steps: list[Step], trim: Trimming, size: tuple[int, int], wanted: Rect) -> Regions:
    """Choose the regions for the part `wanted` of a picture of `size` (width, height).

    They begin at multiples of 4 pixels and hold what is read of them, but for what the edges of a region spoil; the
    margins of `trim` are wide enough for that.
    """
    strides, found = network.strides(), dict[int, Rect]()

    def needs(value: int, region: Rect) -> None:
        found[value] = _union(found[value], region) if value in found else region

    for step in reversed(steps):
        stride = strides[step.value]
        margin = trim.margins[step.value] if trim.margins else None
        whole = Rect(0, 0, size[0] // stride, size[1] // stride)
        inside = Rect(wanted.x // stride, wanted.y // stride, wanted.width // stride, wanted.height // stride)
        needs(step.value, whole if margin is None else _aligned(_grown(inside, margin), whole))
        if step.pooled in found:
            needs(step.value, _scaled_up(found[step.pooled]))
        region = found[step.value] = _aligned(found[step.value], whole)
        if step.pooled >= 0:
            found[step.pooled] = _halved(region)
        if step.kind != "first":
            needs(step.source, _halved(region) if step.doubled else region)
        if step.adds != "none":
            needs(step.other, _halved(region) if step.adds == "doubled" else region)
    return Regions(found)


def _union(one: Rect, other: Rect) -> Rect:
    x, y = min(one.x, other.x), min(one.y, other.y)
    right, bottom = max(one.x + one.width, other.x + other.width), max(one.y + one.height, other.y + other.height)
    return Rect(x, y, right - x, bottom - y)


def _grown(rect: Rect, by: int) -> Rect:
    return Rect(rect.x - by, rect.y - by, rect.width + 2 * by, rect.height + 2 * by)


def _aligned(rect: Rect, whole: Rect) -> Rect:
    x, y = max(0, rect.x // _ALIGNED * _ALIGNED), max(0, rect.y // _ALIGNED * _ALIGNED)
    right = min(whole.width, -(-(rect.x + rect.width) // _ALIGNED) * _ALIGNED)
    bottom = min(whole.height, -(-(rect.y + rect.height) // _ALIGNED) * _ALIGNED)
    return Rect(x, y, right - x, bottom - y)


def _halved(rect: Rect) -> Rect:
    x, y = rect.x // 2, rect.y // 2
    return Rect(x, y, -(-(rect.x + rect.width) // 2) - x, -(-(rect.y + rect.height) // 2) - y)


def _scaled_up(rect: Rect) -> Rect:
    return Rect(2 * rect.x, 2 * rect.y, 2 * rect.width, 2 * rect.height)
