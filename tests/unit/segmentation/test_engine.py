"""Same bits for a tile whatever shares its batch; normalisation inside the network is the one outside."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from microtome.errors import ConfigurationError, InvalidRequest
from microtome.segmentation.engine import EngineFailed, OnnxRuntimeEngine, usable_cores
from microtome.segmentation.model import Model


def batch(count: int, edge: int = 128) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count * edge)
    pixels = rng.integers(0, 256, (count, edge, edge, 3)).astype(np.uint8)
    low = rng.uniform(0, 60, (count, 3)).astype(np.float32)
    return pixels, low, (1 / rng.uniform(100, 200, (count, 3))).astype(np.float32)


def test_a_tile_does_not_feel_its_batch(engine: OnnxRuntimeEngine) -> None:
    pixels, low, scale = batch(4)
    alone = np.concatenate([engine.infer(pixels[[i]], low[[i]], scale[[i]]) for i in range(4)])
    pairs = np.concatenate([engine.infer(pixels[i : i + 2], low[i : i + 2], scale[i : i + 2]) for i in (0, 2)])
    together = engine.infer(pixels, low, scale)
    assert together.shape == (4, 5, 128, 128)
    assert together.dtype == np.float32
    assert (alone == together).all()
    assert (pairs == together).all()


def test_the_number_of_threads_is_not_felt(model: Model, engine: OnnxRuntimeEngine) -> None:
    pixels, low, scale = batch(2)
    single = OnnxRuntimeEngine(model, device="cpu", threads=1)
    assert (single.infer(pixels, low, scale) == engine.infer(pixels, low, scale)).all()


def test_context_reaches_no_further_than_the_halo(model: Model, engine: OnnxRuntimeEngine) -> None:
    pixels, low, scale = batch(1, 512)
    part = engine.infer(pixels[:, 64:448, 64:448], low, scale)
    whole = engine.infer(pixels, low, scale)[:, :, 64:448, 64:448]
    halo = model.halo_min
    assert (part[..., halo:-halo, halo:-halo] == whole[..., halo:-halo, halo:-halo]).all()
    assert (part != whole).any()


def test_only_the_normalised_values_matter(engine: OnnxRuntimeEngine) -> None:
    rng = np.random.default_rng(7)
    dark = rng.integers(0, 100, (1, 128, 128, 3)).astype(np.uint8)
    low, scale = np.full((1, 3), 10, np.float32), np.full((1, 3), 1 / 64, np.float32)
    shifted = engine.infer(dark + np.uint8(40), low + 40, scale)
    doubled = engine.infer(dark * np.uint8(2), low * 2, scale / 2)
    plain = engine.infer(dark, low, scale)
    assert (shifted == plain).all()
    assert (doubled == plain).all()
    assert (engine.infer(dark, low + 1, scale) != plain).any()


@pytest.mark.parametrize(
    ("pixels", "rows"),
    [
        (np.zeros((1, 64, 64, 3), np.float32), 1),
        (np.zeros((64, 64, 3), np.uint8), 1),
        (np.zeros((1, 64, 60, 3), np.uint8), 1),
        (np.zeros((0, 64, 64, 3), np.uint8), 0),
        (np.zeros((1, 64, 64, 4), np.uint8), 1),
        (np.zeros((2, 64, 64, 3), np.uint8), 1),
    ],
)
def test_other_shapes_are_refused(engine: OnnxRuntimeEngine, pixels: np.ndarray, rows: int) -> None:
    with pytest.raises(InvalidRequest):
        engine.infer(pixels, np.zeros((rows, 3), np.float32), np.ones((rows, 3), np.float32))


def test_it_says_what_it_runs_on(model: Model, engine: OnnxRuntimeEngine) -> None:
    assert engine.name == "onnxruntime-cpu-fp32"
    assert engine.note is None
    with pytest.raises(ConfigurationError):
        OnnxRuntimeEngine(model, device="abacus")  # type: ignore[arg-type]


def test_a_run_that_fails_may_be_tried_again(model: Model, tmp_path: Path) -> None:
    # A network that loads, and whose every run fails: no picture can be reshaped to seven values.
    inputs = [
        helper.make_tensor_value_info("pixels", TensorProto.UINT8, [None, None, None, 3]),
        helper.make_tensor_value_info("low", TensorProto.FLOAT, [None, 3]),
        helper.make_tensor_value_info("scale", TensorProto.FLOAT, [None, 3]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.UINT8, [None])
    seven = helper.make_tensor("seven", TensorProto.INT64, [1], [7])
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["pixels", "seven"], ["logits"])], "g", inputs, [output], [seven]
    )
    network = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), network)
    failing = OnnxRuntimeEngine(dataclasses.replace(model, network=network), device="cpu")
    with pytest.raises(EngineFailed, match="1 tiles") as failed:
        failing.infer(*batch(1))
    assert failed.value.transient


def test_allusable_cores_are_counted_where_a_process_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert usable_cores() == os.cpu_count()
