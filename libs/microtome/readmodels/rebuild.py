"""The read models, made anew from the log.

Promises: the rows come from the domain's fold of each stream (`folding`), not from the projection that wrote the live
ones, so that `verify` holds two ways of reading the log against each other, row by row. Neither reads the whole log
into memory, and neither hides a row from a reader: `rebuild` changes rows that differ, in one transaction, and leaves
all others alone. `verify` takes no lock and compares in a transaction that writes nothing, so that appends go on and
are seen at once; during `rebuild` appends wait while rows are compared.
Refuses: to believe a row. What differs from the log is replaced by what the log says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

import asyncpg

from microtome.contracts.codec import from_json, message_type
from microtome.domain.cluster import STREAM_PREFIX
from microtome.errors import ConcurrencyConflict, Conflict
from microtome.eventlog.database import Connection, Database, typed_errors
from microtome.eventlog.upcast import UPCASTERS, Upcasters
from microtome.readmodels.folding import COLUMNS, SEATS, SLIDE_PREFIX, Fact, Rows, Seats, fold
from microtome.readmodels.projection import TABLES

# Events fetched at once, and rows stored at once.
PAGE = 4000
BATCH = 4000

_SHADOW = "; ".join(f"create temp table shadow_{table} (like public.{table})" for table in TABLES)
_GONE = "; ".join(f"drop table if exists pg_temp.shadow_{table}" for table in TABLES)
_FACTS = "select stream, version, xid, position, type, schema_version, data, at from events"
_ALL = f"{_FACTS} order by stream, version"
_OF_STREAMS = f"{_FACTS} where stream = any($1::text[]) order by stream, version"
_SEATS_AFTER = f"{_FACTS} where stream = '{SEATS}' and version > $1 order by version"
_SNAPSHOT = "select pg_current_snapshot()::text"
_CHANGED = """
select distinct stream from events
where xid >= pg_snapshot_xmin($1::text::pg_snapshot) and not pg_visible_in_snapshot(xid, $1::text::pg_snapshot)
"""
_STREAM = itemgetter("stream")
# Where a row comes from: the column that follows the prefix in the name of its stream.
_PREFIXES = {"slides": SLIDE_PREFIX, "workflows": STREAM_PREFIX, "jobs": STREAM_PREFIX}
_OWNERS = {"slides": "slide_id", "workflows": "workflow_id", "jobs": "workflow_id"}
_KEYS = {"slides": "slide_id", "workflows": "workflow_id", "jobs": "job_id", "seats": "seat"}


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that only one side has; `row` is its JSON text."""

    table: str
    side: str
    row: str


async def rebuild(database: Database, upcasters: Upcasters = UPCASTERS) -> int:
    """Make every row what the log says; return how many events it took.

    Raises `Conflict` when the log breaks an invariant (nothing is changed then), `Unavailable`.
    """
    async with _shadow(database, upcasters) as shadow:
        await shadow.fold_all()
        await shadow.catch_up()
        try:
            async with typed_errors(), shadow.writer.transaction():
                # No append runs under this lock, so that what is committed is all there is.
                await shadow.writer.execute("lock table events in share row exclusive mode")
                await shadow.catch_up()
                await _repair(shadow.writer)
                await shadow.writer.execute("set constraints all immediate")
        except ConcurrencyConflict as error:
            raise Conflict(f"the log breaks an invariant: {error}") from error
        return shadow.count


async def verify(database: Database, upcasters: Upcasters = UPCASTERS) -> tuple[Difference, ...]:
    """Fold the log beside the read models and return the rows that differ; none when all is well."""
    async with _shadow(database, upcasters) as shadow:
        await shadow.fold_all()
        await shadow.catch_up()
        # One snapshot of the log and the rows: they are written together. It only reads: a transaction that wrote
        # something, be it into its own temporary tables, hides from all readers what others append until it ends.
        async with shadow.writer.transaction(isolation="repeatable_read", readonly=True):
            changed = await shadow.changed()
            events = await shadow.events_of(changed)
            live = await _texts(shadow.writer, "public.", changed)
            unlike = [(table, row) for table in TABLES for row in await shadow.writer.fetch(_differing(table))]
        differences = [
            Difference(table, side, row[side])
            for table, row in unlike
            if row["stream"] not in changed
            for side in ("table", "log")
            if row[side] is not None
        ]
        # What was appended to since the shadow was made is compared with a fold as of the same snapshot.
        await shadow.forget(changed)
        await shadow.take(events)
        made = await _texts(shadow.writer, "pg_temp.shadow_", changed)
        differences += [Difference(table, "table", row) for table, row in sorted(live - made)]
        differences += [Difference(table, "log", row) for table, row in sorted(made - live)]
        return tuple(differences)


