"""The laws of an event log; every implementation must keep them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import pytest

from microtome.contracts.messages import JobCancelled, JobRetried, JobStarted, SlideRegistered
from microtome.errors import ConcurrencyConflict, Conflict, InvalidRequest
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Append, Cursor, EventLog, NewEvent, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.postgres import PostgresEventLog
from tests.integration.eventlog.facts import fact, slide, store


class Recorder:
    """A projection that remembers and can refuse."""

    def __init__(self) -> None:
        self.seen: list[StoredEvent] = []
        self.settled: list[tuple[StoredEvent, ...]] = []
        self.refuse: type | None = None

    async def apply(self, connection: Any, event: StoredEvent) -> None:
        if type(event.message) is self.refuse:
            raise Conflict("this projection refuses")
        self.seen.append(event)

    async def settle(self, connection: Any, events: Sequence[StoredEvent]) -> None:
        self.settled.append(tuple(events))


Opened = tuple[EventLog, Recorder]


@pytest.fixture(params=["memory", "postgres"])
async def opened(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Opened]:
    recorder = Recorder()
    if request.param == "memory":
        yield MemoryEventLog([recorder]), recorder
        return
    async with await Database.connect(database_url) as database, PostgresEventLog(database, [recorder]) as log:
        yield log, recorder


@pytest.fixture
def log(opened: Opened) -> EventLog:
    return opened[0]


@pytest.fixture
def recorder(opened: Opened) -> Recorder:
    return opened[1]


def started(job: str, attempt: int = 1) -> JobStarted:
    return JobStarted(job_id=job, attempt=attempt, slot=0)


async def test_an_event_comes_back_as_it_was_stored(log: EventLog) -> None:
    new = fact(slide(), tenant="ada", traceparent="00-1-2-01")
    (stored,) = await log.append(Append("slide-1", 0, (new,)))
    assert (stored.event_id, stored.message, stored.tenant) == (new.event_id, new.message, "ada")
    assert stored.meta == {"traceparent": "00-1-2-01"}
    assert (stored.stream, stored.version) == ("slide-1", 1)
    assert stored.at.utcoffset() is not None
    assert await log.read_stream("slide-1") == (stored,)
    assert await log.read_all() == (stored,)


async def test_what_lies_after_a_cursor_is_counted_up_to_a_limit(log: EventLog) -> None:
    assert await log.count() == 0
    stored = await store(log, "a", *[started(f"j{n}") for n in range(5)])
    assert await log.count() == 5
    assert await log.count(stored[1].cursor) == 3
    assert await log.count(stored[1].cursor, limit=2) == 2
    assert await log.count(stored[-1].cursor) == 0


async def test_versions_count_from_one_without_gaps_and_in_order(log: EventLog) -> None:
    first = await store(log, "a", *[started(f"j{n}") for n in range(40)])
    second = await store(log, "a", started("last"))
    assert [event.version for event in first + second] == list(range(1, 42))
    assert [event.cursor for event in first + second] == sorted(event.cursor for event in first + second)
    assert [event.message.job_id for event in await log.read_stream("a", 38)] == ["j38", "j39", "last"]
    assert await log.read_stream("a", 41) == ()
    assert await log.read_stream("unknown") == ()


@pytest.mark.parametrize("expected", [0, 1, 3])
async def test_a_wrong_expected_version_is_a_conflict_and_stores_nothing(log: EventLog, expected: int) -> None:
    await store(log, "a", started("x"), started("y"))
    with pytest.raises(ConcurrencyConflict):
        await log.append(Append("a", expected, (fact(started("z")),)))
    assert len(await log.read_all()) == 2


async def test_several_streams_are_stored_together_or_not_at_all(log: EventLog, recorder: Recorder) -> None:
    await store(log, "b", started("x"))
    with pytest.raises(ConcurrencyConflict):
        await log.append(Append("a", 0, (fact(started("1")),)), Append("b", 0, (fact(started("2")),)))
    assert await log.read_stream("a") == ()
    stored = await log.append(
        Append("a", 0, (fact(started("1")), fact(started("2")))), Append("b", 1, (fact(started("3")),))
    )
    assert [(event.stream, event.version) for event in stored] == [("a", 1), ("a", 2), ("b", 2)]
    assert await log.read_all() == tuple(recorder.seen)


async def test_a_projection_settles_once_per_append_when_all_is_applied(log: EventLog, recorder: Recorder) -> None:
    new = Append("a", 0, (fact(started("1")), fact(started("2")))), Append("b", 0, (fact(started("3")),))
    stored = await log.append(*new)
    await log.append(*new)
    assert recorder.settled == [stored]


async def test_a_projection_that_refuses_undoes_the_append(log: EventLog, recorder: Recorder) -> None:
    recorder.refuse = JobCancelled
    with pytest.raises(Conflict, match="refuses"):
        await log.append(Append("a", 0, (fact(started("x")), fact(JobCancelled(job_id="x")))))
    assert await log.read_all() == ()
    (stored,) = await store(log, "a", JobRetried(job_id="x"))
    assert stored.version == 1


async def test_appending_again_returns_what_is_stored(log: EventLog, recorder: Recorder) -> None:
    append = Append("a", 0, (fact(started("x")), fact(started("y"))))
    other = Append("b", 0, (fact(started("z")),))
    stored = await log.append(append, other)
    await store(log, "a", started("later"))
    assert await log.append(append, other) == stored
    assert await log.append(Append("a", 77, append.events)) == stored[:2]
    assert len(await log.read_all()) == len(recorder.seen) == 4


async def test_event_ids_of_other_facts_are_refused(log: EventLog) -> None:
    known = fact(started("x"))
    await log.append(Append("a", 0, (known,)))
    for appends in (
        [Append("a", 0, (known, fact(started("y"))))],
        [Append("b", 0, (known,))],
        [Append("a", 1, (NewEvent(event_id=known.event_id, message=JobCancelled(job_id="x"), tenant="ada"),))],
    ):
        with pytest.raises(Conflict):
            await log.append(*appends)
    assert len(await log.read_all()) == 1


async def test_what_no_log_could_store_is_refused(log: EventLog) -> None:
    event = fact(started("x"))
    for appends in (
        [],
        [Append("a", 0, ())],
        [Append("a", 0, (event, event))],
        [Append("a", 0, (fact(started("x")),)), Append("a", 1, (fact(started("y")),))],
        [Append("a", -1, (event,))],
        [Append("", 0, (event,))],
    ):
        with pytest.raises(InvalidRequest):
            await log.append(*appends)


async def test_paging_shows_every_event_once(log: EventLog) -> None:
    for number in range(7):
        await log.append(
            Append(f"s{number}", 0, (fact(started("x")), fact(started("y")))),
            Append(f"t{number}", 0, (fact(started("z")),)),
        )
    seen: list[StoredEvent] = []
    cursor = START
    while page := await log.read_all(cursor, limit=4):
        assert len(page) <= 4
        seen += page
        cursor = page[-1].cursor
    assert tuple(seen) == await log.read_all()
    assert len({event.event_id for event in seen}) == 21
    assert await log.read_all(cursor) == ()
    (new,) = await store(log, "new", started("x"))
    assert await log.read_all(cursor) == (new,)


async def test_of_many_writers_of_one_version_exactly_one_wins(log: EventLog) -> None:
    async def write(number: int) -> UUID | None:
        event = fact(started(f"j{number}"))
        try:
            await log.append(Append("a", 0, (event,)))
        except ConcurrencyConflict:
            return None
        return event.event_id

    winners = [won for won in await asyncio.gather(*[write(n) for n in range(12)]) if won]
    assert [event.event_id for event in await log.read_all()] == winners
    assert len(winners) == 1


async def test_the_same_append_at_the_same_time_succeeds_everywhere(log: EventLog) -> None:
    append = Append("a", 0, (fact(started("x")),))
    results = await asyncio.gather(*[log.append(append) for _ in range(12)])
    assert all(result == results[0] for result in results)
    assert len(await log.read_all()) == 1


async def test_wait_wakes_on_an_append_and_times_out_without_one(log: EventLog) -> None:
    await log.wait(2.0)  # the first wait may return at once
    assert not await log.wait(0.15)
    waiting = asyncio.create_task(_drained_wait(log))
    await asyncio.sleep(0.1)
    begun = time.monotonic()
    await store(log, "a", started("x"))
    assert await waiting
    assert time.monotonic() - begun < 2.0


async def _drained_wait(log: EventLog) -> bool:
    while await log.wait(0.02):
        pass
    return await log.wait(5.0)


async def test_an_append_between_reading_and_waiting_is_not_slept_through(log: EventLog) -> None:
    while await log.wait(0.1):
        pass
    await store(log, "a", started("x"))
    await asyncio.sleep(0.2)  # the wake-up has long passed when the waiting begins
    begun = time.monotonic()
    assert await log.wait(5.0)
    assert time.monotonic() - begun < 1.0


async def test_a_big_integer_and_text_in_any_script_survive(log: EventLog) -> None:
    message = SlideRegistered(slide_id="s", size_bytes=2**62, filename="präparat 切片 'x\" \\ 🔬.svs")
    (stored,) = await store(log, "slide-s", message)
    assert (await log.read_stream("slide-s"))[0].message == message == stored.message


def test_a_cursor_reads_what_it_writes() -> None:
    assert Cursor.parse(str(Cursor(12, 34))) == Cursor(12, 34)
    assert Cursor(1, 99) < Cursor(2, 1)
    for text in ("", "1", "1:", ":1", "-1:2", "1:2:3", "a:b", "1_0:1", "²:1", f"{2**64}:1"):
        with pytest.raises(InvalidRequest):
            Cursor.parse(text)
