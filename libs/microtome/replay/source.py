"""Where a log is read from: a database, or a file that `export` wrote.

Promises: events come in log order, a page at a time; a database is opened so that the server itself refuses writes.
Refuses: to guess when nothing says where the database is (`ConfigurationError` names the ways).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol
from urllib.parse import urlsplit

from microtome.embedded.home import default_home
from microtome.embedded.state import read_running
from microtome.errors import ConfigurationError
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.postgres import COLUMNS, PostgresEventLog, stored_event

PAGE = 1000

_VISIBLE = "xid < pg_snapshot_xmin(pg_current_snapshot())"
_WANTED = (
    "($1::text[] is null or stream = any($1)) and ($2::text[] is null or type = any($2)) "
    "and ($3::text[] is null or tenant = any($3))"
)
_FORWARD = f"""
select {COLUMNS} from events
where (xid, position) > ($4::xid8, $5::bigint) and {_VISIBLE} and {_WANTED}
order by xid, position limit $6
"""  # noqa: S608 - no input
_BACKWARD = f"""
select {COLUMNS} from events
where (xid, position) < ($4::xid8, $5::bigint) and {_VISIBLE} and {_WANTED}
order by xid desc, position desc limit $6
"""  # noqa: S608 - no input


_END = Cursor(2**63 - 1, 2**63 - 1)


class History(Protocol):
    """A log to look back on. Filters: only these streams, event types, tenants (None: all)."""

    def events(
        self,
        after: Cursor = START,
        *,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Yield the events after the cursor in log order, up to the end as it is when reached."""
        ...


class DatabaseHistory:
    """The log of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def events(
        self,
        after: Cursor = START,
        *,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Yield the events after the cursor, a page of `PAGE` in memory at a time. Raises `Unavailable`."""
        wanted = [None if each is None else list(each) for each in (streams, types, tenants)]
        while True:
            async with self.database.connection() as connection:
                rows = await connection.fetch(_FORWARD, *wanted, after.xid, after.position, PAGE)
            for row in rows:
                event = stored_event(row)
                yield event
                after = event.cursor
            if len(rows) < PAGE:
                return

    async def last(
        self,
        count: int,
        before: Cursor = _END,
        *,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
    ) -> tuple[StoredEvent, ...]:
        """Return the last `count` events before the cursor that pass the filters, in log order."""
        wanted = [None if each is None else list(each) for each in (streams, types, tenants)]
        async with self.database.connection() as connection:
            rows = await connection.fetch(_BACKWARD, *wanted, before.xid, before.position, count)
        return tuple(stored_event(row) for row in reversed(rows))


def find_database(given: str | None, environment: Mapping[str, str] | None = None) -> str:
    """Return the URL: the given one, else MICROTOME_DATABASE_URL, else that of this checkout's running stack.

    Raises `ConfigurationError` when there is none of them.
    """
    environment = os.environ if environment is None else environment
    url = given or environment.get("MICROTOME_DATABASE_URL", "").strip()
    if not url:
        home = default_home(environment)
        running = read_running(home)
        if running is None:
            raise ConfigurationError(
                "There is no log to read: give --database postgresql://…, or set MICROTOME_DATABASE_URL, "
                f"or start the stack of this checkout (`make up`; no stack of {home} runs)."
            )
        url = running.database_url
    if urlsplit(url).scheme not in ("postgres", "postgresql"):
        raise ConfigurationError("The database is given as postgresql://user:password@host:port/name.")
    return url


def _read_only(url: str) -> str:
    parts = urlsplit(url)
    query = "&".join(filter(None, (parts.query, "default_transaction_read_only=on")))
    return parts._replace(query=query).geturl()


@asynccontextmanager
async def open_database(given: str | None, *, writable: bool = False) -> AsyncIterator[Database]:
    """Open the database that `find_database` finds; unless `writable`, the server refuses every write.

    Raises `ConfigurationError` (also when it holds no log) and `Unavailable`.
    """
    url = find_database(given)
    async with await Database.connect(
        url if writable else _read_only(url), connections=3, name="microtome-replay"
    ) as database:
        async with database.connection() as connection:
            if await connection.fetchval("select to_regclass('public.events')") is None:
                raise ConfigurationError(
                    f"The database {urlsplit(url).path.lstrip('/')!r} holds no event log; is it the right one?"
                )
        yield database


@asynccontextmanager
async def open_log(database: Database) -> AsyncIterator[PostgresEventLog]:
    """Open the log for following: it wakes up when something is appended."""
    async with AsyncExitStack() as stack:
        yield await stack.enter_async_context(PostgresEventLog(database))
