"""How fast this machine convolves: the roof under which a network runs.

    python -m tests.bench.convolution

Promises: the best of several runs of nothing but 3 × 3 convolutions of 128 channels, chained, in the library that runs
the networks (OpenVINO with oneDNN), so that a network's operations a second divided by it is a share of what this
machine and library can do at all. Refuses: figures from data sheets.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from microtome.segmentation.engine import usable_cores
from microtome.segmentation.engines.network import Network, read_network
from microtome.segmentation.engines.openvino_cpu import has_bf16, openvino_module
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.trimming import Trimming, executed_flops, trimming
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import Model

Precision = Literal["fp32", "bf16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8")
CHANNELS, EDGE, LAYERS = 128, 128, 8
FLOPS = 2.0 * LAYERS * CHANNELS * CHANNELS * 9 * EDGE * EDGE


def convolution_peak(precision: Precision, threads: int = 0, seconds: float = 2.0) -> float:
    """Operations a second (a multiplication with addition is two) of the best run within about `seconds`."""
    ov = openvino_module()
    core = ov.Core()
    inexact = "bf16" if has_bf16(core) else "f32"
    options = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else inexact,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads or usable_cores(),
        "ENABLE_CPU_PINNING": False,
    }
    request = core.compile_model(_chain(ov, precision), "CPU", options).create_infer_request()
    picture = np.random.default_rng(0).normal(0, 1, (1, CHANNELS, EDGE, EDGE)).astype(np.float32)
    request.infer({"picture": picture})
    best, until = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < until or best == float("inf"):
        began = time.perf_counter()
        request.infer()
        best = min(best, time.perf_counter() - began)
    return FLOPS / best


@dataclass(frozen=True, eq=False)
class Executed:
    """Counts the operations that an engine's convolutions execute: fewer than the model has where it is rewritten, and
    where only a part of what the network sees is wanted. Of Winograd's convolutions those are counted that they would
    have as they are written, so that their share of the peak can be more than one.
    """

    network: Network
    trim: Trimming

    @classmethod
    def of(cls, model: Model, engine: str) -> Executed:
        network = read_network(openvino_module().Core(), model.network)
        if engine.startswith("onnxruntime"):
            return cls(network, Trimming())
        network = rewritten(network)
        return cls(network, trimming(network))

    def flops(self, seen: Rect, taken: Rect) -> float:
        """Operations for a patch of which `taken` is wanted."""
        wanted = Rect(taken.x - seen.x, taken.y - seen.y, taken.width, taken.height)
        return executed_flops(self.network, self.trim, seen.width, seen.height, wanted)


def _chain(ov: Any, precision: Precision) -> Any:
    ops, rng = ov.opset13, np.random.default_rng(1)
    picture = ops.parameter(ov.PartialShape([1, CHANNELS, EDGE, EDGE]), np.float32, name="picture")
    picture.output(0).set_names({"picture"})
    data = picture
    for _ in range(LAYERS):
        # So small that what comes out is as large as what goes in.
        weight = rng.normal(0, (2 / (9 * CHANNELS)) ** 0.5, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        kernel = ops.constant(weight)
        if precision == "int8":
            low, high = (ops.constant(np.float32(bound)) for bound in (0.0, 4.0))
            data = ops.fake_quantize(data, low, high, low, high, 256)
            bounds = [ops.constant(np.float32(bound)) for bound in (-0.2, 0.2)]
            kernel = ops.fake_quantize(kernel, *bounds, *bounds, 255)
        data = ops.relu(ops.convolution(data, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
    return ov.Model([ops.result(data)], [picture], "convolutions")


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure this machine's convolutions.")
    parser.add_argument("--threads", type=int, default=0, help="cores to use; 0: all")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to look for the best run of each")
    options = parser.parse_args()
    peaks = {
        precision: round(convolution_peak(precision, options.threads, options.seconds) / 1e9, 1)
        for precision in PRECISIONS
    }
    print(json.dumps({"threads": options.threads or usable_cores(), "gflops": peaks}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
