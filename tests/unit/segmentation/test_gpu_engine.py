"""What of the way through a GPU can be tested without one: bound buffers, filled batches, the network in fp16."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

from microtome.segmentation.engine import EngineUnavailable, OnnxRuntimeEngine
from microtome.segmentation.engines.half import halved
from microtome.segmentation.engines.onnxruntime_gpu import BoundRunner, GpuEngine, GraphsIfPossible, gpu_engines_offered
from microtome.segmentation.model import Model


def session(network: str | bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def feed(count: int, height: int = 64, width: int = 96) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count * height)
    return {
        "pixels": rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8),
        "low": rng.uniform(0, 60, (count, 3)).astype(np.float32),
        "scale": (1 / rng.uniform(100, 200, (count, 3))).astype(np.float32),
    }


@pytest.fixture(scope="module")
def runner(model: Model) -> BoundRunner:
    return BoundRunner(session(str(model.network)), "cpu", graphs=False)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8, 11])
def test_a_filled_batch_gives_each_tile_its_own_logits(
    runner: BoundRunner, engine: OnnxRuntimeEngine, count: int
) -> None:
    tiles = feed(count)
    logits = runner.run(tiles)
    assert logits.shape == (count, 5, 64, 96)
    assert (logits == engine.infer(tiles["pixels"], tiles["low"], tiles["scale"])).all()


def test_buffers_are_used_again_and_give_nothing_of_the_call_before(
    runner: BoundRunner, engine: OnnxRuntimeEngine
) -> None:
    calls = [feed(2, height) for height in (64, 80, 64, 96, 112, 128, 144, 160, 64)]
    results = [runner.run(tiles) for tiles in calls]
    for tiles, logits in zip(calls, results, strict=True):
        assert (logits == engine.infer(tiles["pixels"], tiles["low"], tiles["scale"])).all()
    assert len(runner._bound) <= 6


class Harmed:
    """A session whose runs fail."""

    def __init__(self, real: onnxruntime.InferenceSession) -> None:
        self._real = real
        self.ran = 0

    def io_binding(self) -> object:
        return self._real.io_binding()

    def run_with_iobinding(self, _binding: object, _options: object) -> None:
        self.ran += 1
        raise RuntimeError("operation not permitted when stream is capturing")


@pytest.mark.parametrize("when", ["opened", "run"])
def test_where_graphs_fail_calls_go_on_without(when: str, model: Model, engine: OnnxRuntimeEngine) -> None:
    opened: list[bool] = []

    def opening(graphs: bool) -> BoundRunner:
        opened.append(graphs)
        if graphs and when == "opened":
            raise RuntimeError("the graph has nodes on the CPU")
        real = session(str(model.network))
        return BoundRunner(Harmed(real) if graphs else real, "cpu", graphs=graphs)

    runner = GraphsIfPossible(opening, graphs=True)
    for tiles in (feed(1), feed(2)):
        assert (runner.run(tiles) == engine.infer(tiles["pixels"], tiles["low"], tiles["scale"])).all()
    assert opened == [True, False]
    assert "not replayed as CUDA graphs: RuntimeError" in str(runner.note)


def test_calls_without_a_graph_fail_as_they_are(model: Model) -> None:
    """Too large for a graph, or never with one: another session would fail just so."""
    for graphs, tiles in ((True, feed(4, 384, 512)), (False, feed(1))):
        harmed = Harmed(session(str(model.network)))
        runner = GraphsIfPossible(lambda on, of=harmed: BoundRunner(of, "cpu", graphs=on), graphs=graphs)
        with pytest.raises(RuntimeError, match="capturing"):
            runner.run(tiles)
        assert (harmed.ran, runner.note) == (1, None)

    def nothing(_graphs: bool) -> BoundRunner:
        raise RuntimeError("no device")

    for graphs in (True, False):
        with pytest.raises(RuntimeError, match="no device"):
            GraphsIfPossible(nothing, graphs=graphs)


def test_the_network_in_half_precision_is_nearly_the_same(model: Model, engine: OnnxRuntimeEngine) -> None:
    made = halved(model.network)
    assert len(made) < 0.6 * model.network.stat().st_size
    kinds = {tensor.data_type for tensor in onnx.load_from_string(made).graph.initializer if tensor.dims}
    assert onnx.TensorProto.FLOAT16 in kinds
    tiles = feed(1, 128, 128)
    expected = engine.infer(tiles["pixels"], tiles["low"], tiles["scale"])
    logits = session(made).run(["logits"], tiles)[0]
    assert logits.dtype == np.float32
    difference = np.abs(logits - expected)
    assert 1e-5 < difference.max() < 0.1
    assert halved(model.network) == made


def test_a_network_that_fp16_is_not_known_for_is_refused(model: Model, tmp_path: Path) -> None:
    other = onnx.load(model.network)
    logits = other.graph.output[0].name
    for node in other.graph.node:
        for at, name in enumerate(node.output):
            if name == logits:
                node.output[at] = "before"
    other.graph.node.append(helper.make_node("Tanh", ["before"], [logits]))
    onnx.save(other, tmp_path / "model.onnx")
    with pytest.raises(EngineUnavailable, match="Tanh"):
        halved(tmp_path / "model.onnx")


def test_without_the_package_that_makes_it_the_error_says_which(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EngineUnavailable, match=r"microtome\[models\]"):
        halved(model.network)


@pytest.mark.parametrize("name", ["tensorrt-fp16", "onnxruntime-cuda-fp32", "onnxruntime-cuda-fp16"])
def test_no_engine_falls_back_to_the_cpu(name: str, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where ONNX Runtime was built for a GPU that is not there: then it opens a session on the CPU."""
    if gpu_engines_offered()[name] is None:
        pytest.skip("this machine's ONNX Runtime offers it")
    with pytest.raises(EngineUnavailable, match="not built"):
        GpuEngine(model, name)
    claimed = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: claimed)
    with pytest.warns(UserWarning, match="provider"), pytest.raises(EngineUnavailable, match="cannot use"):
        GpuEngine(dataclasses.replace(model), name)
