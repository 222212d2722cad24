"""docker-compose.yml and the Dockerfile fit the code: modules, settings, files and volumes exist."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from microtome.embedded.supervisor import SERVICES

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def test_every_service_of_the_stack_is_there_and_can_be_started(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == {"postgres", "nats", *SERVICES}
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
