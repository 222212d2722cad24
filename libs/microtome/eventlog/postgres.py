"""The event log in Postgres.

Promises: what `microtome.eventlog.log` promises, by these means:
- an append runs under REPEATABLE READ and reads the streams' versions in its snapshot, so that
  within a stream the order of transaction ids is the order of versions;
- readers page by the pair (xid, position) below the snapshot's xmin, so that no transaction still
  running can put an event behind them;
- the read models are written by the appending transaction.
Refuses: to read from a replica; decisions need the primary.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self
from uuid import UUID
from weakref import WeakKeyDictionary

import asyncpg
import orjson

from microtome.contracts.codec import from_json, message_type, to_json, type_name
from microtome.errors import ConcurrencyConflict
from microtome.eventlog.database import Connection, Database, Listener
from microtome.eventlog.log import (
    START,
    Append,
    Cursor,
    Projection,
    SettlingProjection,
    StoredEvent,
    already_stored,
    check_appends,
    check_versions,
)
from microtome.eventlog.upcast import UPCASTERS, Upcasters

CHANNEL = "microtome_events"
COLUMNS = "xid, position, stream, version, event_id, tenant, type, schema_version, data, meta, at"

# The lock is taken before the snapshot: a rebuild of the read models locks writers out, and one that waited
# for it must see the rebuilt rows. The lock does not assign a transaction id. One message, because each costs a way
# to the server and back.
_BEGIN = "begin isolation level repeatable read; lock table events in row exclusive mode"
_STANDING = """
select coalesce(jsonb_object_agg(name, version) filter (where version is not null), '{}') as versions,
       exists (select from events where event_id = any($2::uuid[])) as repeated
