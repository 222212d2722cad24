"""From a real Postgres to a real NATS, with crashes in between."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import nats
import pytest
from nats.aio.msg import Msg

from microtome.bus.headers import CloudEvent
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.topology import TOPOLOGY
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import JobStarted, PlanWork, SeatGranted, SlideRegistered
from microtome.errors import InvalidRequest, TooLarge, Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Append, Cursor, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.relay.checkpoint import Checkpoint, MemoryCheckpoint, PostgresCheckpoint
from microtome.relay.relay import Relay, event_subject
from tests.integration.eventlog.facts import fact, slide, store, submitted


@pytest.fixture
async def bus(fresh_nats_url: str) -> AsyncIterator[JetStreamBus]:
    bus = await JetStreamBus.connect(fresh_nats_url, name="relay test")
    yield bus
    await bus.close()


async def stream(url: str, subject: str, expected: int) -> list[Msg]:
    """All messages that a stream holds; fails unless there are `expected`."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        name = await jetstream.find_stream_name_by_subject(subject)
        state = (await jetstream.stream_info(name)).state
        assert state.messages == expected
        return [await jetstream.get_msg(name, seq) for seq in range(state.first_seq, state.last_seq + 1)]  # type: ignore[misc]
    finally:
        await client.close()


class CrashError(Exception):
    """The process is gone."""


