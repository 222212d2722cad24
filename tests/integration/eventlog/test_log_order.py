"""Concurrent writers against a tailing reader: the law that costs silence when it is broken."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from microtome.contracts.messages import JobStarted, SeatGranted
from microtome.errors import ConcurrencyConflict
from microtome.eventlog.database import Connection, Database
from microtome.eventlog.log import START, Append, Cursor, NewEvent, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog

WRITERS = 16
EACH = 25


class Dawdle:
    """A projection that keeps transactions open for a random time after they wrote."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    async def apply(self, connection: Connection, event: StoredEvent) -> None:
        if self._random.random() < 0.5:
            await asyncio.sleep(self._random.random() * 0.02)


@dataclass
class Tail:
    """Two readers of one history: ours, and one that remembers the position only."""

    proper: list[StoredEvent]
    naive: list[int]


async def _tail(log: PostgresEventLog, database: Database, done: asyncio.Event) -> Tail:
    tail = Tail([], [])
    cursor, position = START, 0
    while True:
        last_round = done.is_set()
        if not last_round:
            await log.wait(0.02)
        while page := await log.read_all(cursor, limit=37):
            tail.proper += page
            cursor = page[-1].cursor
        async with database.connection() as connection:
            rows = await connection.fetch("select position from events where position > $1 order by position", position)
        tail.naive += [row["position"] for row in rows]
        position = tail.naive[-1] if tail.naive else 0
        if last_round:
            return tail


async def _write(log: PostgresEventLog, seed: int) -> list[UUID]:
    chance = random.Random(seed)
    written: list[UUID] = []
    while len(written) < EACH:
        # Few streams, so that writers meet; the last digit keeps them apart enough to make progress.
        stream = f"s{chance.randrange(8)}"
        version = len(await log.read_stream(stream))
        event = NewEvent(event_id=uuid4(), message=JobStarted(job_id=f"{seed}", attempt=1), tenant="ada")
        try:
            await log.append(Append(stream, version, (event,)))
        except ConcurrencyConflict:
            await asyncio.sleep(chance.random() * 0.01)
        else:
            written.append(event.event_id)
    return written


def inversions(events: list[StoredEvent]) -> int:
    last: dict[str, int] = {}
    count = 0
    for event in events:
        count += event.version != last.get(event.stream, 0) + 1
        last[event.stream] = event.version
    return count


async def _history(database: Database, log: PostgresEventLog) -> tuple[list[UUID], Tail]:
    done = asyncio.Event()
    tailing = asyncio.create_task(_tail(log, database, done))
    written = [event for part in await asyncio.gather(*[_write(log, n) for n in range(WRITERS)]) for event in part]
    done.set()
    return written, await tailing


async def test_no_event_is_missed_or_seen_twice_and_no_stream_runs_backwards(database: Database) -> None:
    async with PostgresEventLog(database, [Dawdle(1)]) as log:
        written, tail = await _history(database, log)
    seen = [event.event_id for event in tail.proper]
    assert sorted(seen) == sorted(written)
    assert len(seen) == WRITERS * EACH
    assert inversions(tail.proper) == 0
    # The negative control: on this very history a cursor of positions only lost events in silence.
    missed = WRITERS * EACH - len(tail.naive)
    assert missed > 0, "the history was too tame to prove anything"


async def _append_with_early_xid(database: Database, isolation: Any, stream: str, chance: random.Random) -> None:
    """Append by hand; the transaction often has its xid long before it reads the stream's version."""
    async with database.connection() as connection, connection.transaction(isolation=isolation):
        if chance.random() < 0.5:
            await connection.fetchval("select pg_current_xact_id()")
            await asyncio.sleep(chance.random() * 0.01)
        version = await connection.fetchval("select coalesce(max(version), 0) from events where stream = $1", stream)
        await asyncio.sleep(chance.random() * 0.002)
        await connection.execute(
            "insert into events (stream, version, event_id, tenant, type, schema_version, data) "
            "values ($1, $2, gen_random_uuid(), 'ada', 'JobStarted', 1, '{}')",
            stream,
            version + 1,
        )


async def _inversions_with_early_xids(database: Database, isolation: str) -> int:
    async def write(seed: int) -> None:
        chance = random.Random(seed)
        written = 0
        while written < 20:
            try:
                await _append_with_early_xid(database, isolation, f"s{chance.randrange(4)}", chance)
                written += 1
            except ConcurrencyConflict:
                continue

    await asyncio.gather(*[write(n) for n in range(WRITERS)])
    return inversions(list(await PostgresEventLog(database).read_all(Cursor(), limit=10_000)))


async def test_repeatable_read_keeps_streams_in_order_even_when_xids_are_taken_early(database: Database) -> None:
    assert await _inversions_with_early_xids(database, "repeatable_read") == 0


async def test_the_same_under_read_committed_would_invert_streams(database: Database) -> None:
    """The negative control of the test above: why appends are not READ COMMITTED."""
    assert await _inversions_with_early_xids(database, "read_committed") > 0


async def test_an_open_writer_hides_later_events_and_lag_tells(log: PostgresEventLog, database: Database) -> None:
    async with database.transaction() as connection:
        await connection.fetchval("select pg_current_xact_id()")
        await log.append(
            Append("seats", 0, (NewEvent(event_id=uuid4(), message=SeatGranted(user_id="ada", seat=0), tenant="ada"),)),
        )
        assert await log.read_all() == ()
        await asyncio.sleep(0.1)
        assert await log.lag() >= 0.1
    assert len(await log.read_all()) == 1
    assert await log.lag() == 0


async def test_the_server_ends_a_transaction_that_idles(database_url: str) -> None:
    """Whichever connection of ours it is; `test_log_laws` lets one hang."""
    ask = "show idle_in_transaction_session_timeout"
    async with await Database.connect(database_url) as database:
        async with database.connection() as connection:
            assert await connection.fetchval(ask) == "10s"
        async with database.session() as session:
            assert await session.fetchval(ask) == "1min"


async def test_paging_the_log_uses_the_index_of_the_cursor(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute(
            "insert into events (stream, version, event_id, tenant, type, schema_version, data) "
            "select 's', n, gen_random_uuid(), 'ada', 'JobStarted', 1, '{}' from generate_series(1, 5000) n"
        )
    async with database.connection() as connection:
        await connection.execute("analyze events")
        plan = await connection.fetch(
            "explain select * from events where (xid, position) > ('1'::xid8, 100) "
            "and xid < pg_snapshot_xmin(pg_current_snapshot()) order by xid, position limit 100"
        )
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan using events_by_cursor" in text
    assert "Sort" not in text
