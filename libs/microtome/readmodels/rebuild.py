"""The read models, made anew from the log.

Promises: `rebuild` replaces the tables in one transaction by a replay of the whole log; appends
wait only while the last events are replayed. `verify` compares tables with a replay, row by row.
Refuses: to repair rows one by one; what differs from the log is wrong as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass

from microtome.eventlog.database import Connection, Database
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.migrate import sql
from microtome.eventlog.postgres import COLUMNS, READ_ALL, stored_event
from microtome.eventlog.upcast import UPCASTERS, Upcasters
from microtome.readmodels.projection import TABLES, ReadModels

SHADOW = "microtome_shadow"
PAGE = 1000

_LOCKED_PAGE = f"""
select {COLUMNS} from events where (xid, position) > ($1::xid8, $2::bigint) order by xid, position limit $3
"""  # noqa: S608 - no input


@dataclass(frozen=True, slots=True)
class Difference:
    """A row that only one side has; `row` is its JSON text."""

    table: str
    side: str
    row: str


async def rebuild(database: Database, upcasters: Upcasters = UPCASTERS) -> int:
    """Replace the read models by a replay of the log; return how many events it took.

    Raises `Conflict` when the replay breaks an invariant (the old tables stay then), `Unavailable`.
    """
    cursor, count = await _replay_unlocked(database, upcasters)
    async with database.transaction() as connection:
        count += await _replay_locked(connection, cursor, upcasters)
        await connection.execute(f"set local search_path to {SHADOW}, public")
        await connection.execute(sql("microtome.readmodels", "invariants.sql"))
        # Also those that are deferred to the commit, while the tables still have their shadow names.
        await connection.execute("set constraints all immediate")
        await connection.execute("set local search_path to public")
        await connection.execute(f"drop table {', '.join(f'public.{table}' for table in TABLES)}")
        for table in TABLES:
            await connection.execute(f"alter table {SHADOW}.{table} set schema public")
        await connection.execute(f"drop schema {SHADOW}")
    return count


async def verify(database: Database, upcasters: Upcasters = UPCASTERS) -> tuple[Difference, ...]:
    """Replay the log beside the read models and return the rows that differ; none when all is well.

    Appends wait while the last events are replayed and the rows are compared.
    """
    cursor, _ = await _replay_unlocked(database, upcasters)
    differences: list[Difference] = []
    async with database.transaction() as connection:
        await _replay_locked(connection, cursor, upcasters)
        for table in TABLES:
            for side, one, other in (("table", "public", SHADOW), ("log", SHADOW, "public")):
                rows = await connection.fetch(
                    f"select to_jsonb(x)::text as row from {one}.{table} x "  # noqa: S608 - no input
                    f"except all select to_jsonb(y)::text from {other}.{table} y"
                )
                differences += [Difference(table, side, row["row"]) for row in rows]
        await connection.execute(f"drop schema {SHADOW} cascade")
    return tuple(differences)


async def _replay_unlocked(database: Database, upcasters: Upcasters) -> tuple[Cursor, int]:
    """Make the shadow tables and replay what can be read while writers go on."""
    async with database.transaction() as connection:
        await connection.execute(f"drop schema if exists {SHADOW} cascade")
        await connection.execute(f"create schema {SHADOW}")
        await connection.execute(f"set local search_path to {SHADOW}, public")
        await connection.execute(sql("microtome.readmodels", "schema.sql"))
    cursor, count = START, 0
    while True:
        async with database.transaction() as connection:
            await connection.execute(f"set local search_path to {SHADOW}, public")
            page = await _page(connection, READ_ALL, cursor, upcasters)
            await _apply(connection, page)
        if not page:
            return cursor, count
        cursor, count = page[-1].cursor, count + len(page)


async def _replay_locked(connection: Connection, cursor: Cursor, upcasters: Upcasters) -> int:
    """Lock writers out and replay the rest.

    No appending transaction runs under this lock, so that committed events are all there are,
    and the xmin of other transactions does not matter.
    """
    await connection.execute("lock table events in share row exclusive mode")
    await connection.execute(f"set local search_path to {SHADOW}, public")
    count = 0
    while page := await _page(connection, _LOCKED_PAGE, cursor, upcasters):
        await _apply(connection, page)
        cursor, count = page[-1].cursor, count + len(page)
    return count


async def _page(connection: Connection, query: str, after: Cursor, upcasters: Upcasters) -> tuple[StoredEvent, ...]:
    rows = await connection.fetch(query, after.xid, after.position, PAGE)
    return tuple(stored_event(row, upcasters) for row in rows)


async def _apply(connection: Connection, events: tuple[StoredEvent, ...]) -> None:
    projection = ReadModels()
    for event in events:
        await projection.apply(connection, event)
