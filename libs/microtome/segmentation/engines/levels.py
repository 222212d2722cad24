"""To which of its 255 steps each weight is rounded, so that sums of products err least rather than weights.

Promises: what rounding one weight adds to an output is taken back by the weights that are rounded after it, as far as
what they are multiplied with goes together with it; pixels that lie side by side and channels do, much. What is left of
it on average goes into the bias. The same levels for the same statistics.
Refuses: to look at what the next layers make of it; each layer is rounded for its own outputs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engines.emitting import LEVELS, four_kernels, largest_weights
from microtome.segmentation.engines.network import Layer, Weights

# Of what a layer reads: that many places of each picture are looked at.
_PLACES = 1024
# Part of the mean variance that is added to each: what was hardly seen must not be rounded carelessly.
_DAMPING = 0.01
_BLOCK = 64
Matrix = NDArray[np.float64]


@dataclass
class Read:
    """What a convolution reads at one place, [in · kernel · kernel] values: their sum and that of all products."""

    size: int
    places: int
    total: Matrix
    products: Matrix

    @classmethod
    def of(cls, layer: Layer) -> Read:
        """Begin, for one layer with weights."""
        size = _as_rows(layer)[0].size
        return cls(size, 0, np.zeros(size), np.zeros((size, size)))

    def add(self, layer: Layer, values: NDArray[np.float32], seed: int) -> None:
        """Look at some places of `values` float32 [in, h, w], which the layer reads; which, is up to `seed`."""
        assert layer.weight is not None, "only layers with weights are rounded"
        kernel = 2 if layer.kind == "transposed" else layer.weight.shape[2]
        padded = np.pad(values, ((0, 0), (kernel // 2,) * 2, (kernel // 2,) * 2))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))
        at = np.random.default_rng(seed).integers(0, windows.shape[1:3], (_PLACES, 2))
        seen = windows[:, at[:, 0], at[:, 1]].swapaxes(0, 1).reshape(_PLACES, -1).astype(np.float64)
        self.places += _PLACES
        self.total += seen.sum(axis=0)
        # In doubles no rounding of a weight depends on the order in which threads add.
        self.products += seen.T @ seen

    def scaled(self, factors: Matrix | None) -> Read:
        """What it would be with the channels multiplied by `factors` [in]."""
        if factors is None:
            return self
        each = np.repeat(factors, self.size // len(factors))
        return Read(self.size, self.places, self.total * each, self.products * np.outer(each, each))


def levelled(layer: Layer, read: Read) -> Layer:
    """Round the layer's weights to levels of each output channel, which its `largest` tells from then on."""
    assert layer.weight is not None, "only layers with weights are rounded"
    largest = largest_weights(layer.weight, 1 if layer.kind == "transposed" else 0).ravel()
    rows, mean = _as_rows(layer).astype(np.float64), read.total / read.places
    steps = np.tile(largest.astype(np.float64) / LEVELS, len(rows) // largest.size)[:, None]
    spread = read.products / read.places
    if layer.kind == "convolution":
        # The bias can take back the mean. That of a transposed one is the same for four different sums.
        spread = spread - np.outer(mean, mean)
    levels = _fed_back(rows / steps, spread)
    missing = ((rows - levels * steps) @ mean).reshape(-1, largest.size).mean(axis=0)
    bias = missing if layer.bias is None else layer.bias + missing
    return with_levels(layer, _from_rows(layer, levels), largest, bias.astype(np.float32))


def with_levels(layer: Layer, levels: NDArray[np.int8], largest: Weights, bias: Weights) -> Layer:
    """Give the layer with weights of these levels of -127 to 127."""
    shape = (1, -1, 1, 1) if layer.kind == "transposed" else (-1, 1, 1, 1)
    weight = levels.astype(np.float32) * (largest / np.float32(LEVELS)).reshape(shape)
    return dataclasses.replace(layer, weight=np.ascontiguousarray(weight), bias=bias, largest=largest)


def levels_of(layer: Layer) -> NDArray[np.int8]:
    """Give the levels of a layer's weights, in their shape."""
    assert layer.weight is not None, "only layers with weights have levels"
    assert layer.largest is not None, "the layer's weights were rounded before"
    shape = (1, -1, 1, 1) if layer.kind == "transposed" else (-1, 1, 1, 1)
    return np.asarray(np.rint(layer.weight / (layer.largest / np.float32(LEVELS)).reshape(shape)), np.int8)


def _fed_back(wanted: Matrix, spread: Matrix) -> Matrix:
    """Round `wanted` [outputs, n], in levels, column by column; later columns take back what earlier ones add.

    `spread` [n, n]: how the n values that the columns are multiplied with vary together. (Optimal Brain Surgeon, in
    the order of GPTQ: the rows of the inverse's Cholesky factor say how much each later column has to take.)
    """
    size = len(spread)
    damped = spread + np.eye(size) * max(_DAMPING * float(np.trace(spread)) / size, 1e-12)
    # The values that vary most first: what they lack is taken back by the rest.
    order = np.argsort(-np.diag(damped), kind="stable")
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left, levels = wanted[:, order].copy(), np.empty_like(wanted)
    for start in range(0, size, _BLOCK):
        end = min(size, start + _BLOCK)
        errors = np.empty((len(wanted), end - start))
        for at in range(start, end):
            column = np.clip(np.rint(left[:, at]), -LEVELS, LEVELS)
            levels[:, order[at]] = column
            errors[:, at - start] = (left[:, at] - column) / upper[at, at]
            left[:, at + 1 : end] -= np.outer(errors[:, at - start], upper[at, at + 1 : end])
        left[:, end:] -= errors @ upper[start:end, end:]
    return levels


def _as_rows(layer: Layer) -> NDArray[np.float32]:
    """Give the weights as [outputs, in · kernel · kernel]; of a transposed one four outputs for each channel."""
    assert layer.weight is not None, "only layers with weights have rows"
    kernels = four_kernels(layer.weight) if layer.kind == "transposed" else layer.weight
    return kernels.reshape(len(kernels), -1)


def _from_rows(layer: Layer, rows: Matrix) -> NDArray[np.int8]:
    """The inverse of `_as_rows`."""
    assert layer.weight is not None, "only layers with weights have rows"
    if layer.kind == "convolution":
        return rows.reshape(layer.weight.shape).astype(np.int8)
    inside, outside = layer.weight.shape[:2]
    found = np.empty(layer.weight.shape, np.int8)
    for part, (y, x) in zip(rows.reshape(4, outside, inside, 2, 2), ((0, 0), (0, 1), (1, 0), (1, 1)), strict=True):
        found[:, :, y + 2 :: -2, x + 2 :: -2] = part.swapaxes(0, 1)
    return found
