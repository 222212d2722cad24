"""What runs in the background goes on after an error that nobody foresaw, and ends when it is told to."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from microtome import process
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.memory import MemoryBus
from microtome.bus.ordered import OrderedReader
from microtome.bus.topology import PLAN
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobProgress, SeatGranted, ServiceAlive, TilesInferred
from microtome.domain.limits import Limits
from microtome.eventlog.database import Database
from microtome.eventlog.database import Listener as LogListener
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from services.gateway import hub as hubs
from services.gateway import places, sweeping
from services.gateway.attendance import Attendance
from services.gateway.facts import Fact, Facts, Interest
from services.gateway.hub import Hub, Listener
from services.gateway.places import Places
from services.gateway.snapshots import Snapshot, Snapshots
from services.gateway.teller import Teller
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
    monkeypatch.setattr(LogListener, "_listen", stumbling(LogListener._listen))
    listener = LogListener(database_url, "channel")
    listener.start()
    assert await listener.beyond(0, 10) == 1
    await listener.stop()


@pytest.fixture
async def bus() -> AsyncIterator[MemoryBus]:
    bus = MemoryBus()
    yield bus
    await bus.close()


@pytest.fixture
async def hub(bus: MemoryBus, database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A hub that listens on a real log, and forgives itself soon."""
    monkeypatch.setattr(hubs, "_RECONNECT_S", 0.01)

    async def wait(seconds: float) -> bool:
        await asyncio.sleep(min(seconds, 0.01))
        return False

    await migrate(database_url)
    async with await Database.connect(database_url) as database:
        hub = Hub(bus, Facts(database), wait, 10)
        await hub.start()
        yield hub
        await hub.stop()


async def test_the_hub_reads_on_after_an_error(hub: Hub, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub.facts, "page", stumbling(hub.facts.page))
    listener = Listener(Interest("ada"))
    hub.join(listener)
    async with await Database.connect(database_url) as database:
        await store(PostgresEventLog(database, []), "seats", SeatGranted(user_id="ada", seat=0))
    await until(lambda: listener.due is not None)
    facts = hub.due(listener)
    assert facts is not None
    assert [b"SeatGranted" in fact.message for fact in facts] == [True]


async def test_the_hub_deals_out_after_a_message_that_it_could_not(
    hub: Hub, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener = Listener(Interest("ada"))
    hub.join(listener)
    real, failures = listener.note_progress, iter((RuntimeError("unforeseen"),))

    def note(progress: JobProgress) -> None:
        for failure in failures:
            raise failure
        real(progress)

    monkeypatch.setattr(listener, "note_progress", note)
    await until(lambda: len(bus._subscriptions) == 1)
    for job in ("j1", "j2"):
        await bus.announce(f"progress.ada.w.{job}", to_bytes(JobProgress(job_id=job, workflow_id="w", attempt=1)))
    await until(lambda: listener.has_progress)
    assert [progress.job_id for progress in listener.take_progress()] == ["j2"]


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


class Swept:
    """What is swept after the slides."""

    times = 0

    async def sweep(self) -> None:
        self.times += 1


async def test_half_stored_slides_are_looked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeping, "SWEEP_EVERY_S", 0.01)
    uploads = UploadStore(tmp_path, 1000)
    uploads.open()
    swept = Swept()
    sweeper = sweeping.Sweeper(uploads, MemoryEventLog(), swept, swept)  # type: ignore[arg-type]
    monkeypatch.setattr(sweeper, "sweep", stumbling(sweeper.sweep))
    sweeper.start()
    await until(lambda: swept.times >= 2)
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
        "work.infer.0123456789ab.auto",
        "job",
        1,
        handling="job:1:x",
        share=lambda: 2,
        batch_size=2,
        stalled_s=1.0,
        progress=lambda _done, _cells: None,
    )
    news = asyncio.Event()
    async with await bus.listen("tiles.job.1") as announced, asyncio.timeout(10):
        hearing = asyncio.create_task(feeder._hear(announced, news))
        await bus.announce("tiles.job.1", b"\xff")
        await bus.announce("tiles.job.1", to_bytes(TilesInferred(job_id="job", attempt=1, engine_note="chosen")))
        await news.wait()
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
    assert feeder.notes == ["chosen"]


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


class Told:
    """The far end of a live view."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    async def fact(self, message: bytes, _position: Cursor) -> None:
        self.messages.append(message)

    async def snapshot(self, message: bytes, _position: Cursor) -> None:
        self.messages.append(message)

    async def progress(self, message: bytes) -> None:
        self.messages.append(message)

    async def heartbeat(self) -> bool:
        return True


class Shown(Snapshots):
    """Snapshots of nothing in particular."""

    def __init__(self) -> None:
        pass

    async def first(self, interest: Interest) -> Snapshot:
        return Snapshot(interest.user_id, b"{}", START, False)

    renewed = first


async def test_a_teller_hears_its_cancellation_whenever_it_comes(hub: Hub) -> None:
    for steps in range(8):
        listener, voice = Listener(Interest("ada")), Told()
        hub.join(listener)
        task = asyncio.create_task(Teller(hub, Shown(), listener, voice, None, lambda _seconds: None).run())
        await until(lambda voice=voice: len(voice.messages) == 1)  # type: ignore[misc]
        await asyncio.sleep(0.01)
        listener.note_progress(JobProgress(job_id="j", workflow_id="w", attempt=1))
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


async def test_facts_do_not_wait_for_their_clients_next_snapshot(hub: Hub) -> None:
    asked, made = asyncio.Event(), asyncio.Event()

    class Slow(Shown):
        async def renewed(self, interest: Interest) -> Snapshot:
            asked.set()
            await made.wait()
            return await self.first(interest)

    def deal(number: int) -> None:
        cursor = Cursor(number, number)
        hub._deal([("user", "ada")], Fact(cursor, "ada", None, None, datetime.now(UTC), b"fact %d" % number))

    listener, voice = Listener(Interest("ada")), Told()
    hub.join(listener)
    task = asyncio.create_task(Teller(hub, Slow(), listener, voice, None, lambda _seconds: None).run())
    await until(lambda: len(voice.messages) == 1)
    deal(1)
    async with asyncio.timeout(10):
        await asked.wait()
    deal(2)
    await until(lambda: voice.messages[1:] == [b"fact 1", b"fact 2"])
    made.set()
    await until(lambda: len(voice.messages) >= 4 or listener.stale)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


async def test_what_was_noted_while_a_wait_was_cancelled_is_still_there() -> None:
    listener = Listener(Interest("ada"))
    task = asyncio.create_task(listener.wait())
    await asyncio.sleep(0)
    listener.note_fact(3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with asyncio.timeout(10):
        await listener.wait()
    assert (listener.due, listener.stale) == (3, True)
