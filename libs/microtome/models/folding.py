"""Normalisation as a part of the network.

Promises: the folded network takes uint8 [b, h, w, 3] `pixels` with `low` and `scale` [b, 3] of each item's own slide,
so that tiles of several slides can share a batch, and nothing but three bytes a pixel must travel to it. The same
network gives the same bytes. Refuses: networks of any other shape.
Needs `onnx`.
"""

from __future__ import annotations

from typing import Any

from microtome.errors import ModelMismatch

_OPSET = 17


def fold_normalisation(network: Any, clamp: tuple[float, float]) -> Any:  # noqa: ANN401 - onnx has no types
    """Put uint8 → (x - low) · scale → clamp in front of an `onnx.ModelProto`; returns a new one."""
    import onnx
    from onnx import TensorProto, helper

    graph = network.graph
    if len(graph.input) != 1 or len(graph.output) != 1:
        raise ModelMismatch("The network must have one input and one output.")
    if next(entry.version for entry in network.opset_import if entry.domain in {"", "ai.onnx"}) != _OPSET:
        raise ModelMismatch(f"The network must be of opset {_OPSET}.")
    old_input, old_output = graph.input[0].name, graph.output[0].name
    constants = [
        helper.make_tensor("spatial_axes", TensorProto.INT64, [2], [2, 3]),
        helper.make_tensor("clamp_low", TensorProto.FLOAT, [], [clamp[0]]),
        helper.make_tensor("clamp_high", TensorProto.FLOAT, [], [clamp[1]]),
    ]
    front = [
        # Bytes are the cheapest thing to transpose.
        helper.make_node("Transpose", ["pixels"], ["planes"], name="to_planes", perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["intensity"], name="to_float", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["low", "spatial_axes"], ["low_planes"], name="low_to_planes"),
        helper.make_node("Unsqueeze", ["scale", "spatial_axes"], ["scale_planes"], name="scale_to_planes"),
        helper.make_node("Sub", ["intensity", "low_planes"], ["above_low"], name="subtract_low"),
        helper.make_node("Mul", ["above_low", "scale_planes"], ["relative"], name="multiply_scale"),
        helper.make_node("Clip", ["relative", "clamp_low", "clamp_high"], [old_input], name="clamp"),
    ]
    body = []
    for node in graph.node:
        kept = onnx.NodeProto()
        kept.CopyFrom(node)
        outputs = ["logits" if name == old_output else name for name in kept.output]
        del kept.output[:]
        kept.output.extend(outputs)
        body.append(kept)
    folded = helper.make_model(
        helper.make_graph(
            front + body,
            "microtome_segmentation",
            [
                helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["b", "h", "w", 3]),
                helper.make_tensor_value_info("low", TensorProto.FLOAT, ["b", 3]),
                helper.make_tensor_value_info("scale", TensorProto.FLOAT, ["b", 3]),
            ],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["b", 5, "h", "w"])],
            initializer=[*constants, *graph.initializer],
        ),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=network.ir_version,
        producer_name="microtome",
    )
    onnx.checker.check_model(folded, full_check=True)
    return folded
