"""Lost connections: whoever says where it left off is told every fact since then, once, wherever it connects again."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import connect

from services.gateway import hub as hubs
from services.gateway.hub import Hub
from tests.integration.gateway.conftest import Running, Start, registered
from tests.integration.gateway.test_live import live, positions, sse, told, workflow

# By hand, for the full number: MICROTOME_TEST_DISCONNECTS=1000.
DISCONNECTS = int(os.environ.get("MICROTOME_TEST_DISCONNECTS", "60"))


async def over_websocket(gateway: Running, path: str, after: str | None) -> AsyncIterator[dict[str, Any]]:
    query = "" if after is None else f"&after={after}"
    socket = await connect(f"{gateway.url.replace('http', 'ws')}/api/v1/ws{path}?user=ada{query}")
    try:
        while True:
            yield orjson.loads(await socket.recv())
    finally:
        socket.transport.abort()


async def over_sse(gateway: Running, path: str, after: str | None) -> AsyncIterator[dict[str, Any]]:
    headers = gateway.as_user("ada") | ({} if after is None else {"Last-Event-ID": after})
    async with (
        httpx.AsyncClient(base_url=gateway.url, timeout=30) as client,
        client.stream("GET", f"/api/v1{path}/live", headers=headers) as response,
    ):
        async for event in sse(response):
            if "data" in event:
                message = orjson.loads(event["data"])
                assert event["event"] == message["kind"]
                assert "id" not in event or event["id"] == message["position"]
                yield message


async def test_no_gap_and_no_duplicate(start_gateway: Start) -> None:
    dice = random.Random(7)
    heard: list[str] = []
    lost = 0
    writing = True
    async with AsyncExitStack() as stack:
        gateways = [await stack.enter_async_context(start_gateway()) for _ in range(2)]

        async def write(number: int) -> None:
            # Several at once, so that events become readable in another order than they were begun in.
            while writing:
                await registered(gateways[number % 2], mpp=0.5)
                await asyncio.sleep(dice.random() * 0.02)

        async def listen() -> None:
            nonlocal lost
            after = None
            while lost < DISCONNECTS:
                over = dice.choice((over_websocket, over_sse))
                messages = over(dice.choice(gateways), "/me", after)
                patience = dice.randrange(1, 12)
                async for message in messages:
                    if message["kind"] == "event":
                        heard.append(message["position"])
                    elif after is None:
                        # Nothing was missed yet: what the first snapshot holds is not told again.
                        heard.extend(known for known in await positions(gateways[0]) if known == message["position"])
                        first.append(message["position"])
                    after = message["position"]
                    patience -= 1
                    if patience <= 0:
                        break
                await messages.aclose()
                lost += 1

        first: list[str] = []
        await registered(gateways[0], mpp=0.5)
        writers = [asyncio.create_task(write(number)) for number in range(3)]
        began = time.monotonic()
        async with asyncio.timeout(30 + DISCONNECTS / 5):
            await listen()
        writing = False
        await asyncio.gather(*writers)
        stored = await positions(gateways[0])
        stored = stored[stored.index(first[0]) if first[0] in stored else 0 :]
        messages = over_websocket(gateways[0], "/me", heard[-1])
        async with asyncio.timeout(10):
            while heard[-1] != stored[-1]:
                message = await anext(messages)
                if message["kind"] == "event":
                    heard.append(message["position"])
        await messages.aclose()
    print(f"{lost} disconnects, {len(heard)} facts in {time.monotonic() - began:.1f} s")
    assert heard == stored
    assert len(heard) > DISCONNECTS


async def test_a_workflow_can_be_resumed_from_its_beginning(gateway: Running) -> None:
    submitted = await workflow(gateway, jobs=40)
    for job in submitted["jobs"]:
        await gateway.post(f"/jobs/{job['id']}/cancel")
    stored = await positions(gateway, f"workflow-{submitted['id']}")
    for after, missed in (("0:0", stored), (stored[7], stored[8:]), (stored[-1], [])):
        async with live(gateway, f"/workflows/{submitted['id']}?user=ada&after={after}") as socket:
            heard = []
            while (message := orjson.loads(await socket.recv()))["kind"] == "event":
                heard.append(message["position"])
            assert heard == missed
            assert (message["kind"], message["position"]) == ("snapshot", stored[-1])
    one = submitted["jobs"][3]["id"]
    async with live(gateway, f"/jobs/{one}?user=ada&after=0:0") as socket:
        assert [(await told(socket, "event"))["type"] for _ in range(2)] == ["WorkflowSubmitted", "JobCancelled"]


async def test_who_falls_behind_reads_the_log(gateway: Running, monkeypatch: Any) -> None:
    # So little is held in memory that a client that reads slowly finds nothing of what it has yet to be told.
    monkeypatch.setattr(hubs, "MAX_FACTS", 8)
    hub: Hub = gateway.gateway.hub
    async with live(gateway, "/me?user=ada") as socket:
        await told(socket, "snapshot")
        (listener,) = hub._listeners["user", "ada"]
        caught_up = 0
        missed = hub.facts.missed

        async def counted(*arguments: Any) -> Any:
            nonlocal caught_up
            caught_up += 1
            return await missed(*arguments)

        monkeypatch.setattr(hub.facts, "missed", counted)
        for _ in range(4):
            await asyncio.gather(*[registered(gateway, mpp=0.5) for _ in range(30)])
        heard = [(await told(socket, "event"))["position"] for _ in range(120)]
        assert heard == await positions(gateway)
        assert len(hub._recent) <= 9
        assert listener.due is None
    assert caught_up > 0
