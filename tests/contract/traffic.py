"""What the contract tests of both buses send, and how they wait for it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.bus.message import Message, Subscription
from microtome.bus.topology import QueueSpec

Connect = Callable[[], Awaitable[Bus]]

ACK_WAIT_S = 0.8


async def put(bus: Bus, spec: QueueSpec, *payloads: bytes) -> None:
    for payload in payloads:
        await bus.publish(spec.subject, payload, message_id=str(uuid.uuid4()))


async def take(subscription: Subscription, count: int, timeout_s: float = 5.0) -> list[Message]:
    async with asyncio.timeout(timeout_s):
        return [await anext(subscription) for _ in range(count)]


async def until(condition: Callable[[], bool], timeout_s: float = 8.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():  # happens elsewhere
            await asyncio.sleep(0.02)


async def empty(bus: Bus, spec: QueueSpec, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while await bus.depth(spec):  # happens elsewhere
            await asyncio.sleep(0.02)


def event_subject() -> tuple[str, str]:
    """A user of this test only, and a subject of theirs."""
    user = uuid.uuid4().hex
    return user, subjects.event(user, "workflow", "w1", "JobStarted")
