"""What runs in the background goes on after an error that nobody foresaw, and ends when it is told to."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from microtome import process
from microtome.bus.headers import CloudEvent
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.memory import MemoryBus
from microtome.bus.ordered import OrderedReader
from microtome.bus.topology import PLAN
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobCancelled, SeatGranted, ServiceAlive, TilesInferred
from microtome.domain.limits import Limits
from microtome.eventlog.database import Listener
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from services.gateway import hub as hubs
from services.gateway import live, places, sweeping
from services.gateway.attendance import Attendance
from services.gateway.hub import Hub, Json, Outbox
from services.gateway.places import Places
from services.gateway.uploads import UploadStore
from services.tiler.feeding import Feeder
from tests.integration.eventlog.facts import store


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


def stumbling(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Fails the first time as no code foresees, and is `real` from then on."""
    failures = iter((RuntimeError("unforeseen"),))

    async def once(*arguments: Any, **named: Any) -> Any:
        for failure in failures:
            raise failure
        return await real(*arguments, **named)

    return once


async def test_a_heartbeat_that_goes_wrong_is_not_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = MemoryBus()
    spec = dataclasses.replace(PLAN, ack_wait_s=0.6)
    queue = await bus.queue(spec)
    await bus.publish(spec.subject, b"work", message_id="1")
    (held,) = await queue.fetch(1)
    kind: Any = type(held.in_flight)
    monkeypatch.setattr(kind, "in_progress", stumbling(kind.in_progress))
    other = await bus.queue(spec)
    # Half of the wait is lost with the first heartbeat, so the second is just in time.
    await asyncio.sleep(spec.ack_wait_s * 2)
    assert not queue._heartbeats.done()
    await held.ack()
    assert await other.fetch(1, 0.1) == []
    await bus.close()


