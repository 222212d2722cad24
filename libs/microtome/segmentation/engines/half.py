"""A model's network in half precision, for GPUs.

Promises: the network takes and gives what it took and gave; normalisation stays in fp32, and everything from the first
to the last convolution computes in fp16. Refuses, with `EngineUnavailable`: networks with weights of any other kind
than a convolution's, and machines without the `onnx` package, which only this needs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from microtome.segmentation.engine import EngineUnavailable

_WITH_WEIGHTS = frozenset({"Conv", "ConvTranspose"})
_WITHOUT = frozenset({"Relu", "Add", "MaxPool", "Concat", "Resize", "Constant"})


def halved(network: Path) -> bytes:
    """Give the ONNX file of the same network in fp16. Raises `EngineUnavailable`."""
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise EngineUnavailable(
            "Making a network of half precision needs the package onnx: pip install 'microtome[models]'."
        ) from error
    model = onnx.load(str(network))
    graph = model.graph
    front, body = _split(graph)
    picture, logits = front[-1].output[0], graph.output[0].name
    constants = {tensor.name: tensor for tensor in graph.initializer}
    halves: dict[str, Any] = {}
    for node in body:
        if node.op_type in _WITH_WEIGHTS:
            for name in node.input[1:]:
                values = numpy_helper.to_array(constants[name]).astype("float16")
                halves[name] = numpy_helper.from_array(values, name)
        elif node.op_type not in _WITHOUT:
            raise EngineUnavailable(f"The network has a step '{node.op_type}', which is not known to work in fp16.")
    for node in body:
        _rename(node.input, picture, "half_picture")
        _rename(node.output, logits, "half_logits")
        _rename(node.input, logits, "half_logits")
    nodes = [
        *front,
        helper.make_node("Cast", [picture], ["half_picture"], name="to_half", to=TensorProto.FLOAT16),
        *body,
        helper.make_node("Cast", ["half_logits"], [logits], name="from_half", to=TensorProto.FLOAT),
    ]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    for tensor in graph.initializer:
        if tensor.name in halves:
            tensor.CopyFrom(halves[tensor.name])
    onnx.checker.check_model(model, full_check=True)
    made: bytes = model.SerializeToString(deterministic=True)
    return made


def _split(graph: Any) -> tuple[list[Any], list[Any]]:  # noqa: ANN401
    """Separate the normalisation, up to the clamping, from the network itself."""
    nodes = list(graph.node)
    clamps = [at for at, node in enumerate(nodes) if node.op_type == "Clip"]
    first = next((at for at, node in enumerate(nodes) if node.op_type in _WITH_WEIGHTS), None)
    if len(clamps) != 1 or first is None or clamps[0] > first:
        raise EngineUnavailable("The network has not the normalisation in front that is known to need fp32.")
    return nodes[: clamps[0] + 1], nodes[clamps[0] + 1 :]


def _rename(names: Any, old: str, new: str) -> None:  # noqa: ANN401 - protobuf's own list
    for at, name in enumerate(names):
        if name == old:
            names[at] = new
