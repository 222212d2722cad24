"""docker-compose.yml and the Dockerfile fit the code: modules, settings, files and volumes exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_core import PydanticUndefined

from microtome.crashpoint import MARK, POINT
from microtome.embedded.supervisor import SERVICES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_service_of_the_stack_is_there_and_can_be_started(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "nats", "prometheus", *SERVICES}
    for name in SERVICES:
        assert compose["services"][name]["command"] == ["python", "-m", f"services.{name}"]
        assert importlib.util.find_spec(f"services.{name}.__main__") is not None


def test_every_setting_exists_in_the_code(compose: dict[str, Any]) -> None:
    folders = (ROOT / "services", ROOT / "libs" / "microtome")
    files = [file for folder in folders for file in folder.rglob("*.py") if "embedded" not in file.parts]
    words = set(re.findall(r"[A-Za-z0-9_]+", "\n".join(file.read_text() for file in files)))
    for name in SERVICES:
        for setting in compose["services"][name]["environment"]:
            assert setting in words or setting.lower() in words, f"{setting} of {name} is read nowhere"


def settings_of(service: str) -> dict[str, Any]:
    """The settings of a service and their defaults, by the environment's names."""
    module = importlib.import_module(f"services.{service}.settings")
    fields = getattr(module, f"{service.capitalize()}Settings").model_fields
    return {name.upper(): field.default for name, field in fields.items()}


# DECODERS depends on the machine; the page is where the image has it.
FIXED = {"DECODERS", "MICROTOME_UI_DIR"}


def test_every_setting_can_be_chosen_and_has_the_same_default(compose: dict[str, Any]) -> None:
    own = {"METRICS_HOST": "0.0.0.0", "METRICS_PORT": "9100", "GATEWAY_HOST": "0.0.0.0"}
    for service in SERVICES:
        environment = compose["services"][service]["environment"]
        for name, default in settings_of(service).items():
            if name == "MICROTOME_UI_DIR":
                continue
            assert name in environment, f"{name} of {service} cannot be chosen"
            if default is not PydanticUndefined and name not in FIXED:
                expected = own.get(name, f"${{{name}:-{default}}}")
                assert _plain(environment[name]) in (_plain(expected), str(default)), (service, name)


def _plain(value: str) -> str:
    """Defaults of seconds are floats in the code and whole numbers in the file."""
    return re.sub(r"(\d+)\.0(?=\}|$)", r"\1", value) if value.startswith("$") else value


def test_every_setting_is_documented() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    table = page.partition("## Settings (environment)")[2].partition("\n## ")[0]
    first_column = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))
    documented = set(re.findall(r"`([A-Z_]+)`", first_column))
    code = {name for service in SERVICES for name in settings_of(service)}
    stack = {"MICROTOME_HOME", "NATS_PORT", "POSTGRES_PORT", "NATS_MONITORING_PORT", "METRICS_BASE_PORT"}
    places = {"MICROTOME_CACHE_DIR", "MICROTOME_MODELS"}
    assert documented == code | stack | places | {"OTEL_EXPORTER_OTLP_ENDPOINT", POINT, MARK}


def test_prometheus_asks_every_service_and_loads_alerts_on_what_they_export(compose: dict[str, Any]) -> None:
    files = {v.split(":")[1]: v.split(":")[0] for v in compose["services"]["prometheus"]["volumes"]}
    config = yaml.safe_load((ROOT / files["/etc/prometheus/prometheus.yml"]).read_text())
    (asked,) = config["scrape_configs"][0]["dns_sd_configs"]
    assert set(asked["names"]) == set(SERVICES)
    assert str(asked["port"]) == compose["services"]["gateway"]["environment"]["METRICS_PORT"]
    (rules,) = config["rule_files"]
    groups = yaml.safe_load((ROOT / files[f"/etc/prometheus/{rules}"]).read_text())["groups"]
    folders = (ROOT / "services", ROOT / "libs" / "microtome")
    code = "\n".join(file.read_text() for folder in folders for file in folder.rglob("*.py"))
    words = {"max", "sum", "or", "vector", "increase", "m", "rate", "by"}
    for rule in (rule for group in groups for rule in group["rules"]):
        names = set(re.findall(r"[a-z_]+", rule["expr"])) - words
        assert names, rule
        for name in names:
            # A counter is exported with `_total` behind the name that it was given.
            assert f'"{name}"' in code or f'"{name.removesuffix("_total")}"' in code, f"nobody exports {name}"


def test_services_share_the_data_and_wait_for_the_servers(compose: dict[str, Any]) -> None:
    for name in SERVICES:
        service = compose["services"][name]
        assert service["volumes"] == ["data:/data", "tiles:/tiles"]
        assert set(service["depends_on"]) == {"postgres", "nats"}
    for server in ("postgres", "nats"):
        assert compose["services"][server]["healthcheck"]["test"]


def test_passwords_of_clients_and_servers_agree(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for server, variable, url in (
        ("postgres", "POSTGRES_PASSWORD", "MICROTOME_DATABASE_URL"),
        ("nats", "NATS_PASSWORD", "MICROTOME_NATS_URL"),
    ):
        secret = services[server]["environment"][variable]
        for name in SERVICES:
            assert f"microtome:{secret}@{server}:" in services[name]["environment"][url]


def test_what_is_mounted_and_copied_exists(compose: dict[str, Any]) -> None:
    mounted = [v.split(":")[0] for s in compose["services"].values() for v in s.get("volumes", ())]
    for source in mounted:
        assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text()
    for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE):
        *sources, _target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), f"the Dockerfile copies {source}"
