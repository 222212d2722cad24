"""What tests of the engines share: the shipped model, fp32 on the CPU, and what was measured for int8, once."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.engines import open_engine
from microtome.segmentation.model import Model, load_model


@pytest.fixture(scope="session")
def model() -> Model:
    return load_model("embedded")


@pytest.fixture(scope="session")
def engine(model: Model) -> OnnxRuntimeEngine:
    return OnnxRuntimeEngine(model, device="cpu")


@pytest.fixture(scope="session")
def cache(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's cache folder in which int8 was prepared, which takes as long as hundreds of tests; not for `auto`."""
    home = tmp_path_factory.mktemp("home")
    if find_spec("openvino") is not None:
        beside = sorted(model.network.parent.iterdir())
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("MICROTOME_CACHE_DIR", str(home))
            open_engine(model, "openvino-cpu-int8")
        assert sorted(model.network.parent.iterdir()) == beside, "something is written where the model lies"
    return home / "engines"
