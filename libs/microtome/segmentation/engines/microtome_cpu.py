"""The network in kernels of Microtome's own, on CPUs with AVX-512, in fp32.

OpenVINO and ONNX Runtime compute 3 × 3 convolutions as they are written; by Winograd's they cost a quarter of the
multiplications, and they are three quarters of the network.
Promises: on one machine the same bits for a tile whatever else is in its batch and however many threads there are; a
part of a tile, or the same place in another tile, to 2e-5 of the logits: tiles of 4 × 4 pixels are rounded together.
Refuses, with `EngineUnavailable`: processors without AVX-512, and networks that are not of the known kind.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.engine import (
    EngineFailed,
    EngineUnavailable,
    checked,
    checked_part,
    usable_cores,
)
from microtome.segmentation.engines import pointwise, winograd
from microtome.segmentation.engines.arena import Arena, Picture, address, lined_up
from microtome.segmentation.engines.fusing import Step, fused, regions
from microtome.segmentation.engines.network import UnknownNetwork, Weights, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.trimming import Trimming, trimming
from microtome.segmentation.engines.vectors import LANES, Compiled
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import Model

_CLASSES = 5
# Rows of one place's matrices begin in another set of the processor's cache than the next place's.
_APART = LANES
# Tiles that go through a convolution together, times the vectors of their channels: what the cache holds.
_BLOCK = 48
# Computes rows or tiles from one to before another, in the room of one thread.
_Part = Callable[[int, int, int], None]


class MicrotomeEngine:
    """The model's network, rewritten, in kernels that are compiled when it opens."""

    def __init__(self, model: Model, threads: int = 0) -> None:
        """`threads`: cores for one call, 0 for all that this process may use. Raises `EngineUnavailable`."""
        try:
            self._network = rewritten(read_network(openvino_module().Core(), model.network))
            self._steps = fused(self._network)
        except UnknownNetwork as error:
            raise EngineUnavailable(f"Model '{model.name}' has another network: {error}") from error
        self._trim = trimming(self._network)
        self._strides = self._network.strides()
        self._kernels = _Kernels(self._steps)
        self._weights = [_Laid.of(step) for step in self._steps]
        self._threads = threads or usable_cores()
        self._scratch = [lined_up(self._room()) for _ in range(self._threads)]
        self._others = ThreadPoolExecutor(self._threads - 1, "network") if self._threads > 1 else None
        self._arena = Arena()
        self._last_reads = _last_reads(self._steps)
        self.name = "microtome-cpu-fp32"
        self.note: str | None = None
        self.batch_size = 1

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """See `Engine.infer`."""
        feed = checked(pixels, low, scale)
        batch, height, width = pixels.shape[:3]
        whole = Rect(0, 0, width, height)
        logits = np.empty((batch, _CLASSES, height, width), np.float32)
        for tile in range(batch):
            one = {name: values[tile] for name, values in feed.items()}
            self._run(one, whole, Trimming(), logits[tile])
        return logits

    def infer_part(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
    ) -> NDArray[np.float32]:
        """See `TrimmingEngine.infer_part`."""
        feed = checked_part(pixels, low, scale, wanted)
        logits = np.empty((1, _CLASSES, wanted.height, wanted.width), np.float32)
        self._run({name: values[0] for name, values in feed.items()}, wanted, self._trim, logits[0])
        return logits

    def _run(self, feed: dict[str, NDArray[Any]], wanted: Rect, trim: Trimming, logits: Weights) -> None:
        try:
            self._compute(feed, wanted, trim, logits)
        except MemoryError as error:
            raise EngineFailed(f"There is no memory for a tile of {feed['pixels'].shape[:2]} pixels.") from error

    def _compute(self, feed: dict[str, NDArray[Any]], wanted: Rect, trim: Trimming, logits: Weights) -> None:
        height, width = feed["pixels"].shape[:2]
        places = regions(self._network, self._steps, trim, (width, height), wanted).of
        self._arena.begin()
        first = self._steps[0].source
        made = {first: self._picture(feed["pixels"], feed["low"], feed["scale"])}
        for number, (step, laid) in enumerate(zip(self._steps, self._weights, strict=True)):
            if step.kind == "logits":
                self._logits(laid, made[step.source], wanted, logits)
            else:
                for value in (step.value, step.pooled):
                    if value >= 0:
                        made[value] = self._arena.take(places[value], len(step.weight))
                self._step(step, laid, made)
            for value in self._last_reads.get(number, ()):
                self._arena.give_back(made.pop(value))

    def _picture(self, pixels: NDArray[np.uint8], low: Weights, scale: Weights) -> Picture:
        height, width = pixels.shape[:2]
        picture = self._arena.take(Rect(0, 0, width, height), pointwise.COLOURS)
        clamp = [np.full(LANES * 3, bound, np.float32) for bound in self._network.clamp]
        numbers = np.concatenate([np.tile(low, LANES), np.tile(scale, LANES), *clamp]).astype(np.float32)
        call = partial(
            self._kernels.picture, address(pixels), 3 * width, address(numbers), picture.place(0, 0),
            picture.row,
        )  # fmt: skip
        self._share(height, lambda begin, end, _: call(begin, end))
        picture.clear_around()
        return picture

    def _step(self, step: Step, laid: _Laid, made: dict[int, Picture]) -> None:
        out, source = made[step.value], made[step.source]
        x, y, width, height = out.region.x, out.region.y, out.region.width, out.region.height
        channels_out, channels_in = step.weight.shape[:2]
        ends = address(laid.weight), address(laid.bias), out.place(x, y), out.row
        if step.kind == "first":
            edge = step.weight.shape[2]
            begin = source.place(x - edge // 2, y - edge // 2)
            first = partial(self._kernels.firsts[edge], begin, source.row, *ends, channels_out, width)
            self._share(height, lambda begin, end, _: first(begin, end))
        elif step.kind == "pointwise":
            together = winograd.tiles_at_once(channels_out)
            point = partial(
                self._kernels.pointwise, source.place(x, y), source.row, channels_in, *ends, channels_out, width,
                together, self._kernels.multiply(step),
            )  # fmt: skip
            self._share(height, lambda begin, end, thread: point(begin, end, address(self._scratch[thread])))
        else:
            call = self._told(step, laid, made)
            tile = winograd.TILE
            convolve = partial(self._kernels.winograd, address(call))
            self._share(
                -(-height // tile) * -(-width // tile),
                lambda begin, end, thread: convolve(begin, end, address(self._scratch[thread])),
            )
        out.clear_around()
        if step.pooled >= 0:
            made[step.pooled].clear_around()

    def _told(self, step: Step, laid: _Laid, made: dict[int, Picture]) -> NDArray[np.int64]:
        """What one convolution is told, in the order of `winograd.FIELDS`."""
        out, source = made[step.value], made[step.source]
        x, y = out.region.x, out.region.y
        channels_out, channels_in = step.weight.shape[:2]
        tiles = _tiles(step)
        size = 2 if step.adds == "doubled" else 1
        other = made[step.other] if step.adds != "none" else None
        pooled = made[step.pooled] if step.pooled >= 0 else None
        seen = (x // 2 - 1, y // 2 - 1) if step.doubled else (x - 1, y - 1)
        told = {
            "source": source.place(*seen),
            "source_row": source.row,
            "channels_in": channels_in,
            "weights": address(laid.weight),
            "bias": address(laid.bias),
            "out": out.place(x, y),
            "out_row": out.row,
            "channels_out": channels_out,
            "other": other.place(x // size, y // size) if other else 0,
            "other_row": other.row if other else 0,
            "pooled": pooled.place(x // 2, y // 2) if pooled else 0,
            "pooled_row": pooled.row if pooled else 0,
            "across": -(-out.region.width // winograd.TILE),
            "tiles": tiles,
            "step_in": tiles * channels_in + _APART,
            "step_out": tiles * channels_out + _APART,
            "transform": self._kernels.address("transform_doubled" if step.doubled else "transform"),
            "multiply": self._kernels.multiply(step),
            "finish": self._kernels.address(f"finish_{step.adds}_{'pooled' if pooled else 'only'}"),
        }
        return np.array([told[name] for name in winograd.FIELDS], np.int64)

    def _logits(self, laid: _Laid, source: Picture, wanted: Rect, logits: Weights) -> None:
        call = partial(
            self._kernels.logits, source.place(wanted.x, wanted.y), source.row, address(laid.weight),
            address(laid.bias), address(logits), wanted.width * wanted.height, wanted.width,
        )  # fmt: skip
        self._share(wanted.height, lambda begin, end, _: call(begin, end))

    def _share(self, number: int, part: _Part) -> None:
        """Share rows or tiles among the threads."""
        bounds = [number * thread // self._threads for thread in range(self._threads + 1)]
        shares = [(bounds[at], bounds[at + 1], at) for at in range(self._threads) if bounds[at] < bounds[at + 1]]
        waiting = [self._others.submit(part, *share) for share in shares[1:]] if self._others else []
        part(*shares[0])
        for other in waiting:
            other.result()

    def _room(self) -> int:
        """Floats that a thread needs beside pictures."""
        needed = 0
        for step in self._steps:
            tiles, channels = _tiles(step), sum(step.weight.shape[:2])
            needed = max(needed, winograd.PLACES * (tiles * channels + 2 * _APART))
        return needed


class _Laid:
    """A step's weights and bias as its kernel reads them."""

    def __init__(self, weight: Weights, bias: Weights) -> None:
        self.weight, self.bias = lined_up(weight.size), lined_up(bias.size)
        self.weight[:], self.bias[:] = weight.ravel(), bias

    @classmethod
    def of(cls, step: Step) -> _Laid:
        """Lay them out."""
        weight = step.weight
        if step.kind == "winograd":
            return cls(winograd.transformed(weight), step.bias)
        if step.kind == "pointwise":
            return cls(winograd.laid_out(weight[:, :, 0, 0].T[None]), step.bias)
        if step.kind == "first":
            return cls(np.ascontiguousarray(weight.transpose(2, 3, 1, 0)), step.bias)
        wide = ((0, LANES - len(weight)), (0, 0))
        return cls(np.ascontiguousarray(np.pad(weight[:, :, 0, 0], wide).T), np.pad(step.bias, wide[0]))


class _Kernels:
    """The functions that a network needs."""

    def __init__(self, steps: list[Step]) -> None:
        wide = [step for step in steps if step.kind in {"winograd", "pointwise"}]
        products = {_product(step) for step in wide}
        edges = sorted({step.weight.shape[2] for step in steps if step.kind == "first"})
        functions = [
            winograd.driver(),
            *(winograd.multiplication(*product) for product in sorted(products)),
            *(winograd.transformation(doubled) for doubled in (False, True)),
            *(winograd.finishing(other, pools) for other in ("none", "same", "doubled") for pools in (False, True)),
            pointwise.picture(),
            pointwise.pointwise(),
            *(pointwise.first(edge) for edge in edges),
            pointwise.logits(steps[-1].weight.shape[1], len(steps[-1].weight)),
        ]
        self._code = Compiled(functions)
        self.winograd = self._code.function("winograd", 4)
        self.picture = self._code.function("picture", 7)
        self.pointwise = self._code.function("pointwise", 14)
        self.logits = self._code.function("logits", 9)
        self.firsts = {edge: self._code.function(f"first_{edge}", 10) for edge in edges}

    def address(self, name: str) -> int:
        """Where a function begins."""
        return self._code.addresses[name]

    def multiply(self, step: Step) -> int:
        """Where the product of matrices of a step begins."""
        channels_in, vectors = _product(step)
        return self.address(f"multiply_{channels_in}_{vectors}")


def _product(step: Step) -> tuple[int, int]:
    channels_out, channels_in = step.weight.shape[:2]
    return channels_in, winograd.vectors_at_once(channels_out)


def _tiles(step: Step) -> int:
    """How many tiles go through a convolution together."""
    once = winograd.tiles_at_once(len(step.weight))
    return max(once, _BLOCK // (step.weight.shape[1] // LANES or 1) // once * once)


def _last_reads(steps: list[Step]) -> dict[int, list[int]]:
    """For each step the values that nothing reads after it."""
    last: dict[int, int] = {}
    for number, step in enumerate(steps):
        for value in (step.value, step.pooled, step.source, step.other):
            if value >= 0:
                last[value] = number
    found: dict[int, list[int]] = {}
    for value, number in last.items():
        if value != steps[-1].value:
            found.setdefault(number, []).append(value)
    return found
