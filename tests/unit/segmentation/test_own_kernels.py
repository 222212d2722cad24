"""Microtome's own kernels: the convolutions as written, at all sizes; the regions of parts; and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from PIL import Image

from microtome.segmentation.engine import EngineFailed, EngineUnavailable, OnnxRuntimeEngine
from microtome.segmentation.engines import open_engine, vectors, winograd
from microtome.segmentation.engines.arena import Arena, address, lined_up
from microtome.segmentation.engines.fusing import fused, plain_kernel, regions
from microtome.segmentation.engines.network import Layer, Network, UnknownNetwork, read_network
from microtome.segmentation.engines.rewriting import rewritten, transposed_kernel
from microtome.segmentation.engines.trimming import Trimming, needed_margins, trimming
from microtome.segmentation.engines.vectors import Compiled, Function
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation

pytest.importorskip("openvino", reason="OpenVINO, which reads the model's file, is not installed on such machines")
if (missing := vectors.missing()) is not None:
    pytest.skip(missing, allow_module_level=True)

from microtome.segmentation.engines.microtome_cpu import MicrotomeEngine
from microtome.segmentation.engines.openvino_cpu import openvino_module

CROP = Path(__file__).parents[2] / "data" / "cmu-1-small-region-crop.jpg"
TISSUE = np.asarray(Image.open(CROP).convert("RGB"))[:640, :704]
LOW, SCALE = (values[None] for values in Normalisation.from_histogram(Histogram.of(TISSUE), (0.1, 99.9)).arrays())


@pytest.fixture(scope="module")
def own(model: Model) -> MicrotomeEngine:
    return MicrotomeEngine(model, threads=2)


@pytest.fixture(scope="module")
def network(model: Model) -> Network:
    return rewritten(read_network(openvino_module().Core(), model.network))


def convolved(picture: NDArray[np.float64], weight: NDArray[np.float32]) -> NDArray[np.float64]:
    """A 3 × 3 convolution of [row, column, channel], as it is written, in doubles."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(picture, ((1, 1), (1, 1), (0, 0))), (3, 3), (0, 1))
    return np.einsum("yxikl,oikl->yxo", windows, weight.astype(np.float64))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (32, 16), (16, 80), (48, 112), (304, 272), (400, 144)])
def test_every_size_is_computed(height: int, width: int, own: MicrotomeEngine, engine: OnnxRuntimeEngine) -> None:
    pixels = TISSUE[None, 100 : 100 + height, 50 : 50 + width]
    expected = engine.infer(pixels, LOW, SCALE)
    # Whatever a larger tile has left in the pictures between the layers.
    own.infer(TISSUE[None, :640, :640], LOW, SCALE)
    np.testing.assert_allclose(own.infer(pixels, LOW, SCALE), expected, atol=2e-4)


def test_a_part_does_not_feel_the_threads_nor_what_was_there(model: Model, own: MicrotomeEngine) -> None:
    wanted = Rect(112, 96, 176, 208)
    pixels = TISSUE[None, :400, :416]
    single = MicrotomeEngine(model, threads=1)
    found = own.infer_part(pixels, LOW, SCALE, wanted)
    own.infer(TISSUE[None, :640, :640], LOW, SCALE)
    assert (own.infer_part(pixels, LOW, SCALE, wanted) == found).all()
    assert (single.infer_part(pixels, LOW, SCALE, wanted) == found).all()


