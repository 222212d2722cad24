"""Parts of tiles: the same bits as of the whole tile, for less work; and what of a network's layers they need."""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.errors import InvalidRequest
from microtome.segmentation.engine import Engine, OnnxRuntimeEngine, TrimmingEngine, infer_part
from microtome.segmentation.engines import available_engines, open_engine
from microtome.segmentation.engines.calibration import calibrated
from microtome.segmentation.engines.emitting import different_cuts, emit, four_kernels
from microtome.segmentation.engines.network import Layer, Network, read_network
from microtome.segmentation.engines.openvino_cpu import openvino_module
from microtome.segmentation.engines.rewriting import rewritten
from microtome.segmentation.engines.trimming import Cut, Trimming, executed_flops, needed_margins, trimming
from microtome.segmentation.grid import Rect
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation

CROP = Path(__file__).parents[2] / "data" / "cmu-1-small-region-crop.jpg"
TISSUE = np.asarray(Image.open(CROP).convert("RGB"))[:640, :704]
TRIMMING = [
    name
    for name, reason in available_engines().items()
    if reason is None and name.startswith(("openvino", "microtome"))
]
WHOLE = Rect(0, 0, 480, 560)
# In the middle with its halo, in a corner, along an edge, less than a halo from edges, and small.
PARTS = (
    Rect(96, 96, 288, 368),
    Rect(0, 0, 384, 464),
    Rect(160, 0, 16, 560),
    Rect(16, 48, 432, 480),
    Rect(240, 272, 16, 16),
    WHOLE,
)
Feed = tuple[np.ndarray, np.ndarray, np.ndarray]

needs_openvino = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is not installed on machines of this kind"
)


def tissue(at: Rect) -> Feed:
    low, scale = Normalisation.from_histogram(Histogram.of(TISSUE), (0.1, 99.9)).arrays()
    return TISSUE[None, at.y : at.y + at.height, at.x : at.x + at.width], low[None], scale[None]


@pytest.fixture(scope="module")
def opened(model: Model, cache: Path) -> dict[str, Engine]:
    return {name: open_engine(model, name, cache=cache) for name in TRIMMING}


def same(name: str, found: np.ndarray, expected: np.ndarray) -> bool:
    """The same bits; in floats but for those few shapes in which OpenVINO adds up in another order.

    Microtome's own kernels round 4 × 4 pixels together, of which some are wanted and others are not there.
    """
    if name.endswith("int8"):
        return bool((found == expected).all())
    apart = np.abs(found - expected)
    if name.startswith("microtome"):
        return bool(apart.max() < 5e-5)
    return bool(apart.max() < 2e-5 if name.endswith("fp32") else apart.max() < 0.1 and apart.mean() < 2e-4)


@pytest.mark.parametrize("name", TRIMMING)
def test_a_part_has_the_bits_of_the_whole(name: str, opened: dict[str, Engine]) -> None:
    engine = opened[name]
    assert isinstance(engine, TrimmingEngine)
    whole = engine.infer(*tissue(WHOLE))
    for part in PARTS:
        found = infer_part(engine, *tissue(WHOLE), part)
        assert found.shape == (1, 5, part.height, part.width)
        there = whole[:, :, part.y : part.y + part.height, part.x : part.x + part.width]
        assert same(name, found, there), part


@pytest.mark.parametrize("name", TRIMMING)
def test_a_part_of_another_tile_with_the_same_halo_has_the_same_bits(
    name: str, opened: dict[str, Engine], model: Model
) -> None:
    halo = model.halo_min
    large = infer_part(opened[name], *tissue(Rect(0, 0, 704, 640)), Rect(224, 208, 160, 96))
    small = infer_part(
        opened[name], *tissue(Rect(224 - halo, 208 - halo, 160 + 2 * halo, 96 + 2 * halo)), Rect(halo, halo, 160, 96)
    )
    assert same(name, small, large)


@needs_openvino
def test_a_whole_tile_has_the_bits_of_a_graph_without_cuts(
    opened: dict[str, Engine], model: Model, cache: Path
) -> None:
    of, ov = calibrated(model, 0, cache), openvino_module()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    plain = ov.Core().compile_model(emit(ov, of.network, of.ranges, shift=of.shift), "CPU", options)
    feed = dict(zip(("pixels", "low", "scale"), tissue(WHOLE), strict=True))
    expected = plain.create_infer_request().infer(feed)[0]
    assert (opened["openvino-cpu-int8"].infer(*tissue(WHOLE)) == expected).all()


@pytest.mark.parametrize("name", TRIMMING)
def test_a_part_costs_less(name: str, opened: dict[str, Engine]) -> None:
    part = Rect(192, 256, 96, 48)

    def seconds(of: Rect) -> float:
        began = time.process_time()
        infer_part(opened[name], *tissue(WHOLE), of)
        return time.process_time() - began

    taken = {of: min(seconds(of) for _ in range(3)) for of in (part, WHOLE)}
    # Half of the work is at full and half size in the encoder, of which a part in the middle needs most.
    assert taken[part] < 0.75 * taken[WHOLE]


