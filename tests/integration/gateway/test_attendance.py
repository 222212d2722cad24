"""The status says which workers are there, because they say so themselves."""

from __future__ import annotations

import asyncio
from pathlib import Path

from microtome.bus.memory import MemoryBus
from microtome.contracts.messages import ServiceAlive
from services.gateway.attendance import Attendance
from tests.integration.gateway.conftest import Running
from tests.integration.gateway.test_process import process


async def test_a_worker_that_connects_is_seen(
    gateway: Running, database_url: str, nats_url: str, tmp_path: Path
) -> None:
    async def seen() -> dict[str, tuple[str, str]]:
        services = (await gateway.http.get("/api/v1/status")).json()["services"]
        return {each["name"]: (each["state"], each["detail"]) for each in services}

    before = await seen()
    assert {"postgres", "nats", "log", "scheduler", "tiler", "inference", "merger"} == set(before)
    assert before["merger"][0] == "unknown"
    environment = {
        "MICROTOME_DATABASE_URL": database_url,
        "MICROTOME_NATS_URL": nats_url,
        "MICROTOME_DATA_DIR": str(tmp_path / "data"),
        "TILE_STORE_DIR": str(tmp_path / "tiles"),
    }
    async with asyncio.timeout(40), process("services.merger", **environment):
        while (await seen())["merger"][0] != "ok":
            await asyncio.sleep(0.05)
    assert "1 process" in (await seen())["merger"][1]
    assert (await seen())["tiler"][0] != "ok"


def test_silence_is_told_with_its_length() -> None:
    now = 100.0
    attendance = Attendance(MemoryBus(), lambda: now)

    def tiler() -> tuple[str, str]:
        (seen,) = [each for each in attendance.services() if each.name == "tiler"]
        return seen.state, seen.detail

    assert tiler()[0] == "unknown"
    now += 20
    assert tiler() == ("silent", "not heard since this gateway started 20 s ago")
    attendance.note(ServiceAlive(name="tiler", owner="a"))
    now += 10
    attendance.note(ServiceAlive(name="tiler", owner="b"))
    attendance.note(ServiceAlive(name="stranger", owner="c"))
    assert tiler() == ("ok", "2 processes, heard 0 s ago")
    now += 10
    assert tiler() == ("ok", "1 process, heard 10 s ago")
    now += 20
    assert tiler() == ("silent", "silent for 30 s")