class CrashingCheckpoint:
    """Dies just before it would move: after the publish, before the checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    async def load(self) -> Cursor:
        return await self._checkpoint.load()

    async def store(self, cursor: Cursor) -> None:
        raise CrashError


async def _a_workflow_begins(log: PostgresEventLog) -> None:
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "slide-s-1", slide("s-1"))
    await store(log, "workflow-w-1", submitted("w-1", {"a": ("x", ()), "b": ("y", ())}))
    await store(log, "workflow-w-1", JobStarted(job_id="w-1-a", attempt=1, slot=0))


async def test_events_carry_who_what_and_where(
    log: PostgresEventLog, database: Database, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    await _a_workflow_begins(log)
    relay = Relay(log, bus, PostgresCheckpoint(database, "relay"))
    assert await relay.step() == 4
    assert await relay.step() == 0
    events = await log.read_all()
    messages = await stream(fresh_nats_url, "events.>", 4)
    assert [message.subject for message in messages] == [
        "events.ada.seats.seats.SeatGranted",
        "events.ada.slide.s-1.SlideRegistered",
        "events.ada.workflow.w-1.WorkflowSubmitted",
        "events.ada.workflow.w-1.JobStarted",
    ]
    for event, message in zip(events, messages, strict=True):
        said = CloudEvent.from_headers(message.headers or {})
        assert said.id == str(event.event_id) == (message.headers or {})["Nats-Msg-Id"]
        assert (said.subject, said.time) == (event.stream, event.at)
        assert said.type == f"microtome.v1.{type(event.message).__name__}"
        assert said.cursor == (event.cursor.xid, event.cursor.position)
    assert from_bytes(SlideRegistered, messages[1].data) == events[1].message
    (work,) = await stream(fresh_nats_url, "work.plan", 1)
    assert from_bytes(PlanWork, work.data) == PlanWork(job_id="w-1-a", workflow_id="w-1", user_id="ada", attempt=1)
    assert (work.headers or {})["Nats-Msg-Id"] == f"{events[3].event_id}:plan"


async def test_a_crash_between_publish_and_checkpoint_loses_and_doubles_nothing(
    log: PostgresEventLog, database: Database, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    await _a_workflow_begins(log)
    checkpoint = PostgresCheckpoint(database, "relay")
    for _ in range(3):
        with pytest.raises(CrashError):
            await Relay(log, bus, CrashingCheckpoint(checkpoint)).step(limit=4)
    assert await checkpoint.load() == START
    await store(log, "workflow-w-1", JobStarted(job_id="w-1-b", attempt=1, slot=1))
    assert await Relay(log, bus, checkpoint).step() == 5
    events = await log.read_all()
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in await stream(fresh_nats_url, "events.>", 5)]
    assert ids == [str(event.event_id) for event in events]
    assert len(await stream(fresh_nats_url, "work.plan", 2)) == 2
    assert await checkpoint.load() == events[-1].cursor


async def test_a_relay_that_dies_again_and_again_while_writers_write(
    log: PostgresEventLog, database: Database, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    checkpoint = PostgresCheckpoint(database, "relay")
    chance = random.Random(3)

    async def write(number: int) -> None:
        for count in range(15):
            await store(log, f"slide-{number}x{count}", slide(f"{number}x{count}"))
            await asyncio.sleep(chance.random() * 0.02)

    writing = asyncio.gather(*[write(number) for number in range(4)])
    deaths = 0
    while deaths < 6 or not writing.done() or await checkpoint.load() != (await log.read_all())[-1].cursor:
        relay = asyncio.create_task(Relay(log, bus, checkpoint).run())
        # Longer and longer, so that it gets through on a slow machine too.
        await asyncio.sleep(chance.random() * 0.02 * (1 + deaths))
        relay.cancel()
        done, _ = await asyncio.wait([relay], timeout=10)
        assert done, "the relay ignored its end"
        deaths += 1
    await writing
    events = await log.read_all()
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in await stream(fresh_nats_url, "events.>", 60)]
    assert ids == [str(event.event_id) for event in events]


async def test_an_event_without_a_possible_subject_does_not_hold_back_the_others(
    log: PostgresEventLog, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    (first,) = await store(log, "slide-s-1", slide("s-1"), tenant="no.token")
    await store(log, "slide-s-2", slide("s-2"))
    assert await Relay(log, bus, MemoryCheckpoint()).step() == 2
    (message,) = await stream(fresh_nats_url, "events.>", 1)
    assert message.subject == "events.ada.slide.s-2.SlideRegistered"
    with pytest.raises(InvalidRequest):
        event_subject(replace(first, tenant="*"))


async def test_an_event_that_is_too_large_for_the_bus_does_not_hold_back_the_others(
    log: PostgresEventLog, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    keys = {f"{number:04}-{'k' * 55}": ("x", ()) for number in range(1000)}
    wide = {**keys, "last": ("y", tuple(keys) * 18)}
    (large,) = await store(log, "workflow-w-1", submitted("w-1", wide))
    assert len(to_bytes(large.message)) > 1024**2
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    passed_over: list[StoredEvent] = []
    checkpoint = MemoryCheckpoint()
    assert await Relay(log, bus, checkpoint, passed_over.append).step() == 2
    assert passed_over == [large]
    (message,) = await stream(fresh_nats_url, "events.>", 1)
    assert message.subject == "events.ada.seats.seats.SeatGranted"
    assert await checkpoint.load() == (await log.read_all())[-1].cursor


class Refusing:
    """A bus that takes work, but never an event."""

    def __init__(self) -> None:
        self.taken: dict[str, str] = {}

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        if subject.startswith("events."):
            raise TooLarge
        self.taken[message_id] = subject


async def test_a_start_whose_event_is_refused_still_becomes_work(log: PostgresEventLog) -> None:
    await _a_workflow_begins(log)
    bus = Refusing()
    assert await Relay(log, bus, MemoryCheckpoint()).step() == 4
    assert list(bus.taken.values()) == ["work.plan"]


async def test_work_that_is_dispatched_again_stays_in_its_trace(
    log: PostgresEventLog, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "workflow-w-1", submitted("w-1", {"a": ("x", ())}))
    new = fact(JobStarted(job_id="w-1-a", attempt=1, slot=0), traceparent=trace)
    (started,) = await log.append(Append("workflow-w-1", 1, (new,)))
    relay = Relay(log, bus, MemoryCheckpoint())
    await relay.step()
    await relay.dispatch_again(started)
    first, again = await stream(fresh_nats_url, "work.plan", 2)
    assert first.data == again.data
    for message in (first, again):
        headers = message.headers or {}
        assert headers["traceparent"] == trace
        said = CloudEvent.from_headers(headers)
        assert (said.type, said.subject) == ("microtome.v1.PlanWork", "workflow-w-1")
    assert (first.headers or {})["Nats-Msg-Id"] != (again.headers or {})["Nats-Msg-Id"]


async def test_the_lag_is_what_is_not_relayed_yet(log: PostgresEventLog, bus: JetStreamBus) -> None:
    relay = Relay(log, bus, MemoryCheckpoint())
    assert await relay.lag() == 0
    await _a_workflow_begins(log)
    assert await relay.lag() == 4
    await relay.step(limit=3)
    assert await relay.lag() == 1


@pytest.mark.parametrize("kind", ["memory", "postgres"])
async def test_a_checkpoint_never_goes_back(database: Database, kind: str) -> None:
    checkpoint: Checkpoint = MemoryCheckpoint() if kind == "memory" else PostgresCheckpoint(database, "c")
    assert await checkpoint.load() == START
    for stored, expected in (
        (Cursor(5, 9), Cursor(5, 9)),
        (Cursor(4, 99), Cursor(5, 9)),
        (Cursor(5, 10), Cursor(5, 10)),
        (Cursor(6, 1), Cursor(6, 1)),
    ):
        await checkpoint.store(stored)
        assert await checkpoint.load() == expected


class Stumbling:
    """The real bus, but the first try at one message is lost on its way."""

    def __init__(self, bus: JetStreamBus, message_id: str) -> None:
        self._bus = bus
        self._message_id = message_id
        self.lost = 0

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = 30.0,
    ) -> None:
        if message_id == self._message_id and not self.lost:
            self.lost += 1
            raise Unavailable
        await self._bus.publish(subject, payload, message_id=message_id, headers=headers, deadline_s=deadline_s)


async def test_a_message_that_is_lost_in_the_middle_of_a_page_keeps_its_place(
    log: PostgresEventLog, bus: JetStreamBus, fresh_nats_url: str
) -> None:
    for number in range(12):
        await store(log, f"slide-s-{number}", slide(f"s-{number}"))
    events = await log.read_all()
    stumbling = Stumbling(bus, str(events[5].event_id))
    assert await Relay(log, stumbling, MemoryCheckpoint()).step() == 12
    assert stumbling.lost == 1
    ids = [(message.headers or {})["Nats-Msg-Id"] for message in await stream(fresh_nats_url, "events.>", 12)]
    assert ids == [str(event.event_id) for event in events]


async def test_what_a_bus_that_forgot_its_ids_stores_twice_a_reader_tells_by_the_cursor(
    log: PostgresEventLog, fresh_nats_url: str
) -> None:
    """The relay died before its checkpoint, and came back when the bus did not know the ids any more."""
    await _a_workflow_begins(log)
    window_s = 0.2
    streams = tuple(replace(spec, duplicate_window_s=window_s) for spec in TOPOLOGY.streams)
    bus = await JetStreamBus.connect(fresh_nats_url, name="test", topology=replace(TOPOLOGY, streams=streams))
    checkpoint = MemoryCheckpoint()
    with pytest.raises(CrashError):
        await Relay(log, bus, CrashingCheckpoint(checkpoint)).step()
    await asyncio.sleep(window_s * 3)
    await store(log, "slide-s-2", slide("s-2"))
    assert await Relay(log, bus, checkpoint).step() == 5
    messages = await stream(fresh_nats_url, "events.>", 9)
    seen: list[tuple[int, int]] = []
    for message in messages:
        cursor = CloudEvent.from_headers(message.headers or {}).cursor
        assert cursor is not None
        if not seen or cursor > seen[-1]:
            seen.append(cursor)
    assert seen == [(event.cursor.xid, event.cursor.position) for event in await log.read_all()]
    await bus.close()