def test_an_engine_that_cannot_is_asked_for_all(engine: OnnxRuntimeEngine) -> None:
    whole = engine.infer(*tissue(WHOLE))
    assert (infer_part(engine, *tissue(WHOLE), PARTS[0]) == whole[:, :, 96:464, 96:384]).all()


@pytest.mark.parametrize(
    "part", [Rect(0, 0, 480, 576), Rect(8, 0, 32, 32), Rect(0, 0, 0, 16), Rect(-16, 0, 32, 32), Rect(0, 0, 20, 16)]
)
def test_what_is_no_part_is_refused(part: Rect, engine: OnnxRuntimeEngine, opened: dict[str, Engine]) -> None:
    for of in (engine, *opened.values()):
        with pytest.raises(InvalidRequest):
            infer_part(of, *tissue(WHOLE), part)


@needs_openvino
def test_what_the_network_needs_is_what_its_halo_is_for(model: Model) -> None:
    network = rewritten(read_network(openvino_module().Core(), model.network))
    needed, strides = needed_margins(network), network.strides()
    assert model.halo_min - 16 < needed[0] <= model.halo_min
    trim = trimming(network)
    assert trim.margin is not None
    cuts = different_cuts(trim)
    assert len(cuts) == len(set(cuts)) > 5
    assert len(trim.made) == 3
    for (reader, source), cut in trim.read.items():
        assert cut.stride == strides[source]
        assert cut.before is None or cut.margin < cut.before
        doubled = 2 if network.layers[reader].kind in {"upsample", "transposed"} else 1
        assert cut.margin * doubled >= needed[reader]
        assert cut.margin * cut.stride < needed[0]


def test_a_cut_ends_with_the_picture() -> None:
    cut = Cut(stride=8, before=10, margin=4)
    # 160 pixels are 20 of the layer's, which begins 10 before and is cut to 4 before.
    assert cut.bounds(160, 320) == (6, 34)
    # At 6 of the layer's pixels it begins with the picture.
    assert cut.bounds(48, 320) == (2, 44)
    assert cut.bounds(0, 320) == (0, 44)
    assert Cut(8, None, 4).bounds(160, 320) == (16, 44)


def test_what_reads_the_picture_at_full_size_keeps_all_whole() -> None:
    kernel = np.ones((4, 4, 3, 3), np.float32)
    layers = (
        Layer("picture"),
        Layer("convolution", (0,), kernel),
        Layer("pool", (1,)),
        Layer("convolution", (2,), kernel),
        Layer("upsample", (3,)),
        Layer("add", (1, 4)),
        Layer("convolution", (5,), kernel),
    )
    # The sum is as large as the picture, so what is enlarged for it must be, too.
    trim = trimming(Network(layers, (-2.0, 3.0)))
    assert (trim.read, trim.made, trim.margin) == ({}, {}, None)


@needs_openvino
def test_operations_are_counted_where_they_are_executed(model: Model) -> None:
    network = rewritten(read_network(openvino_module().Core(), model.network))
    trim, whole = trimming(network), 640 * 480 * network.flops_per_pixel()

    def counted(part: Rect, by: Trimming = trim) -> float:
        return executed_flops(network, by, 640, 480, part)

    assert counted(Rect(0, 0, 640, 480)) == pytest.approx(whole)
    assert counted(Rect(96, 96, 448, 288), Trimming()) == pytest.approx(whole)
    middle, corner = counted(Rect(96, 96, 448, 288)), counted(Rect(0, 0, 544, 384))
    assert 0.6 * whole < middle < 0.8 * whole
    assert middle < corner < whole
    # The picture is read whole at full size.
    assert counted(Rect(304, 240, 16, 16)) > sum(network.flops_by_layer()[:13]) * 640 * 480


def test_a_transposed_convolution_is_four_kernels_laid_out_as_pixels() -> None:
    rng = np.random.default_rng(5)
    picture, weight = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 3, 4, 4)).astype(np.float32)
    expected = np.zeros((3, 2 * 5 + 2, 2 * 6 + 2))
    for y in range(5):
        for x in range(6):
            expected[:, 2 * y : 2 * y + 4, 2 * x : 2 * x + 4] += np.einsum("i,iokl->okl", picture[:, y, x], weight)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(picture, ((0, 0), (1, 1), (1, 1))), (2, 2), (1, 2))
    made = np.einsum("iyxkl,oikl->oyx", windows, four_kernels(weight))
    laid = made.reshape(2, 2, 3, 6, 7).transpose(2, 3, 0, 4, 1).reshape(3, 12, 14)
    np.testing.assert_allclose(laid, expected, atol=1e-6)
