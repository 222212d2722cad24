"""How fast convolutions can be on this machine, and how many a network has.

The peak is what OpenVINO's oneDNN reaches on 3 x 3 convolutions of 128 channels, in the precision of the engine that is
looked at: see `convolution`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.bench.convolution import convolution_peak


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
    precision: Any = engine.rsplit("-", 1)[-1]
    return convolution_peak(precision, threads, seconds) / 1e9
