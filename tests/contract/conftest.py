"""Real servers for the contract tests, and connections to either kind of bus."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer

from microtome.bus.bus import Bus
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.memory import MemoryBroker, MemoryBus
from microtome.bus.topology import QueueSpec, infer
from tests.contract.traffic import ACK_WAIT_S, Connect


@pytest.fixture(scope="module")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for tests that do not harm it; each uses subjects or queues of its own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_nats(tmp_path: Path) -> Iterator[NatsServer]:
    """A server for one test that kills it."""
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["jetstream", "memory"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """Opens connections to one server; all are closed in the end."""
    opened: list[Bus] = []
    if request.param == "jetstream":
        server: NatsServer = request.getfixturevalue("shared_nats")

        async def open_one() -> Bus:
            opened.append(await JetStreamBus.connect(server.url, name="test", timeout_s=10))
            return opened[-1]
    else:
        broker = MemoryBroker()

        async def open_one() -> Bus:
            opened.append(MemoryBus(broker))
            return opened[-1]

    yield open_one
    for bus in opened:
        await bus.close()


@pytest.fixture
async def bus(connect: Connect) -> Bus:
    return await connect()


@pytest.fixture
def spec() -> QueueSpec:
    """A queue that no other test uses, with short waiting times."""
    return dataclasses.replace(infer(uuid.uuid4().hex, "auto"), ack_wait_s=ACK_WAIT_S, max_deliver=3)