async def test_a_reader_goes_on_where_it_was(fresh_nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = await JetStreamBus.connect(fresh_nats_url, name="test")
    monkeypatch.setattr(OrderedReader, "_read_batch", stumbling(OrderedReader._read_batch))
    async with await bus.subscribe_events("events.>") as events, asyncio.timeout(10):
        for number in range(3):
            await bus.publish(f"events.u.workflow.w.{number}", b"", message_id=f"{number}")
        assert [(await anext(events)).subject[-1] for _ in range(3)] == ["0", "1", "2"]
    await bus.close()


async def test_the_wake_ups_of_the_log_go_on(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Listener, "_listen", stumbling(Listener._listen))
    listener = Listener(database_url, "channel")
    listener.start()
    assert await listener.beyond(0, 10) == 1
    await listener.stop()


class Fragile(Outbox):
    """Breaks at its first event."""

    def add_event(self, event: Json) -> None:
        if not self.overflowed:
            self.overflowed = True
            raise RuntimeError("unforeseen")
        super().add_event(event)


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus()
    yield bus
    await bus.close()


async def test_the_hub_deals_out_after_a_message_that_it_could_not(bus: MemoryBus) -> None:
    async def versions(workflows: Iterable[str]) -> Mapping[str, int]:
        return {}

    async def tell(number: int) -> None:
        message = JobCancelled(job_id=f"j{number}")
        headers = CloudEvent(
            id=f"{number}", type="t", source="s", subject="workflow-w", time=(await _event()).at
        ).to_headers()
        await bus.publish(
            "events.ada.workflow.w.JobCancelled", to_bytes(message), message_id=f"{number}", headers=headers
        )

    hub = Hub(bus, versions)
    outbox = Fragile("w", None)
    hub.start()
    hub.join(outbox)
    await until(lambda: len(bus._subscriptions) == 2)
    await tell(1)
    await until(lambda: outbox.overflowed)
    await tell(2)
    await until(lambda: len(outbox._events) == 1)
    assert outbox._events[0]["job_id"] == "j2"
    await hub.stop()


async def _event() -> StoredEvent:
    (event,) = await store(MemoryEventLog(), "seats", SeatGranted(user_id="ada", seat=0))
    return event


async def test_the_hub_compares_versions_after_it_could_not(bus: MemoryBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "POLL_S", 0.01)

    async def versions(workflows: Iterable[str]) -> Mapping[str, int]:
        return dict.fromkeys(workflows, 7)

    hub = Hub(bus, stumbling(versions))
    hub.start()
    await until(lambda: len(bus._subscriptions) == 2)
    outbox = Outbox("w", None)
    await outbox.take()
    hub.join(outbox)
    async with asyncio.timeout(10):
        assert await outbox.take() == ([], True, [])
    await hub.stop()


async def test_attendance_is_taken_after_a_message_that_could_not_be_noted(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    attendance = Attendance(bus)
    real, failures = attendance.note, iter((RuntimeError("unforeseen"),))

    def note(alive: ServiceAlive) -> None:
        for failure in failures:
            raise failure
        real(alive)

    monkeypatch.setattr(attendance, "note", note)
    attendance.start()
    await until(lambda: len(bus._subscriptions) == 1)
    for owner in ("first", "second"):
        await bus.announce("service.tiler", to_bytes(ServiceAlive(name="tiler", owner=owner)))
    await until(lambda: "ok" in {seen.state for seen in attendance.services()})
    await attendance.stop()


async def test_half_stored_slides_are_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SWEEP_EVERY_S", 0.01)
    uploads = UploadStore(tmp_path, 1000)
    uploads.open()
    sweeper = sweeping.Sweeper(uploads, MemoryEventLog())
    swept = asyncio.Event()

    async def sweep() -> None:
        swept.set()

    monkeypatch.setattr(sweeper, "sweep", stumbling(sweep))
    sweeper.start()
    async with asyncio.timeout(10):
        await swept.wait()
    await sweeper.stop()


async def test_a_process_says_that_it_is_alive_after_it_could_not(
    bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "ALIVE_EVERY_S", 0.01)
    monkeypatch.setattr(bus, "announce", stumbling(bus.announce))
    async with await bus.listen("service.tiler") as heard, asyncio.timeout(10):
        saying = asyncio.create_task(process._say_alive(bus, "tiler", "me"))
        assert (await anext(heard)).subject == "service.tiler"
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)


async def test_the_tiler_listens_on_after_an_announcement_that_makes_no_sense(bus: MemoryBus) -> None:
    feeder = Feeder(
        bus,
        "work.infer.0123456789ab",
        "job",
        1,
        handling="job:1:x",
        credit=2,
        batch_size=2,
        stalled_s=1.0,
        progress=lambda _done, _cells: None,
    )
    news = asyncio.Event()
    async with await bus.listen("tiles.job.1") as announced, asyncio.timeout(10):
        hearing = asyncio.create_task(feeder._hear(announced, news))
        await bus.announce("tiles.job.1", b"\xff")
        await bus.announce("tiles.job.1", to_bytes(TilesInferred(job_id="job", attempt=1, engine="the engine")))
        await news.wait()
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
    assert feeder.engine == "the engine"


class Flaky(MemoryEventLog):
    """A log whose first page cannot be read, for no known reason."""

    failed = False

    async def read_all(self, after: Cursor = START, limit: int = 1000) -> tuple[StoredEvent, ...]:
        if not self.failed:
            self.failed = True
            raise RuntimeError("unforeseen")
        return await super().read_all(after, limit)


async def test_places_follow_and_announce_after_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_WAIT_S", 0.01)
    monkeypatch.setattr(places, "_QUIET_S", 0.01)
    announced = 0

    def changed() -> None:
        nonlocal announced
        announced += 1
        if announced == 1:
            raise RuntimeError("unforeseen")

    log = Flaky()
    following = Places(log, Limits(), changed)
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    following.start()
    await until(lambda: announced == 1)
    assert set(following.cluster.seats) == {"ada"}
    await store(log, "seats", SeatGranted(user_id="bob", seat=1))
    await until(lambda: announced == 2)
    assert set(following.cluster.seats) == {"ada", "bob"}
    await following.stop()


class Wire:
    """The far end of a websocket."""

    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send_text(self, text: str) -> None:
        self.sent.append(text)

    async def close(self, code: int, reason: str) -> None:
        pass


class View(BaseModel):
    name: str = "w"


async def _snapshot() -> tuple[str, BaseModel, int]:
    return "workflow", View(), 1


@pytest.mark.parametrize("steps", range(8))
async def test_a_teller_hears_its_cancellation_whenever_it_comes(steps: int) -> None:
    outbox, wire = Outbox(f"{uuid.uuid4()}", None), Wire()
    task = asyncio.create_task(live._Teller(wire, outbox, _snapshot).run())  # type: ignore[arg-type]
    await until(lambda: len(wire.sent) == 1)
    await asyncio.sleep(0.01)
    outbox.add_event({"kind": "event", "job_id": None})
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.5)
    if not done:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    assert done, "the cancellation was swallowed"
    assert task.cancelled()


async def test_what_a_cancelled_take_did_not_return_is_still_there() -> None:
    outbox = Outbox("w", None)
    await outbox.take()
    task = asyncio.create_task(outbox.take())
    await asyncio.sleep(0)
    outbox.add_event({"kind": "event", "job_id": None})
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    events, stale, _ = await outbox.take()
    assert (len(events), stale) == (1, True)
