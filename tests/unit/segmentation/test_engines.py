"""Every engine that this machine has, against fp32: the same cells; and the same bits for a tile in any company."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from PIL import Image

from microtome.errors import ConfigurationError, InvalidRequest
from microtome.scoring import Tally
from microtome.segmentation.engine import (
    Engine,
    EngineFailed,
    EngineUnavailable,
    LanedEngine,
    OnnxRuntimeEngine,
    usable_cores,
)
from microtome.segmentation.engines import available_engines, open_engine
from microtome.segmentation.engines.calibration import best_range
from microtome.segmentation.engines.emitting import grid_of_bytes, largest_weights
from microtome.segmentation.engines.gate import REQUIRED_F1
from microtome.segmentation.engines.network import Network, UnknownNetwork, read_network
from microtome.segmentation.engines.opening import MOST_LANES
from microtome.segmentation.engines.openvino_cpu import OpenVinoEngine, openvino_module
from microtome.segmentation.engines.rewriting import rewritten, transposed_kernel
from microtome.segmentation.grid import Rect
from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.wishes import ENGINES

CROP = Path(__file__).parents[2] / "data" / "cmu-1-small-region-crop.jpg"
ON_CPU = [name for name, reason in available_engines().items() if reason is None and "cpu" in name]
EXACT = [name for name in ON_CPU if name.endswith("fp32")]
TISSUE = np.asarray(Image.open(CROP).convert("RGB"))[:640, :640]
Feed = tuple[np.ndarray, np.ndarray, np.ndarray]


def tissue(*corners: tuple[int, int], edge: int = 320) -> Feed:
    """Squares of real tissue with one normalisation, as read-only as a decoder may give them."""
    pixels = np.stack([TISSUE[y : y + edge, x : x + edge] for y, x in corners])
    pixels.setflags(write=False)
    low, scale = Normalisation.from_histogram(Histogram.of(TISSUE), (0.1, 99.9)).arrays()
    return pixels, np.tile(low, (len(corners), 1)), np.tile(scale, (len(corners), 1))


@pytest.fixture(scope="session")
def opened(model: Model, cache: Path) -> dict[str, Engine]:
    return {name: open_engine(model, name, cache=cache) for name in ON_CPU}


@pytest.fixture(scope="session")
def exact(engine: OnnxRuntimeEngine) -> np.ndarray:
    return engine.infer(*tissue((0, 0), edge=640))


needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed on machines of this kind"
)


def network_of(model: Model) -> Network:
    return read_network(openvino_module().Core(), model.network)


@needs_openvino
def test_this_machine_has_more_than_the_reference() -> None:
    assert {"onnxruntime-cpu-fp32", "openvino-cpu-fp32", "openvino-cpu-int8"} <= set(ON_CPU)


@pytest.mark.parametrize("name", ON_CPU)
def test_the_cells_are_those_of_fp32(name: str, opened: dict[str, Engine], model: Model, exact: np.ndarray) -> None:
    logits = opened[name].infer(*tissue((0, 0), edge=640))
    assert logits.shape == exact.shape
    assert logits.dtype == np.float32
    expected, found = (find_instances(of[0], model).labels for of in (exact, logits))
    if name in EXACT:
        # Sums in another order, and by Winograd of numbers that were added up and multiplied before.
        assert np.abs(logits - exact).max() < 2e-4
        assert (found == expected).all()
    else:
        assert np.abs(logits - exact).max() > 1e-3, "it is not computing in its own precision"
        scores = Tally.of(expected, found).scores
        assert scores.truth > 300
        # Of so few cells one more or less is two thousandths; the gate asks on more of them (test_engine_choice).
        assert scores.f1_50 >= REQUIRED_F1 - 1 / scores.truth


@pytest.mark.parametrize("name", ON_CPU)
def test_a_tile_does_not_feel_its_batch(name: str, opened: dict[str, Engine]) -> None:
    corners = [(0, 0), (128, 256), (320, 64)]
    together = opened[name].infer(*tissue(*corners))
    for index, corner in enumerate(corners):
        assert (opened[name].infer(*tissue(corner))[0] == together[index]).all()


@pytest.mark.parametrize("name", ON_CPU)
def test_the_number_of_threads_is_not_felt(name: str, opened: dict[str, Engine], model: Model, cache: Path) -> None:
    single = open_engine(model, name, threads=1, cache=cache)
    assert (single.infer(*tissue((64, 64))) == opened[name].infer(*tissue((64, 64)))).all()


@pytest.mark.parametrize("name", [*EXACT, *(name for name in ON_CPU if name.endswith("int8"))])
def test_where_a_tile_begins_is_not_felt(name: str, opened: dict[str, Engine], model: Model) -> None:
    # OpenVINO adds up floats in another order in a few shapes; Microtome's own kernels round 4 × 4 pixels together.
    tolerance = {"openvino-cpu-fp32": 2e-5, "microtome-cpu-fp32": 5e-5}.get(name, 0.0)
    whole = opened[name].infer(*tissue((0, 0), edge=640))[0]
    halo = model.halo_min
    for y, x, edge in ((0, 0, 384), (128, 256, 384), (64, 112, 320), (16, 32, 448)):
        part = opened[name].infer(*tissue((y, x), edge=edge))[0]
        inner = part[:, halo : edge - halo, halo : edge - halo]
        there = whole[:, y + halo : y + edge - halo, x + halo : x + edge - halo]
        assert np.abs(inner - there).max() <= tolerance


@pytest.mark.parametrize("name", [name for name in ON_CPU if name.endswith("int8")])
def test_what_runs_beside_a_call_is_not_felt(name: str, opened: dict[str, Engine]) -> None:
    engine = opened[name]
    assert isinstance(engine, LanedEngine)
    assert engine.lanes == min(usable_cores(), MOST_LANES)
    feed, parts = tissue((0, 0), edge=640), [Rect(x, 96, 160, width) for x in (96, 384) for width in (160, 224, 320)]
    alone = [engine.infer_part(*feed, part) for part in parts]
    with ThreadPoolExecutor(len(parts)) as threads:
        together = list(threads.map(lambda part: engine.infer_part(*feed, part), parts))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


@pytest.mark.parametrize("name", ON_CPU)
def test_the_next_call_does_not_change_what_was_returned(name: str, opened: dict[str, Engine]) -> None:
    first = opened[name].infer(*tissue((0, 0)))
    kept = first.copy()
    opened[name].infer(*tissue((320, 320)))
    assert (first == kept).all()


@pytest.mark.parametrize("name", ON_CPU)
def test_other_shapes_are_refused(name: str, opened: dict[str, Engine]) -> None:
    pixels, low, scale = tissue((0, 0))
    with pytest.raises(InvalidRequest):
        opened[name].infer(pixels[:, :100], low, scale)
    with pytest.raises(InvalidRequest):
        opened[name].infer(pixels, low[:0], scale)


@needs_openvino
def test_a_run_that_fails_may_be_tried_again(model: Model) -> None:
    engine = OpenVinoEngine(model, "fp32")
    # Its one request is broken.
    engine._requests.get()
    engine._requests.put(None)
    with pytest.raises(EngineFailed, match="1 tiles") as failed:
        engine.infer(*tissue((0, 0)))
    assert failed.value.transient


@needs_openvino
def test_rewriting_leaves_less_to_compute(model: Model) -> None:
    plain = network_of(model)
    less = rewritten(plain)
    # An eighth, whatever the network's width: 137.8 and 120.2 thousand operations a pixel for [16, 32, 64, 128].
    assert less.flops_per_pixel() / plain.flops_per_pixel() == pytest.approx(0.872, abs=0.004)
    assert [layer.kind for layer in less.layers].count("transposed") == 3
    assert less.layers[-1].kind == "convolution"
    assert not any(layer.kind == "concat" for layer in less.layers)


def test_a_transposed_convolution_is_a_convolution_of_the_doubled_picture() -> None:
    rng = np.random.default_rng(5)
    picture, weight = rng.normal(size=(2, 5, 6)), rng.normal(size=(3, 2, 3, 3)).astype(np.float32)
    doubled = np.pad(picture.repeat(2, 1).repeat(2, 2), ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(doubled, (3, 3), (1, 2))
    expected = np.einsum("iyxkl,oikl->oyx", windows, weight)
    kernel = transposed_kernel(weight)
    # One pixel more on each side, which is the padding that is cut off.
    made = np.zeros((3, 2 * 5 + 2, 2 * 6 + 2))
    for y in range(5):
        for x in range(6):
            made[:, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += np.einsum("i,iokl->okl", picture[:, y, x], kernel)
    np.testing.assert_allclose(made[:, 1:-1, 1:-1], expected, atol=1e-5)


@needs_openvino
def test_a_network_with_unknown_steps_runs_as_it_is_and_cannot_be_quantised(
    model: Model, tmp_path: Path, cache: Path
) -> None:
    import dataclasses

    other = onnx.load(model.network)
    logits = other.graph.output[0].name
    for node in other.graph.node:
        for at, name in enumerate(node.output):
            if name == logits:
                node.output[at] = "before"
    other.graph.node.append(helper.make_node("Tanh", ["before"], [logits]))
    path = tmp_path / "model.onnx"
    onnx.save(other, path)
    strange = dataclasses.replace(model, network=path, digest="0" * 64)
    with pytest.raises(UnknownNetwork, match="Tanh"):
        network_of(strange)
    with pytest.raises(EngineUnavailable, match="Tanh"):
        open_engine(strange, "openvino-cpu-int8", cache=cache)
    expected = OnnxRuntimeEngine(strange).infer(*tissue((0, 0)))
    np.testing.assert_allclose(OpenVinoEngine(strange, "fp32").infer(*tissue((0, 0))), expected, atol=5e-5)


@pytest.mark.parametrize("bounds", [(0.0, 7.3), (-1.0, 3.0), (-0.08, 1.0), (-2.0, 0.0), (0.0, 0.0)])
def test_zero_is_one_of_the_256_steps(bounds: tuple[float, float]) -> None:
    low, high = grid_of_bytes(*bounds)
    step = (high - low) / 255
    assert low <= 0 <= high
    assert step > 0
    assert -low / step == pytest.approx(round(-low / step), abs=1e-6)
    assert low <= bounds[0] + step
    assert high >= bounds[1] - step


def test_a_range_leaves_out_what_is_rare() -> None:
    values = np.abs(np.random.default_rng(1).normal(0, 1, 100_000)).astype(np.float32)
    low, high = best_range(np.append(values, np.float32(12.0)))
    assert low == 0.0
    assert 4.0 < high < 11.0
    assert best_range(np.zeros(10, np.float32))[1] > 0


def test_each_channel_of_weights_has_its_own_steps() -> None:
    weight = np.array([[[[1.0]], [[-3.0]]], [[[0.5]], [[0.25]]]], np.float32)
    assert largest_weights(weight, 0).ravel().tolist() == [3.0, 0.5]
    assert largest_weights(weight, 1).ravel().tolist() == [1.0, 3.0]


def test_wishes_that_nobody_knows_are_refused(model: Model) -> None:
    with pytest.raises(ConfigurationError, match="openvino-cpu-bf16"):
        open_engine(model, "abacus")
    with pytest.raises(ConfigurationError):
        open_engine(model, "onnxruntime-cpu-fp32", threads=-1)


@pytest.mark.parametrize("name", [name for name in ENGINES if "cpu" not in name])
def test_an_engine_that_is_not_here_is_an_error_that_names_those_that_are(name: str, model: Model) -> None:
    if available_engines()[name] is None:
        pytest.skip("this machine's ONNX Runtime offers it")
    with pytest.raises(EngineUnavailable) as refused:
        open_engine(model, name)
    for here in ON_CPU:
        assert here in refused.value.detail
    assert not refused.value.transient


def test_what_was_not_measured_is_said(opened: dict[str, Engine]) -> None:
    for name, engine in opened.items():
        assert engine.name == name
        if name in EXACT:
            assert engine.note is None
        else:
            assert "not measured" in str(engine.note)


@needs_openvino
def test_nothing_is_sent_when_openvino_is_imported(tmp_path: Path) -> None:
    watching = """
import sys
seen = []
def watch(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "subprocess.Popen", "os.posix_spawn"}:
        seen.append(event)
sys.addaudithook(watch)
from microtome.segmentation.engines.openvino_cpu import openvino_module
openvino_module().Core()
import time; time.sleep(0.5)
print(seen, [name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module])
"""
    libs = Path(__file__).parents[3] / "libs"
    environment = {"PYTHONPATH": str(libs), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", watching], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[] []"
    assert list(tmp_path.rglob("*")) == [], "an identity was made for reports"
