"""Many live clients: those who read are told soon, those who do not cost next to nothing and miss nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import time
import uuid
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import orjson
import psutil
from websockets.asyncio.client import ClientConnection, connect

from microtome.contracts.messages import SlideRegistered
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append, NewEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import ReadModels
from tests.integration.gateway.test_overload import gateway_process

# By hand, for the full numbers: MICROTOME_TEST_CROWD=200 MICROTOME_TEST_FACTS=6000 MICROTOME_TEST_LISTENERS=20.
CROWD = int(os.environ.get("MICROTOME_TEST_CROWD", "40"))
FACTS = int(os.environ.get("MICROTOME_TEST_FACTS", "600"))
LISTENERS = int(os.environ.get("MICROTOME_TEST_LISTENERS", "5"))
KIB = 1 << 10
_BATCH = 25


def deaf_client(port: int) -> socket.socket:
    """A websocket that asks for everything of ada's and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", port))
    client.sendall(
        b"GET /api/v1/ws/me?user=ada HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    return client


def slides(count: int) -> list[Append]:
    appends = []
    for _ in range(count):
        slide_id = str(uuid.uuid4())
        # Notes make the facts large enough to be missed if somebody kept them.
        message = SlideRegistered(
            slide_id=slide_id, user_id="ada", filename="a.svs", width=9, height=9, path="p", notes=("note " * 100,)
        )
        event = NewEvent(event_id=uuid.uuid4(), message=message, tenant="ada")
        appends.append(Append(f"slide-{slide_id}", 0, (event,)))
    return appends


async def listen(client: ClientConnection, until: int) -> tuple[list[str], list[float]]:
    """Positions in the order they came, and seconds from when each fact was stored."""
    heard, delays = [], []
    while len(heard) < until:
        message = orjson.loads(await client.recv())
        if message["kind"] == "event":
            heard.append(message["position"])
            delays.append((datetime.now(UTC) - datetime.fromisoformat(message["at"])).total_seconds())
    return heard, delays


async def test_who_does_not_read_costs_nothing(
    database_url: str, nats_url: str, tmp_path: Path, free_port: int
) -> None:
    async with (
        gateway_process(database_url, nats_url, tmp_path, free_port, MAX_LIVE_CLIENTS_PER_USER="0") as (url, child),
        await Database.connect(database_url) as database,
        AsyncExitStack() as stack,
    ):
        log = PostgresEventLog(database, [ReadModels()])
        port = urlsplit(url).port
        assert port is not None
        address = f"{url.replace('http', 'ws')}/api/v1/ws/me?user=ada"
        readers = [await stack.enter_async_context(connect(address, max_queue=None)) for _ in range(LISTENERS)]
        for reader in readers:
            assert orjson.loads(await reader.recv())["kind"] == "snapshot"
        # What the process needs anyway, it has after some work.
        await log.append(*slides(_BATCH))
        await asyncio.gather(*[listen(reader, _BATCH) for reader in readers])
        memory = psutil.Process(child.pid)
        deaf = [await asyncio.to_thread(deaf_client, port) for _ in range(CROWD)]
        for client in deaf:
            stack.callback(client.close)
        await asyncio.sleep(0.5)
        before = memory.memory_info().rss

        async def write() -> None:
            for _ in range(0, FACTS, _BATCH):
                await log.append(*slides(_BATCH))

        began = time.monotonic()
        writing = asyncio.create_task(write())
        async with asyncio.timeout(120):
            results = await asyncio.gather(*[listen(reader, FACTS) for reader in readers])
        await writing
        seconds = time.monotonic() - began
        grown = (memory.memory_info().rss - before) / CROWD / KIB
        delays = sorted(delay for _, each in results for delay in each)
        print(
            f"{FACTS} facts to {CROWD} deaf clients and {LISTENERS} readers in {seconds:.1f} s: {grown:.0f} KiB "
            f"more per deaf client; stored to read p50 {1000 * delays[len(delays) // 2]:.0f} ms, "
            f"p99 {1000 * delays[int(len(delays) * 0.99)]:.0f} ms"
        )
        connection = await asyncpg.connect(database_url)
        stored = await connection.fetch("select xid, position from events order by xid, position offset $1", _BATCH)
        await connection.close()
        positions = [f"{row['xid']}:{row['position']}" for row in stored]
        for heard, _ in results:
            assert heard == positions
        assert grown < KIB
        # One that begins to read now is told all of it, whatever the process still holds.
        late = deaf[0]
        late.setblocking(False)
        await _hears_the_rest(late, positions)


async def _hears_the_rest(client: socket.socket, positions: list[str]) -> None:
    loop = asyncio.get_running_loop()
    received = b""
    wanted = iter(f'"position":"{position}","type"'.encode() for position in positions)
    expected = next(wanted)
    async with asyncio.timeout(60):
        while True:
            data = await loop.sock_recv(client, 1 << 16)
            assert data, "the connection ended"
            received += data
            while (found := received.find(expected)) >= 0:
                received = received[found + len(expected) :]
                following = next(wanted, None)
                if following is None:
                    return
                expected = following
