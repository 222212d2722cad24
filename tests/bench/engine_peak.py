"""How fast convolutions can be on this machine, and how many a network has.

The peak is what OpenVINO's oneDNN reaches on one large 3 x 3 convolution of 128 channels, in the precision of the
engine that is looked at: nothing but multiplications that fit the caches well.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

_CHANNELS, _EDGE = 128, 256


def conv_gflop_per_mpix(network: Path) -> float:
    """10⁹ operations of all convolutions of an ONNX network for a million pixels, two for each multiplication."""
    import onnx
    from onnx import shape_inference

    model = onnx.load(network)
    edge = 256
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    for dimension, size in zip(dimensions, (1, edge, edge, 3), strict=True):
        dimension.ClearField("dim_param")
        dimension.dim_value = size
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*graph.value_info, *graph.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in (node for node in graph.node if node.op_type == "Conv"):
        outputs, inputs, *kernel = weights[node.input[1]]
        height, width = shapes[node.output[0]][2:]
        total += 2 * outputs * inputs * int(np.prod(kernel)) * height * width
    return total / edge**2 / 1e3


def measured_peak_gflops(engine: str, threads: int, seconds: float = 4.0) -> float:
    """Floating-point operations of convolutions in 10⁹ a second, at best, in the precision of `engine`."""
    import openvino

    precision = engine.rsplit("-", 1)[-1]
    core = openvino.Core()
    hint = "bf16" if precision == "bf16" else "f32"
    settings: dict[str, Any] = {
        "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }  # fmt: skip
    compiled = core.compile_model(_network(openvino, precision == "int8"), "CPU", settings)
    request = compiled.create_infer_request()
    given = np.random.default_rng(0).random((1, _CHANNELS, _EDGE, _EDGE), np.float32)
    flop = _LAYERS * 2 * _CHANNELS**2 * 9 * _EDGE**2
    best, ends = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < ends:
        began = time.perf_counter()
        request.infer({0: given})
        best = min(best, time.perf_counter() - began)
    return flop / best / 1e9


# So many that what is not convolution does not count.
_LAYERS = 6


def _network(openvino: Any, quantised: bool) -> Any:
    """A chain of convolutions, between fake quantisations if it is to run in bytes."""
    ops = openvino.opset13
    rng = np.random.default_rng(1)
    given = ops.parameter([1, _CHANNELS, _EDGE, _EDGE], np.float32)
    at = given
    for _ in range(_LAYERS):
        weights = (rng.standard_normal((_CHANNELS, _CHANNELS, 3, 3)) / 34).astype(np.float32)
        kernel = ops.constant(weights)
        if quantised:
            at = ops.fake_quantize(at, *(np.float32(v) for v in (0.0, 4.0, 0.0, 4.0)), 256)
            most = np.abs(weights).max()
            kernel = ops.fake_quantize(kernel, *(np.float32(v) for v in (-most, most, -most, most)), 255)
        at = ops.relu(ops.convolution(at, kernel, [1, 1], [1, 1], [1, 1], [1, 1]))
    return openvino.Model([at], [given], "peak")
