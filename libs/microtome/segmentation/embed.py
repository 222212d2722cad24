"""Make a shippable model folder from a bare network: how the embedded model was made.

    python -m microtome.segmentation.embed NETWORK.onnx WEIGHTS.safetensors FACTS.json FOLDER

NETWORK takes normalised float32 [b, 3, h, w] and gives 5 logit channels [b, 5, h, w]; WEIGHTS holds the pixel
classifier (`pixel_classifier.fc{1,2,3}.{weight,bias}`); FACTS names thresholds, pixel size and normalisation.
Promises: the written network takes uint8 [b, h, w, 3] `pixels` with `low` and `scale` [b, 3] of each item's own
slide, so that tiles of several slides can share a batch, and nothing but three bytes a pixel must travel to it.
The same input gives the same bytes. Refuses: networks of any other shape.
Needs `onnx` and `safetensors`, which only making a model needs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
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


def _decimals(values: Any) -> Any:  # noqa: ANN401 - an array of any rank becomes as deep a list
    """Give the shortest decimals that read back as the same float32."""
    return [_decimals(row) for row in values] if values.ndim else float(str(values))


def describe(facts: dict[str, Any], weights: dict[str, Any], network_sha256: str, halo_min: int) -> dict[str, Any]:
    """Give the content of model.json."""
    layers = [
        {part: _decimals(weights[f"pixel_classifier.fc{layer}.{part}"]) for part in ("weight", "bias")}
        for layer in (1, 2, 3)
    ]
    return {
        "format": 1,
        "name": facts["name"],
        "architecture": {"type": facts["architecture"], "layers": facts["layers"], "parameters": facts["parameters"]},
        "mpp": facts["pixel_size_um"],
        "halo_min": halo_min,
        "normalisation": {
            "percentiles": facts["normalisation"]["per_channel_percentiles"],
            "clamp": facts["normalisation"]["clamp"],
        },
        "head": {
            "coordinate_step": facts["coordinate_step"],
            "window": facts["window_size"],
            "peak_distance": facts["peak_distance"],
            "seed_threshold": facts["seed_threshold"],
            "mask_threshold": facts["mask_threshold"],
            "overlap_threshold": facts["overlap_threshold"],
            "min_size": facts["min_size_px"],
        },
        "pixel_classifier": layers,
        "sha256": {"model.onnx": network_sha256},
        "made_from_sha256": facts["sha256"],
    }


def embed(network: Path, weights: Path, facts: Path, folder: Path, halo_min: int) -> None:
    """Write `model.onnx` and `model.json` into `folder`."""
    import onnx
    from safetensors.numpy import load_file

    known = json.loads(facts.read_text("utf-8"))
    for source in (network, weights):
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        if known["sha256"].get(source.name) != digest:
            raise ModelMismatch(f"{source} is not the file that {facts} describes.")
    low, high = known["normalisation"]["clamp"]
    folded = fold_normalisation(onnx.load(network), (float(low), float(high))).SerializeToString(deterministic=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(folded)
    described = describe(known, load_file(weights), hashlib.sha256(folded).hexdigest(), halo_min)
    (folder / "model.json").write_text(json.dumps(described, indent=1) + "\n", "utf-8")


def _main() -> None:
    parser = argparse.ArgumentParser(description="Make a model folder from a bare network.")
    for name in ("network", "weights", "facts", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--halo-min", type=int, default=96, help="smallest halo with which tiles are exact")
    embed(**vars(parser.parse_args()))


if __name__ == "__main__":
    _main()