@pytest.mark.parametrize(("channels_in", "channels_out"), [(16, 16), (32, 16), (16, 48), (64, 32)])
@pytest.mark.parametrize("doubled", [False, True])
def test_winograds_convolution_is_the_convolution(channels_in: int, channels_out: int, doubled: bool) -> None:
    rng = np.random.default_rng(channels_in + channels_out)
    height, width = 10, 18
    weight = rng.normal(0, 0.1, (channels_out, channels_in, 3, 3)).astype(np.float32)
    bias = rng.normal(0, 0.1, channels_out).astype(np.float32)
    arena = Arena()
    size = Rect(0, 0, width // 2, height // 2) if doubled else Rect(0, 0, width, height)
    source, out = arena.take(size, channels_in), arena.take(Rect(0, 0, width, height), channels_out)
    other, pooled = (arena.take(Rect(0, 0, width // by, height // by), channels_out) for by in (2, 2))
    for picture in (source, other):
        picture.values[:] = rng.normal(size=picture.values.shape)
        picture.clear_around()
    vectors_at_once, tiles = winograd.vectors_at_once(channels_out), winograd.tiles_at_once(channels_out)
    code = Compiled([
        winograd.driver(), winograd.multiplication(channels_in, vectors_at_once), winograd.transformation(doubled),
        winograd.finishing("doubled", True),
    ])  # fmt: skip
    laid = winograd.transformed(weight)
    begin = -1
    told = {
        "source": source.place(begin, begin), "source_row": source.row, "channels_in": channels_in,
        "weights": address(laid), "bias": address(bias), "out": out.place(0, 0), "out_row": out.row,
        "channels_out": channels_out, "other": other.place(0, 0), "other_row": other.row,
        "pooled": pooled.place(0, 0), "pooled_row": pooled.row, "across": -(-width // 4), "tiles": tiles,
        "step_in": tiles * channels_in, "step_out": tiles * channels_out,
        "transform": code.addresses["transform_doubled" if doubled else "transform"],
        "multiply": code.addresses[f"multiply_{channels_in}_{vectors_at_once}"],
        "finish": code.addresses["finish_doubled_pooled"],
    }  # fmt: skip
    call = np.array([told[name] for name in winograd.FIELDS], np.int64)
    scratch = lined_up(winograd.PLACES * tiles * (channels_in + channels_out))
    code.function("winograd", 4)(address(call), 0, -(-width // 4) * -(-height // 4), address(scratch))
    read = source.values[1 : 1 + size.height, 1 : 1 + size.width].astype(np.float64)
    added = other.values[1 : 1 + height // 2, 1 : 1 + width // 2]
    expected = convolved(read.repeat(2, 0).repeat(2, 1) if doubled else read, weight) + bias
    expected = np.maximum(expected, 0) + added.repeat(2, 0).repeat(2, 1)
    np.testing.assert_allclose(out.values[1 : 1 + height, 1 : 1 + width], expected, atol=2e-5)
    largest = expected.reshape(height // 2, 2, width // 2, 2, -1).max((1, 3))
    np.testing.assert_allclose(pooled.values[1 : 1 + height // 2, 1 : 1 + width // 2], largest, atol=2e-5)


def test_a_transposed_kernel_is_taken_back() -> None:
    weight = np.random.default_rng(3).normal(size=(4, 3, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(plain_kernel(transposed_kernel(weight)), weight, atol=1e-6)


def test_all_of_the_network_is_in_a_step(network: Network) -> None:
    steps = fused(network)
    assert len(steps) == sum(layer.weight is not None for layer in network.layers)
    assert sum(step.adds != "none" for step in steps) == sum(layer.kind == "add" for layer in network.layers)
    assert sum(step.pooled >= 0 for step in steps) == sum(layer.kind == "pool" for layer in network.layers) == 3
    assert [step.kind for step in steps].count("first") == 2
    assert steps[-1].kind == "logits"


def test_regions_hold_what_is_read_of_them(network: Network) -> None:
    steps, needed, strides = fused(network), needed_margins(network), network.strides()
    wanted = Rect(112, 208, 144, 96)
    whole = regions(network, steps, Trimming(), (608, 560), wanted).of
    part = regions(network, steps, trimming(network), (608, 560), wanted).of
    computed = {name: sum(of.width * of.height * strides[at] ** 2 for at, of in found.items())
                for name, found in (("whole", whole), ("part", part))}  # fmt: skip
    assert computed["part"] < 0.75 * computed["whole"]
    for step in steps[:-1]:
        stride, at = strides[step.value], part[step.value]
        assert whole[step.value] == Rect(0, 0, 608 // stride, 560 // stride)
        margin = needed[step.value]
        assert at.x <= max(0, wanted.x // stride - margin)
        assert at.y + at.height >= min(560 // stride, (wanted.y + wanted.height) // stride + margin)
        assert at.x % 4 == at.y % 4 == 0


def test_memory_that_gives_out_may_be_there_later(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = MicrotomeEngine(model, threads=1)
    expected = engine.infer(TISSUE[None, :64, :64], LOW, SCALE)

    def no_room(_: object, region: Rect, channels: int) -> None:
        raise MemoryError(f"{region} {channels}")

    with monkeypatch.context() as patched:
        patched.setattr(Arena, "take", no_room)
        with pytest.raises(EngineFailed, match="memory") as failed:
            engine.infer(TISSUE[None, :64, :64], LOW, SCALE)
        assert failed.value.transient
    assert (engine.infer(TISSUE[None, :64, :64], LOW, SCALE) == expected).all()


def test_a_processor_without_wide_vectors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors.llvm, "get_host_cpu_features", dict)
    with pytest.raises(EngineUnavailable, match="AVX-512"):
        Compiled([Function("nothing", [])])


def test_a_network_of_another_kind_is_refused(model: Model, tmp_path: Path) -> None:
    other = onnx.load(model.network)
    logits = other.graph.output[0].name
    for node in other.graph.node:
        for at, name in enumerate(node.output):
            if name == logits:
                node.output[at] = "before"
    other.graph.node.append(helper.make_node("Tanh", ["before"], [logits]))
    path = tmp_path / "model.onnx"
    onnx.save(other, path)
    with pytest.raises(EngineUnavailable, match="Tanh"):
        open_engine(dataclasses.replace(model, network=path, digest="0" * 64), "microtome-cpu-fp32", cache=tmp_path)


def _layers(*middle: Layer) -> Network:
    first = Layer("convolution", (0,), np.ones((16, 3, 3, 3), np.float32))
    end = 2 + len(middle)
    last = Layer("convolution", (end,), np.ones((5, 16, 1, 1), np.float32))
    return Network((Layer("picture"), first, Layer("relu", (1,)), *middle, last), (-2.0, 3.0))


def test_what_no_kernel_computes_is_refused() -> None:
    wide, narrow = (np.ones((channels, 16, 3, 3), np.float32) for channels in (16, 24))
    relu = Layer("relu", (3,))
    assert [step.kind for step in fused(_layers(Layer("convolution", (2,), wide), relu))] == [
        "first", "winograd", "logits",
    ]  # fmt: skip
    for middle in (
        (Layer("convolution", (2,), wide),),
        (Layer("convolution", (2,), narrow), relu),
        (Layer("pool", (2,)),),
        (Layer("upsample", (2,)),),
        (Layer("concat", (2, 2)),),
        (Layer("add", (2, 2)),),
        (Layer("convolution", (0,), wide[:, :3]), Layer("relu", (3,)), Layer("add", (2, 4))),
    ):
        with pytest.raises(UnknownNetwork):
            fused(_layers(*middle))
