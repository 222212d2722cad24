"""What tests of the engine on real pixels share: the shipped model, its engine, and a crop of a slide."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.model import Model, load_model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.warming import warm_head
from tests.integration.merge_order import Segmented, segment_mosaic


@pytest.fixture(scope="session")
def crop() -> Path:
    """704 x 640 pixels of CMU-1-Small-Region."""
    return Path(__file__).parents[1] / "data" / "cmu-1-small-region-crop.jpg"


@pytest.fixture(scope="session")
def image(crop: Path) -> np.ndarray:
    """The crop's pixels, uint8 RGB [640, 704, 3]; not to be written to."""
    pixels = np.asarray(Image.open(crop).convert("RGB"))
    pixels.flags.writeable = False
    return pixels


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model("embedded")


@pytest.fixture(scope="module")
def engine(model: Model) -> OnnxRuntimeEngine:
    """The model on the CPU, in fp32; let go after each module."""
    warm_head(model)
    return OnnxRuntimeEngine(model, device="cpu")


@pytest.fixture(scope="session")
def normalisation(image: np.ndarray, model: Model) -> Normalisation:
    """What the whole crop is normalised with."""
    return Normalisation.from_histogram(Histogram.of(image), model.percentiles)


@pytest.fixture(scope="session")
def segmented(tmp_path_factory: pytest.TempPathFactory) -> Segmented:
    """A segmented slide before the merge; its results are for all tests, spoil a copy."""
    return segment_mosaic(tmp_path_factory.mktemp("merger"))
