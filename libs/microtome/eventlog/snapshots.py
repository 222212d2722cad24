"""What a fold had come to, kept so that the next start need not begin at the first event.

Promises: a snapshot never goes back, whoever stores it. It is a cache: deleting it costs time, never a fact.
Refuses: to be read by a program of another format; it then says that there is none. Correctness must not rest on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from microtome.eventlog.database import Database
from microtome.eventlog.log import Cursor

# A snapshot that claims to be ahead of the log is of another one (restored, or moved between clusters).
_LOAD = """
select xid, position, data, stored_at from snapshots s
where name = $1 and format = $2
  and (exists (select from events e where (e.xid, e.position) = (s.xid, s.position)))
"""
_STORE = """
insert into snapshots as s (name, format, xid, position, data) values ($1, $2, $3::xid8, $4::bigint, $5)
on conflict (name) do update
set format = excluded.format, xid = excluded.xid, position = excluded.position, data = excluded.data,
    stored_at = clock_timestamp()
where s.format <> excluded.format or (s.xid, s.position) < (excluded.xid, excluded.position)
"""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The bytes of a state, the last event that is folded in, and since when it is stored (by the database)."""

    cursor: Cursor
    data: bytes
    stored_at: datetime


class Snapshots(Protocol):
    """Remembers one state of one format."""

    async def load(self) -> Snapshot | None:
        """Return the newest snapshot, or None: fold from the start then."""
        ...

    async def store(self, cursor: Cursor, data: bytes) -> None:
        """Keep a state; an older one than the one kept changes nothing."""
        ...


class PostgresSnapshots:
    """A row of the table `snapshots`."""

    def __init__(self, database: Database, name: str, format: int) -> None:  # noqa: A002 - the column's name
        self._database = database
        self._name = name
        self._format = format

    async def load(self) -> Snapshot | None:
        """Return the newest snapshot of this format; see `Snapshots.load`. Raises `Unavailable`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(_LOAD, self._name, self._format)
        return Snapshot(Cursor(row["xid"], row["position"]), row["data"], row["stored_at"]) if row else None

    async def store(self, cursor: Cursor, data: bytes) -> None:
        """Keep a state; see `Snapshots.store`. Raises `Unavailable`."""
        async with self._database.connection() as connection, connection.transaction():
            # Readers of the log wait for whoever writes; nobody shall wait for the disk because of a cache.
            await connection.execute("set local synchronous_commit = off")
            await connection.execute(_STORE, self._name, self._format, cursor.xid, cursor.position, data)

    async def discard(self) -> None:
        """Forget the state, of whatever format. Raises `Unavailable`."""
        async with self._database.connection() as connection:
            await connection.execute("delete from snapshots where name = $1", self._name)