async def _texts(connection: Connection, prefix: str, streams: Sequence[str]) -> set[tuple[str, str]]:
    """Return (table, JSON text) of all rows that come from the streams."""
    found = set()
    for table in TABLES:
        rows = await connection.fetch(
            f"select to_jsonb(t)::text from {prefix}{table} t where {_stream(table)} = any($1::text[])",  # noqa: S608
            streams,
        )
        found |= {(table, row[0]) for row in rows}
    return found


def _stream(table: str, column: str = "{0}") -> str:
    """Return SQL for the stream that a row comes from."""
    return f"'{_PREFIXES[table]}' || " + column.format(_OWNERS[table]) if table in _PREFIXES else f"'{SEATS}'"


def _differing(table: str) -> str:
    key = _KEYS[table]
    stream = _stream(table, "coalesce(live.{0}, made.{0})")
    return (
        f'select to_jsonb(live)::text as "table", to_jsonb(made)::text as "log", {stream} as stream '  # noqa: S608
        f"from public.{table} live full join pg_temp.shadow_{table} made on live.{key} = made.{key} "
        "where live is distinct from made"
    )


async def _repair(connection: Connection) -> None:
    """Make the live rows equal to the shadow's, touching only those that differ."""
    # Jobs first and last: they refer to workflows and seats, and of two that change places in a slot or branch
    # both have to be gone before either comes.
    for table in ("jobs", "slides", "seats"):
        key = _KEYS[table]
        await connection.execute(
            f"delete from public.{table} live where not exists (select from pg_temp.shadow_{table} made "  # noqa: S608
            f"where made.{key} = live.{key} and made is not distinct from live)"
        )
    await connection.execute(
        "delete from public.workflows live where not exists "
        "(select from pg_temp.shadow_workflows made where made.workflow_id = live.workflow_id)"
    )
    columns = COLUMNS["workflows"]
    await connection.execute(
        f"update public.workflows live set ({', '.join(columns)}) = ({', '.join(f'made.{c}' for c in columns)}) "  # noqa: S608
        "from pg_temp.shadow_workflows made where made.workflow_id = live.workflow_id and made is distinct from live"
    )
    for table in ("workflows", "seats", "slides", "jobs"):
        key = _KEYS[table]
        await connection.execute(
            f"insert into public.{table} select made.* from pg_temp.shadow_{table} made "  # noqa: S608 - fixed names
            f"where not exists (select from public.{table} live where live.{key} = made.{key})"
        )


def _whole(part: Sequence[asyncpg.Record]) -> int:
    """Return how many of the events, which may be followed by more, are of streams that can be folded now."""
    last = part[-1]["stream"]
    if last == SEATS:
        # The one stream that grows with the log; its fold goes on where it stopped.
        return len(part)
    return next((n for n in range(len(part) - 1, 0, -1) if part[n - 1]["stream"] != last), 0)


@asynccontextmanager
async def _shadow(database: Database, upcasters: Upcasters) -> AsyncIterator[_Shadow]:
    async with database.session() as reader, database.session() as writer, typed_errors():
        await writer.execute(_GONE)
        await writer.execute(_SHADOW)
        yield _Shadow(reader, writer, upcasters)
        # The sessions end here, and the tables with them.


