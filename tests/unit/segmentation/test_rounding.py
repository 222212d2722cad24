"""int8: which values are kept in bytes, and that OpenVINO keeps them so and computes what the rounding says."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microtome.segmentation.engines.calibration import (
    calibrated,
    in_bytes,
    looked_into,
    measured_ranges,
    measured_shift,
)
from microtome.segmentation.engines.emitting import InBytes, emit
from microtome.segmentation.engines.network import Layer, Network, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.packing import packed
from microtome.segmentation.engines.picture import Picture, calibration_pictures
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.rounding import makers, rounded_layers, sharing_ranges
from microtome.segmentation.engines.trimming import trimming
from microtome.segmentation.model import Model

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed on machines of this kind"
)


@pytest.fixture(scope="module")
def network(model: Model) -> Network:
    return rewritten(read_network(openvino_module().Core(), model.network))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("calibration")


@pytest.fixture(scope="module")
def bytewise(model: Model, kept: Path) -> InBytes:
    return calibrated(model, 0, kept)


@pytest.fixture(scope="module")
def graph(bytewise: InBytes) -> Any:
    return emit(openvino_module(), bytewise.network, bytewise.ranges)


def compiled(graph: Any, **options: str) -> Any:
    return openvino_module().Core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32", **options})


def told(node: Any, name: str) -> str:
    value = node.get_rt_info()[name]
    return str(value.astype(str) if hasattr(value, "astype") else value)


def corner(picture: Picture, edge: int) -> dict[str, np.ndarray]:
    return {"pixels": picture.pixels[:, :edge, :edge], "low": picture.low, "scale": picture.scale}


def logits(compiled_graph: Any, feed: dict[str, np.ndarray]) -> np.ndarray:
    return np.array(compiled_graph.create_infer_request().infer(feed)[0])


def test_nothing_is_kept_in_floats_between_the_first_and_the_last_convolution(graph: Any) -> None:
    nodes = compiled(graph).get_runtime_model().get_ordered_ops()
    kinds = [told(node, "layerType") for node in nodes]
    where = [at for at, kind in enumerate(kinds) if kind.startswith("Convolution") or kind == "Deconvolution"]
    last = where[-1]
    assert len(where) > 30
    assert kinds.count("FakeQuantize") == 0, "a rounding is a step of its own"
    for node, kind in zip(nodes[where[0] : last], kinds[where[0] : last], strict=True):
        if kind not in {"Const", "Reshape"}:  # weights and biases
            assert told(node, "outputPrecisions") in {"u8", "i8"}, f"{kind} {node.get_friendly_name()}"


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "part"])
def test_nothing_is_copied_only_because_openvino_knows_more_of_one_summand(cut: bool, bytewise: InBytes) -> None:
    trim = trimming(bytewise.network) if cut else None
    graph = emit(openvino_module(), bytewise.network, bytewise.ranges, trim=trim)
    nodes = compiled(graph).get_runtime_model().get_ordered_ops()
    moved = [node.get_friendly_name() for node in nodes if told(node, "layerType") == "Reorder"]
    assert moved, "the picture and the logits are laid out anew"
    # It names such a step after what is before, what changes and what is behind.
    assert [name for name in moved if "___" in name] == []


def test_bytes_compute_what_the_rounding_says(graph: Any, network: Network, model: Model) -> None:
    feed = corner(calibration_pictures(model)[0], 256)
    exact = logits(compiled(emit(openvino_module(), network)), feed)
    # The same graph in floats that are rounded where the bytes are.
    emulated = logits(compiled(graph, LP_TRANSFORMS_MODE="NO"), feed)
    found = logits(compiled(graph), feed)

    def apart(one: np.ndarray, other: np.ndarray) -> float:
        return float(np.sqrt(np.square(one - other).mean()))

    # What is left between them: values in the middle between two steps, which may go either way.
    assert apart(found, emulated) < 0.6 * apart(exact, emulated) < 0.02 * apart(exact, 0 * exact)
    assert apart(found, exact) < 0.1


def test_a_sum_is_rounded_and_one_of_its_summands_is_not(network: Network) -> None:
    rounded = set(rounded_layers(network))
    sums = [(at, layer) for at, layer in enumerate(network.layers) if layer.kind == "add"]
    assert len(sums) > 10
    for at, layer in sums:
        assert at in rounded
        assert sum(set(makers(network, source)) <= rounded for source in layer.inputs) == 1
    assert len(network.layers) - 1 not in rounded, "the logits are nobody's to round"
    for layer in network.layers:
        if layer.weight is not None:
            assert set(makers(network, layer.inputs[0])) <= rounded


def test_a_summand_that_somebody_else_reads_is_rounded() -> None:
    small, large = np.ones((4, 4, 1, 1), np.float32), np.ones((4, 4, 3, 3), np.float32)
    layers = (
        Layer("picture"),
        Layer("convolution", (0,), small),
        Layer("relu", (1,)),
        Layer("convolution", (0,), large),
        Layer("relu", (3,)),
        Layer("add", (2, 4)),
        Layer("pool", (4,)),
        Layer("convolution", (6,), small),
        Layer("upsample", (7,)),
        Layer("concat", (5, 8)),
        Layer("convolution", (9,), np.ones((5, 8, 1, 1), np.float32)),
    )
    network = Network(layers, (-2.0, 3.0))
    # The large one's ReLU is read by the pool, too, so the small one is added at once.
    assert rounded_layers(network) == [0, 4, 5, 7]
    assert makers(network, 9) == [5, 7]
    assert sharing_ranges(network) == [[5, 7]]
    alone = Network((*layers[:6], Layer("convolution", (5,), large)), (-2.0, 3.0))
    assert rounded_layers(alone) == [0, 2, 5]


def test_what_is_put_together_has_one_range(model: Model) -> None:
    rng = np.random.default_rng(3)
    layers = (
        Layer("picture"),
        Layer("convolution", (0,), rng.normal(0, 1, (4, 3, 3, 3)).astype(np.float32)),
        Layer("relu", (1,)),
        Layer("convolution", (0,), rng.normal(0, 9, (4, 3, 3, 3)).astype(np.float32)),
        Layer("relu", (3,)),
        Layer("concat", (2, 4)),
        Layer("convolution", (5,), rng.normal(0, 1, (5, 8, 1, 1)).astype(np.float32)),
    )
    network = Network(layers, (-2.0, 3.0))
    pictures = calibration_pictures(model)[:1]
    found_bytes = in_bytes(openvino_module(), network, pictures, 0)
    assert found_bytes.ranges[2] == found_bytes.ranges[4]
    feed = corner(pictures[0], 64)
    exact, found = (
        logits(compiled(emit(openvino_module(), *of)), feed)
        for of in ((network,), (found_bytes.network, found_bytes.ranges))
    )
    assert np.abs(found - exact).mean() < 0.05 * np.abs(exact).mean()


def test_what_rounding_takes_from_nuclei_on_average_is_given_back(model: Model, network: Network) -> None:
    ov, pictures = openvino_module(), calibration_pictures(model)[:2]
    ranges = measured_ranges(network, looked_into(ov, network, pictures, 0), {})
    # A range that is cut where it should not be: much is lost, and always downwards.
    narrow = {layer: (low, 0.6 * high) for layer, (low, high) in ranges.items()}
    shift = measured_shift(ov, network, (network, narrow), pictures, 0)
    feed = corner(pictures[1], 384)
    exact = logits(compiled(emit(ov, network)), feed)[0]
    inside = exact[4] > 0

    def missing(graph: Any) -> np.ndarray:
        return np.asarray((exact - logits(compiled(graph), feed)[0])[:, inside].mean(axis=1))

    before, after = missing(emit(ov, network, narrow)), missing(emit(ov, network, narrow, shift=shift))
    np.testing.assert_allclose(before - after, shift, atol=1e-4)
    assert before[4] > 0.05
    assert abs(after[4]) < 0.3 * before[4], "what is lost on one picture is lost on the other"


def test_what_was_measured_is_recalled_to_the_last_bit(model: Model, bytewise: InBytes, kept: Path) -> None:
    (file,) = kept.glob("*.json")
    before = file.stat().st_mtime_ns
    again = calibrated(model, 0, kept)
    assert file.stat().st_mtime_ns == before, "it was measured again"
    assert packed(again) == packed(bytewise)
    for one, other in zip(bytewise.network.layers, again.network.layers, strict=True):
        assert (one.weight is None) == (other.weight is None)
        if one.weight is not None:
            assert one.weight.tobytes() == np.asarray(other.weight).tobytes()


def test_one_thread_measures_the_same_as_two(model: Model, bytewise: InBytes) -> None:
    """And twice is as once: workers of one machine must agree."""
    assert packed(calibrated(model, 1, None)) == packed(bytewise)