from unnest($1::text[]) as name, lateral (select max(version) as version from events where stream = name) as newest
"""
_BY_ID = f"select {COLUMNS} from events where event_id = any($1::uuid[])"  # noqa: S608 - no input
_INSERT = f"""
insert into events (stream, version, event_id, tenant, type, schema_version, data, meta)
select $1::text, $2::bigint + n, event_id, tenant, type, schema_version, data::jsonb, meta::jsonb
from unnest($3::uuid[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::text[])
     with ordinality as new (event_id, tenant, type, schema_version, data, meta, n)
order by n
returning {COLUMNS}
"""  # noqa: S608 - no input
_READ_STREAM = f"select {COLUMNS} from events where stream = $1 and version > $2 order by version"  # noqa: S608 - no input
READ_ALL = f"""
select {COLUMNS} from events
where (xid, position) > ($1::xid8, $2::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())
order by xid, position
limit $3
"""  # noqa: S608 - no input
_COUNT = """
select count(*) from (
    select from events
    where (xid, position) > ($1::xid8, $2::bigint) and xid < pg_snapshot_xmin(pg_current_snapshot())
    order by xid, position
    limit $3
) as after
"""
_LAG = """
select coalesce(extract(epoch from clock_timestamp() - min(at)), 0)::float8
from events where xid >= pg_snapshot_xmin(pg_current_snapshot())
"""
# Of the whole cluster: a writer in another database holds readers back as well.
_OLDEST_WRITER = """
select coalesce(max(extract(epoch from clock_timestamp() - began)), 0)::float8
from (
    select xact_start as began from pg_stat_activity where backend_xid is not null and pid <> pg_backend_pid()
    union all
    select prepared from pg_prepared_xacts
) as writers
"""


def stored_event(row: asyncpg.Record, upcasters: Upcasters = UPCASTERS) -> StoredEvent:
    """Return the event of a row with `COLUMNS`, in today's shape."""
    data = upcasters.upcast(row["type"], row["schema_version"], row["data"])
    return StoredEvent(
        cursor=Cursor(row["xid"], row["position"]),
        stream=row["stream"],
        version=row["version"],
        event_id=row["event_id"],
        tenant=row["tenant"],
        message=from_json(message_type(row["type"]), data),
        meta=row["meta"],
        at=row["at"],
    )


class PostgresEventLog:
    """An `EventLog` on a `Database`. Use as an async context manager, or call `start` and `stop`."""

    def __init__(
        self,
        database: Database,
        projections: Sequence[Projection[Connection]] = (),
        upcasters: Upcasters = UPCASTERS,
    ) -> None:
        self._database = database
        self._projections = tuple(projections)
        self._upcasters = upcasters
        self._listener = Listener(database.url, CHANNEL)
        self._seen: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    async def start(self) -> None:
        """Begin to listen for wake-ups; needed by `wait` only."""
        self._listener.start()

    async def stop(self) -> None:
        """Stop listening. The database stays open: it is the caller's."""
        await self._listener.stop()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def append(self, *appends: Append) -> tuple[StoredEvent, ...]:
        """Store all events or none; see `EventLog.append`."""
        check_appends(appends)
        try:
            return await self._append(appends)
        except ConcurrencyConflict:
            # The other writer may have been an earlier try of this very append.
            stored = already_stored(appends, await self._by_id(appends))
            if stored is None:
                raise
            return stored

    async def read_stream(self, stream: str, after_version: int = 0) -> tuple[StoredEvent, ...]:
        """Return the events of a stream; see `EventLog.read_stream`."""
        async with self._database.connection() as connection:
            return self._events(await connection.fetch(_READ_STREAM, stream, after_version))

    async def read_all(self, after: Cursor = START, limit: int = 1000) -> tuple[StoredEvent, ...]:
        """Return events of all streams; see `EventLog.read_all`."""
        async with self._database.connection() as connection:
            return self._events(await connection.fetch(READ_ALL, after.xid, after.position, limit))

    async def count(self, after: Cursor = START, limit: int = 10_000) -> int:
        """Return how many events lie after the cursor; see `EventLog.count`."""
        async with self._database.connection() as connection:
            return int(await connection.fetchval(_COUNT, after.xid, after.position, limit))

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - see the protocol
        """Sleep until something may have been appended; see `EventLog.wait`."""
        task = asyncio.current_task()
        if task is None:  # cannot be: a coroutine that awaits runs in a task
            raise RuntimeError("wait needs a running task")
        seen = self._seen.get(task, 0)
        self._seen[task] = await self._listener.beyond(seen, timeout)
        return self._seen[task] > seen

    async def lag(self) -> float:
        """Return the age in seconds of the oldest event that readers cannot see yet; 0 when they see all.

        Large when a transaction anywhere in the cluster wrote something and stays open.
        """
        async with self._database.connection() as connection:
            return float(await connection.fetchval(_LAG))

    async def oldest_writer(self) -> float:
        """Return the age in seconds of the oldest open transaction that has written something; 0 when there is none.

        Readers see nothing that was appended after it began to write, until it ends. Transactions of other roles
        count only if this one may see them (a superuser or a member of pg_read_all_stats).
        """
        async with self._database.connection() as connection:
            return float(await connection.fetchval(_OLDEST_WRITER))

    async def _append(self, appends: tuple[Append, ...]) -> tuple[StoredEvent, ...]:
        async with self._database.connection() as connection, _writing(connection):
            standing = await connection.fetchrow(_STANDING, [append.stream for append in appends], _ids(appends))
            assert standing is not None
            if standing["repeated"]:
                known = self._events(await connection.fetch(_BY_ID, _ids(appends)))
                repeated = already_stored(appends, {event.event_id: event for event in known})
                if repeated is not None:
                    return repeated
            check_versions(appends, standing["versions"])
            stored = [event for append in appends for event in await self._insert(connection, append)]
            for event in stored:
                for projection in self._projections:
                    await projection.apply(connection, event)
            for projection in self._projections:
                if isinstance(projection, SettlingProjection):
                    await projection.settle(connection, stored)
            return tuple(stored)

    async def _insert(self, connection: Connection, append: Append) -> tuple[StoredEvent, ...]:
        types = [type_name(event.message) for event in append.events]
        rows = await connection.fetch(
            _INSERT,
            append.stream,
            append.expected_version,
            [event.event_id for event in append.events],
            [event.tenant for event in append.events],
            types,
            [self._upcasters.current(name) for name in types],
            [orjson.dumps(to_json(event.message)).decode() for event in append.events],
            [orjson.dumps(dict(event.meta)).decode() for event in append.events],
        )
        return self._events(sorted(rows, key=lambda row: int(row["version"])))

    async def _by_id(self, appends: tuple[Append, ...]) -> dict[UUID, StoredEvent]:
        async with self._database.connection() as connection:
            events = self._events(await connection.fetch(_BY_ID, _ids(appends)))
        return {event.event_id: event for event in events}

    def _events(self, rows: Sequence[asyncpg.Record]) -> tuple[StoredEvent, ...]:
        return tuple(stored_event(row, self._upcasters) for row in rows)


@asynccontextmanager
async def _writing(connection: Connection) -> AsyncIterator[None]:
    """A transaction that appends: committed at the end, rolled back by any exception."""
    try:
        await connection.execute(_BEGIN)
        yield
    except BaseException:
        # A connection that is lost has no transaction left; what was raised first says more.
        if not connection.is_closed():
            await connection.execute("rollback")
        raise
    await connection.execute("commit")


def _ids(appends: tuple[Append, ...]) -> list[UUID]:
    return [event.event_id for append in appends for event in append.events]
