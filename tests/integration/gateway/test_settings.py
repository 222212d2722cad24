"""The gateway and the workers are told the same things in the same words, within the same bounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from microtome.errors import ConfigurationError
from microtome.settings import CommonSettings, EngineSettings
from services.gateway.documents import ParametersIn
from services.gateway.settings import GatewaySettings
from services.gateway.trace import GatewayMetrics
from services.gateway.wiring import open_gateway
from services.scheduler.settings import SchedulerSettings

WHERE = {
    "MICROTOME_DATABASE_URL": "postgresql://127.0.0.1:1/none",
    "MICROTOME_NATS_URL": "nats://127.0.0.1:1",
    "MICROTOME_DATA_DIR": "data",
    "TILE_STORE_DIR": "tiles",
}
# Each the last good value and the first bad one.
BOUNDS = [
    ("TILE_SIZE", "tile_size", 256, 240),
    ("TILE_SIZE", "tile_size", 8192, 8208),
    ("TILE_OVERLAP", "halo", 512, 528),
    ("TILE_OVERLAP", "halo", 0, -16),
    ("BATCH_SIZE", "batch_size", 64, 65),
]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in WHERE.items():
        monkeypatch.setenv(name, value)
    for name in ("GATEWAY_PORT", "METRICS_PORT", "LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(("variable", "parameter", "good", "bad"), BOUNDS)
def test_a_size_is_good_or_bad_wherever_it_is_chosen(
    environment: pytest.MonkeyPatch, variable: str, parameter: str, good: int, bad: int
) -> None:
    environment.setenv(variable, str(good))
    gateway, engine = GatewaySettings.from_environment(), EngineSettings.from_environment()
    assert getattr(gateway, variable.lower()) == getattr(engine, variable.lower()) == good
    assert getattr(ParametersIn(**{parameter: good}), parameter) == good

    environment.setenv(variable, str(bad))
    refusals = []
    kinds: tuple[type[CommonSettings], ...] = (GatewaySettings, EngineSettings)
    for kind in kinds:
        with pytest.raises(ConfigurationError, match=variable) as refused:
            kind.from_environment()
        refusals.append(refused.value.detail)
    assert refusals[0] == refusals[1]
    with pytest.raises(ValidationError):
        ParametersIn(**{parameter: bad})


def test_defaults_are_those_of_the_workers_and_of_the_documents(environment: pytest.MonkeyPatch) -> None:
    gateway, engine = GatewaySettings.from_environment(), EngineSettings.from_environment()
    shared = set(GatewaySettings.model_fields) & set(EngineSettings.model_fields)
    assert {"tile_size", "tile_overlap", "batch_size", "instanseg_model", "max_attempts"} <= shared
    for name in shared - {"microtome_data_dir"}:
        assert getattr(gateway, name) == getattr(engine, name)
    scheduler = SchedulerSettings.from_environment()
    assert (gateway.max_workers, gateway.max_active_users) == (scheduler.max_workers, scheduler.max_active_users)
    assert gateway.gateway_port == 8080
    environment.setenv("LOG_LEVEL", "loud")
    with pytest.raises(ConfigurationError, match="LOG_LEVEL"):
        GatewaySettings.from_environment()
    environment.setenv("LOG_LEVEL", "debug")
    assert GatewaySettings.from_environment().log_level == "DEBUG"


async def test_a_default_halo_that_the_model_cannot_use_is_said_at_start(tmp_path: Path) -> None:

    nowhere = GatewaySettings(
        microtome_database_url=WHERE["MICROTOME_DATABASE_URL"],
        microtome_nats_url=WHERE["MICROTOME_NATS_URL"],
        microtome_data_dir=tmp_path,
        tile_overlap=80,
    )
    with pytest.raises(ConfigurationError, match=r"TILE_OVERLAP is 80.* at least 96"):
        async with open_gateway(nowhere, GatewayMetrics()):
            pass