class _Shadow:
    """Tables of one session that hold what the log says.

    `reader` streams under one snapshot and writes nothing: a transaction that lasts must not hold back the log's
    readers. `writer` stores rows in transactions of their own, each short.
    """

    def __init__(
        self,
        reader: asyncpg.Connection[asyncpg.Record],
        writer: asyncpg.Connection[asyncpg.Record],
        upcasters: Upcasters,
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._upcasters = upcasters
        self._seats = Seats()
        self._snapshot = ""
        self._rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in TABLES}
        self.count = 0

    async def fold_all(self) -> None:
        """Fold every stream, as of one snapshot."""
        async with self._reader.transaction(isolation="repeatable_read", readonly=True):
            self._snapshot = await self._reader.fetchval(_SNAPSHOT)
            cursor = await self._reader.cursor(_ALL)
            part: list[asyncpg.Record] = []
            coming = asyncio.ensure_future(cursor.fetch(PAGE))
            while page := await coming:
                # Postgres looks for the next events while these are folded.
                coming = asyncio.ensure_future(cursor.fetch(PAGE))
                await asyncio.sleep(0)
                part += page
                ends = _whole(part)
                self._fold(part[:ends])
                del part[:ends]
                await self._store(BATCH)
            self._fold(part)
        self._keep(self._seats.rows())
        await self._store(1)
        for table in TABLES:
            await self.writer.execute(f"analyze pg_temp.shadow_{table}")

    async def catch_up(self) -> None:
        """Fold again the streams that were appended to since the last snapshot."""
        changed = await self.changed()
        await self.forget(changed)
        for first in range(0, len(changed), 100):
            await self.take(await self.events_of(changed[first : first + 100]))

    async def changed(self) -> list[str]:
        """Return the streams that were appended to since the last snapshot, and take the next; only reads."""
        before, self._snapshot = self._snapshot, await self.writer.fetchval(_SNAPSHOT)
        return [row["stream"] for row in await self.writer.fetch(_CHANGED, before)]

    async def events_of(self, streams: Sequence[str]) -> list[asyncpg.Record]:
        """Return all events of these streams, of the seats only those that were not folded yet; only reads."""
        events = await self.writer.fetch(_OF_STREAMS, [stream for stream in streams if stream != SEATS])
        if SEATS in streams:
            events += await self.writer.fetch(_SEATS_AFTER, self._seats.version)
        return events

    async def forget(self, streams: Sequence[str]) -> None:
        """Drop the rows that come from these streams, but for the seats."""
        for table, prefix in _PREFIXES.items():
            ids = [stream.removeprefix(prefix) for stream in streams if stream.startswith(prefix)]
            await self.writer.execute(
                f"delete from pg_temp.shadow_{table} where {_OWNERS[table]} = any($1::text[])",  # noqa: S608
                ids,
            )

    async def take(self, events: Sequence[asyncpg.Record]) -> None:
        """Fold whole streams, or the seats further, and store their rows."""
        self._fold(events)
        if any(event["stream"] == SEATS for event in events):
            await self.writer.execute("truncate pg_temp.shadow_seats")
            self._keep(self._seats.rows())
        await self._store(1)

    def _fold(self, records: Sequence[asyncpg.Record]) -> None:
        self.count += len(records)
        for stream, events in groupby(records, _STREAM):
            if stream == SEATS:
                self._seats.fold(self._facts(events))
            else:
                self._keep(fold(stream, self._facts(events)))

    def _facts(self, records: Iterable[asyncpg.Record]) -> Iterable[Fact]:
        for _, version, xid, position, name, schema_version, data, at in records:
            shape = self._upcasters.upcast(name, schema_version, data)
            yield Fact(from_json(message_type(name), shape), version, xid, position, at)

    def _keep(self, rows: Rows) -> None:
        for table, some in rows.items():
            self._rows[table] += some

    async def _store(self, least: int) -> None:
        """Copy the rows into the tables when there are at least so many."""
        if sum(map(len, self._rows.values())) < least:
            return
        for table, rows in self._rows.items():
            if rows:
                await self.writer.copy_records_to_table(
                    f"shadow_{table}", schema_name="pg_temp", records=rows, columns=COLUMNS[table]
                )
                rows.clear()
