from __future__ import annotations

import pytest

from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.model import Model, load_model


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model("embedded")


@pytest.fixture(scope="session")
def engine(model: Model) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(model, device="cpu")
