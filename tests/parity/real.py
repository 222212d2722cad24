"""Tiles of real tissue and of the procedural slide, with what the embedded model makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.slides.synthetic import paint
from tests.parity.cases import Case, Settings
from tests.parity.tiles import grains

ROOT = Path(__file__).parents[2]
CROP = ROOT / "tests" / "data" / "cmu-1-small-region-crop.jpg"
DENSE = ROOT.parent / "shared" / "data" / "tiles" / "HE_example.tif"

Spot = tuple[int, int, int, int]


def images(dense: bool) -> Iterator[tuple[str, np.ndarray]]:
    """Pictures uint8 [h, w, 3]; with `dense` one more, where it is at hand."""
    yield "skin", np.asarray(Image.open(CROP).convert("RGB"))
    yield "procedural", paint(768, 5)[0]
    if dense and DENSE.is_file():
        import tifffile

        yield "dense", np.ascontiguousarray(tifffile.imread(DENSE)[..., :3])


def normalised(image: np.ndarray, model: Model) -> np.ndarray:
    """What the network is given of a whole picture: float32 [3, h, w]."""
    low, scale = Normalisation.from_histogram(Histogram.of(image), model.percentiles).arrays()
    return np.clip((image.astype(np.float32) - low) * scale, -2, 3).transpose(2, 0, 1).astype(np.float32)


def logits_of(image: np.ndarray, spots: list[Spot], model: Model, engine: OnnxRuntimeEngine) -> list[np.ndarray]:
    """Logits float32 [5, h, w] of parts (y, x, h, w) of a picture, normalised as a whole."""
    low, scale = Normalisation.from_histogram(Histogram.of(image), model.percentiles).arrays()
    parts = [np.ascontiguousarray(image[y : y + h, x : x + w]) for y, x, h, w in spots]
    return [engine.infer(part[None], low[None], scale[None])[0] for part in parts]


def to_record(model: Model) -> Iterator[Case]:
    """Some in all their bits, more as multiples of a grain, and what random networks of the package say."""
    engine = OnnxRuntimeEngine(model)
    for name, image in images(dense=False):
        exact: list[Spot] = [(96, 80, 64, 80), (208, 320, 64, 80)]
        for k, logits in enumerate(logits_of(image, exact, model, engine)):
            yield _case("real, all bits", f"{name} {k}", logits)
        rounded: list[Spot] = [(64 + 96 * (k // 3), 48 + 160 * (k % 3), 96, 112) for k in range(6)]
        for k, logits in enumerate(logits_of(image, rounded, model, engine)):
            yield _case("real", f"{name} {k}", grains(logits), seed_threshold=(0.4, 0.3, 0.7)[k % 3])
        yield _random_network(name, 11, normalised(image, model)[:, 160:224, 160:240])


def live(model: Model) -> Iterator[Case]:
    """Larger ones, in all their bits, and more random networks."""
    engine = OnnxRuntimeEngine(model)
    for name, image in images(dense=True):
        spots: list[Spot] = [(0, 0, 224, 224), (256, 128, 208, 304), (128, 320, 320, 208)]
        for k, logits in enumerate(logits_of(image, spots, model, engine)):
            yield _case("live, real", f"{name} {k}", logits, seed_threshold=(0.4, 0.3, 0.7)[k])
        x = normalised(image, model)
        # Not a multiple of 16: the package pads it, and takes the padding off again.
        yield _random_network(name, 20, x[:, 200:300, 100:214])


def _case(family: str, name: str, logits: np.ndarray, **settings: float) -> Case:
    return Case(
        name=f"{family}: {name}",
        family=family,
        classifier="embedded",
        settings=Settings(**settings),  # type: ignore[arg-type]
        logits=logits,
    )


def _random_network(name: str, seed: int, pixels: np.ndarray) -> Case:
    return Case(
        name=f"random networks: {name} {seed}",
        family="random networks",
        classifier=f"random {seed % 6}",
        settings=Settings(seed_threshold=0.5),
        pixels=np.ascontiguousarray(pixels),
        network=seed,
    )
