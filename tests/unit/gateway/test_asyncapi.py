"""The AsyncAPI document is current, hangs together, and says what is really sent."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from microtome.bus import subjects
from microtome.bus.topology import STREAMS
from microtome.contracts.codec import to_json
from microtome.contracts.messages import JobFailed, JobProgress
from services.gateway.asyncapi import document, text
from services.gateway.live_messages import Progress
from services.gateway.openapi import document as openapi
from services.gateway.user import checked_user

ROOT = Path(__file__).resolve().parents[3]
SNAPSHOT = ROOT / "proto" / "asyncapi.yaml"
ALLOWED = {
    "": {"asyncapi", "id", "info", "servers", "defaultContentType", "channels", "operations", "components"},
    "servers": {"host", "protocol", "pathname", "description"},
    "channels": {"address", "messages", "description", "servers", "parameters", "bindings"},
    "operations": {"action", "channel", "summary"},
}


def every(value: Any, where: str = "#") -> Iterator[tuple[str, Any]]:
    yield where, value
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from every(inner, f"{where}/{key}")


def test_the_snapshot_is_current() -> None:
    assert SNAPSHOT.read_text(encoding="utf-8") == text(), (
        "run: python -m services.gateway.asyncapi > proto/asyncapi.yaml"
    )
    assert yaml.safe_load(SNAPSHOT.read_text(encoding="utf-8")) == document()


def test_it_has_the_shape_of_asyncapi_3() -> None:
    whole = document()
    assert whole["asyncapi"] == "3.0.0"
    assert set(whole) <= ALLOWED[""]
    for part in ("servers", "channels", "operations"):
        for name, each in whole[part].items():
            assert re.fullmatch(r"[\w.-]+", name)
            assert set(each) <= ALLOWED[part], name
    for name, channel in whole["channels"].items():
        wanted = set(re.findall(r"\{(\w+)\}", channel["address"]))
        assert set(channel.get("parameters", {})) == wanted, name
        assert channel["messages"]
    assert {operation["action"] for operation in whole["operations"].values()} == {"send", "receive"}
    used = {operation["channel"]["$ref"] for operation in whole["operations"].values()}
    assert used == {f"#/channels/{name}" for name in whole["channels"]}


def test_every_reference_leads_somewhere() -> None:
    whole = document()
    for where, value in every(whole):
        if isinstance(value, dict) and "$ref" in value:
            found: Any = whole
            for step in value["$ref"].removeprefix("#/").split("/"):
                assert step in found, f"{where} refers to {value['$ref']}"
                found = found[step]
            assert found, where


def test_it_covers_the_bus_and_the_live_views() -> None:
    addresses = {channel["address"] for channel in document()["channels"].values()}
    examples = [re.sub(r"\{\w+\}", "a" * 12, address) for address in addresses]
    for stream in STREAMS:
        for pattern in stream.subjects:
            assert any(subjects.matches(pattern, example) for example in examples), pattern
    user = checked_user("ada")
    for subject in (
        subjects.event(user, "workflow", "w", "JobStarted"),
        subjects.progress(user, "w", "j"),
        subjects.tiles("j", 1),
        subjects.service("tiler"),
    ):
        pattern = {re.sub(r"\{\w+\}", "*", address) for address in addresses}
        assert any(subjects.matches(each, subject) for each in pattern), subject
    paths = {path for path in json.loads(openapi())["paths"] if path.endswith("/live")}
    assert {f"/api/v1{address}" for address in addresses if address.endswith("/live")} == paths
    assert {address for address in addresses if address.startswith("/ws/")} == {
        f"/ws{path.removeprefix('/api/v1').removesuffix('/live')}" for path in paths
    }


def test_schemas_fit_what_is_sent() -> None:
    schemas = document()["components"]["schemas"]
    failed = to_json(JobFailed(job_id="j", attempt=1, code="c", detail="d", transient=True))
    assert set(failed) <= set(schemas["v1.JobFailed"]["properties"])
    told = Progress.of(JobProgress(job_id="j", workflow_id="w", attempt=1, stage="infer")).model_dump()
    assert set(told) == set(schemas["Progress"]["properties"])
    assert schemas["v1.JobFailed"]["properties"]["attempt"] == {"type": "integer"}


def test_the_openapi_document_is_of_version_3_1() -> None:
    assert '"openapi": "3.1.' in openapi()
