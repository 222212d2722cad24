"""The laws of tailing a log, each under a name, for every implementation.

What single appends and reads promise is in `test_event_log`; here many write at once, transactions stay open, readers
stop and go on anywhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from microtome.contracts.messages import JobStarted
from microtome.errors import ConcurrencyConflict, Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Append, Cursor, EventLog, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.postgres import PostgresEventLog
from tests.integration.eventlog.facts import fact, store

WRITERS = 16
EACH = 12
STUCK = "stuck"


class Dawdle:
    """A projection that keeps appends open for a while, and those to the stream `stuck` until they are let go."""

    def __init__(self) -> None:
        self._chance = random.Random(7)
        self.let_go = asyncio.Event()
        self.reached = asyncio.Event()

    async def apply(self, connection: Any, event: StoredEvent) -> None:
        if event.stream == STUCK:
            self.reached.set()
            await self.let_go.wait()
        elif self._chance.random() < 0.4:
            await asyncio.sleep(self._chance.random() * 0.01)


@dataclass
class Store:
    """A log, and how to take part in it: early transaction ids exist in Postgres only."""

    log: EventLog
    dawdle: Dawdle
    database: Database | None
    written: list[UUID] = field(default_factory=list)

    async def write(self, seed: int) -> None:
        """Append to few streams, so that writers meet; now and then after a transaction of the same task began."""
        chance = random.Random(seed)
        written = 0
        while written < EACH:
            stream = f"s{chance.randrange(6)}"
            version = len(await self.log.read_stream(stream))
            event = fact(JobStarted(job_id=str(seed), attempt=written + 1))
            try:
                if self.database is not None and chance.random() < 0.3:
                    await self._append_early(self.database, Append(stream, version, (event,)), chance)
                else:
                    await self.log.append(Append(stream, version, (event,)))
            except ConcurrencyConflict:
                await asyncio.sleep(chance.random() * 0.01)
            else:
                self.written.append(event.event_id)
                written += 1

    @staticmethod
    async def _append_early(database: Database, append: Append, chance: random.Random) -> None:
        """Take the transaction id first, sleep, then append: a later writer overtakes this one."""
        async with database.transaction("repeatable_read") as connection:
            await connection.fetchval("select pg_current_xact_id()")
            await asyncio.sleep(chance.random() * 0.01)
            await connection.execute(
                "insert into events (stream, version, event_id, tenant, type, schema_version, data) "
                "values ($1, $2, $3, 'ada', 'JobStarted', 1, '{}')",
                append.stream,
                append.expected_version + 1,
                append.events[0].event_id,
            )


@pytest.fixture(params=["memory", "postgres"])
async def store_of(request: pytest.FixtureRequest, database_url: str) -> AsyncIterator[Store]:
    dawdle = Dawdle()
    if request.param == "memory":
        yield Store(MemoryEventLog([dawdle]), dawdle, None)
        return
    async with (
        await Database.connect(database_url, connections=20) as database,
        PostgresEventLog(database, [dawdle]) as log,
    ):
        yield Store(log, dawdle, database)


async def tail(log: EventLog, done: asyncio.Event, limit: int = 23) -> list[StoredEvent]:
    """Read on from the last cursor until all is written and read."""
    seen: list[StoredEvent] = []
    cursor = START
    while True:
        last_round = done.is_set()
        if not last_round:
            await log.wait(0.02)
        while page := await log.read_all(cursor, limit):
            seen += page
            cursor = page[-1].cursor
        if last_round:
            return seen


async def busy_history(store_of: Store) -> list[StoredEvent]:
    done = asyncio.Event()
    tailing = asyncio.create_task(tail(store_of.log, done))
    await asyncio.gather(*[store_of.write(seed) for seed in range(WRITERS)])
    done.set()
    return await tailing


async def a_tail_has_no_gaps_and_no_repeats(store_of: Store) -> None:
    """16 writers, early transaction ids, transactions that sleep: a reader meanwhile saw each event once."""
    seen = [event.event_id for event in await busy_history(store_of)]
    assert sorted(seen) == sorted(store_of.written)
    assert len(set(seen)) == WRITERS * EACH


async def a_tail_shows_each_stream_in_the_order_of_its_versions(store_of: Store) -> None:
    last: dict[str, int] = {}
    for event in await busy_history(store_of):
        assert event.version == last.get(event.stream, 0) + 1
        last[event.stream] = event.version
    for stream, version in last.items():
        assert [event.version for event in await store_of.log.read_stream(stream)] == list(range(1, version + 1))


async def reading_again_gives_the_order_that_a_tail_saw(store_of: Store) -> None:
    """Whoever was there and whoever comes later fold the same history."""
    assert await busy_history(store_of) == list(await store_of.log.read_all(limit=10_000))


async def a_reader_resumes_from_any_cursor(store_of: Store) -> None:
    await asyncio.gather(*[store_of.write(seed) for seed in range(4)])
    whole = await store_of.log.read_all(limit=10_000)
    for place, event in enumerate(whole):
        assert await store_of.log.read_all(event.cursor, limit=3) == whole[place + 1 : place + 4]
        assert await store_of.log.count(event.cursor) == len(whole) - place - 1
    # Also from one between events, and from beyond the end.
    between = Cursor(whole[9].cursor.xid, whole[9].cursor.position + 1)
    assert await store_of.log.read_all(between, limit=10_000) == tuple(e for e in whole if e.cursor > between)
    assert await store_of.log.read_all(Cursor(2**63, 0)) == ()


async def a_reader_that_stops_and_goes_on_misses_nothing(store_of: Store) -> None:
    """Ten rounds of: append, read some, forget everything but the cursor."""
    cursor, seen = START, 0
    for number in range(10):
        await store(store_of.log, f"t{number}", JobStarted(job_id="a", attempt=1), JobStarted(job_id="b", attempt=1))
        page = await store_of.log.read_all(cursor, limit=1 + number % 3)
        cursor, seen = page[-1].cursor, seen + len(page)
    seen += len(await store_of.log.read_all(cursor))
    assert seen == 20


async def one_stuck_writer_only_delays(store_of: Store) -> None:
    """While it is open readers see nothing from behind it; afterwards everything, once, in order."""
    await store(store_of.log, "before", JobStarted(job_id="a", attempt=1))
    stuck = asyncio.create_task(store(store_of.log, STUCK, JobStarted(job_id="b", attempt=1)))
    await store_of.dawdle.reached.wait()
    others = [
        asyncio.create_task(store(store_of.log, f"after{n}", JobStarted(job_id="c", attempt=1))) for n in range(5)
    ]
    await asyncio.sleep(0.3)
    assert [event.stream for event in await store_of.log.read_all()] == ["before"]
    if isinstance(store_of.log, PostgresEventLog):
        # The others are through: acknowledged and stored, only not yet shown. And somebody is told.
        assert all(other.done() for other in others)
        assert await store_of.log.oldest_writer() >= 0.3
        assert await store_of.log.lag() >= 0.0
    store_of.dawdle.let_go.set()
    await asyncio.gather(stuck, *others)
    seen = await store_of.log.read_all()
    assert seen[0].stream == "before"
    assert sorted(event.stream for event in seen) == sorted(["before", STUCK, *(f"after{n}" for n in range(5))])
    if isinstance(store_of.log, PostgresEventLog):
        assert await store_of.log.oldest_writer() < 0.3


LAWS: list[Callable[[Store], Awaitable[None]]] = [
    a_tail_has_no_gaps_and_no_repeats,
    a_tail_shows_each_stream_in_the_order_of_its_versions,
    reading_again_gives_the_order_that_a_tail_saw,
    a_reader_resumes_from_any_cursor,
    a_reader_that_stops_and_goes_on_misses_nothing,
    one_stuck_writer_only_delays,
]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__.replace("_", "-"))
async def test_law(law: Callable[[Store], Awaitable[None]], store_of: Store) -> None:
    await law(store_of)


async def test_the_server_ends_a_writer_that_hangs_and_readers_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microtome.eventlog.database.IDLE_IN_TRANSACTION_SECONDS", 1)
    dawdle = Dawdle()
    async with await Database.connect(database_url) as database:
        log = PostgresEventLog(database, [dawdle])
        stuck = asyncio.create_task(store(log, STUCK, JobStarted(job_id="b", attempt=1)))
        await dawdle.reached.wait()
        (later,) = await store(log, "after", JobStarted(job_id="c", attempt=1))
        assert await log.read_all() == ()
        async with asyncio.timeout(20):
            while await log.read_all() != (later,):
                await asyncio.sleep(0.1)
        assert await log.oldest_writer() < 1.0
        dawdle.let_go.set()
        with pytest.raises(Unavailable):
            await stuck
        # It was told that nothing is certain; nothing was stored, and trying again works.
        assert await log.read_stream(STUCK) == ()


async def test_the_age_of_a_prepared_or_foreign_writer_counts_too(database_url: str, postgres_url: str) -> None:
    """A transaction in another database of the cluster holds readers back as well, so it has to be told of."""
    async with (
        await Database.connect(database_url) as database,
        await Database.connect(postgres_url, connections=1) as other,
        other.transaction() as connection,
    ):
        await connection.fetchval("select pg_current_xact_id()")
        await asyncio.sleep(0.2)
        assert await PostgresEventLog(database).oldest_writer() >= 0.2
