"""What the inference service is told of engines is checked when it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.errors import ConfigurationError
from microtome.segmentation.wishes import AUTO, ENGINES
from services.inference.settings import InferenceSettings


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("MICROTOME_DATABASE_URL", "MICROTOME_NATS_URL", "MICROTOME_DATA_DIR", "TILE_STORE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.delenv("ENGINE", raising=False)


@pytest.mark.parametrize("wish", [AUTO, *ENGINES])
def test_every_engine_can_be_wished_for(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert InferenceSettings.from_environment().engine == AUTO
    monkeypatch.setenv("ENGINE", wish)
    assert InferenceSettings.from_environment().engine == wish


@pytest.mark.parametrize("wish", ["abacus", "", "AUTO ", "onnxruntime"])
def test_another_word_stops_the_service_at_its_start(wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE", wish)
    with pytest.raises(ConfigurationError, match=r"ENGINE.*openvino-cpu-int8"):
        InferenceSettings.from_environment()
