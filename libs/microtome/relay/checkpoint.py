"""How far a consumer of the log has come.

Promises: a checkpoint never goes back, whoever stores it and in which order.
Refuses: to go ahead of the work; store it afterwards.
"""

from __future__ import annotations

from typing import Protocol

from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Cursor

_LOAD = "select xid, position from checkpoints where consumer = $1"
_STORE = """
insert into checkpoints as c (consumer, xid, position) values ($1, $2::xid8, $3::bigint)
on conflict (consumer) do update set xid = excluded.xid, position = excluded.position, updated_at = clock_timestamp()
where (c.xid, c.position) < (excluded.xid, excluded.position)
"""


class Checkpoint(Protocol):
    """Remembers one cursor."""

    async def load(self) -> Cursor:
        """Return the cursor, or the start of the log."""
        ...

    async def store(self, cursor: Cursor) -> None:
        """Move forward to the cursor; a smaller one changes nothing."""
        ...


class PostgresCheckpoint:
    """A row of the table `checkpoints`."""

    def __init__(self, database: Database, consumer: str) -> None:
        self._database = database
        self._consumer = consumer

    async def load(self) -> Cursor:
        """Return the cursor; see `Checkpoint.load`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_LOAD, self._consumer)
        return Cursor(row["xid"], row["position"]) if row else START

    async def store(self, cursor: Cursor) -> None:
        """Move forward; see `Checkpoint.store`."""
        async with self._database.connection() as connection:
            await connection.execute(_STORE, self._consumer, cursor.xid, cursor.position)


class MemoryCheckpoint:
    """A variable, for tests."""

    def __init__(self) -> None:
        self._cursor = START

    async def load(self) -> Cursor:
        """Return the cursor; see `Checkpoint.load`."""
        return self._cursor

    async def store(self, cursor: Cursor) -> None:
        """Move forward; see `Checkpoint.store`."""
        self._cursor = max(self._cursor, cursor)
