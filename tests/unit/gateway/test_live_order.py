"""What a live client is told first."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from pydantic import BaseModel

from services.gateway.hub import Outbox
from services.gateway.live import _Teller


class View(BaseModel):
    id: str = "w"


class Socket:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def send_text(self, text: str) -> None:
        await self.told.put(json.loads(text))


async def test_a_snapshot_comes_first_whatever_waits_already() -> None:
    outbox = Outbox("w", None)
    for number in range(3):
        outbox.add_event({"kind": "event", "job_id": None, "position": f"1:{number}"})
    outbox.add_progress({"kind": "progress", "job_id": "j"})

    async def snapshot() -> tuple[str, BaseModel, int]:
        return "workflow", View(), 1

    socket = Socket()
    telling = asyncio.create_task(_Teller(socket, outbox, snapshot).run())  # type: ignore[arg-type]
    async with asyncio.timeout(10):
        told = [await socket.told.get() for _ in range(5)]
    telling.cancel()
    await asyncio.gather(telling, return_exceptions=True)
    assert [message["kind"] for message in told] == ["snapshot", "event", "event", "event", "progress"]
    assert [message.get("position") for message in told[1:4]] == ["1:0", "1:1", "1:2"]
