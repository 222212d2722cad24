"""The log as JSON lines: out of one database, into another.

One line per event, in log order:

    {"cursor": "812:1", "stream": …, "version": 1, "event_id": …, "tenant": …, "type": …, "schema_version": 1,
     "data": {…}, "meta": {…}, "at": "2026-11-22T10:19:00.000001+00:00"}

Promises: data as it is stored, not as it is read today, so that an export outlives upcasters; an import keeps streams,
versions, ids, data, meta and times, and the order of the events. Neither holds more than a page in memory.
Refuses: to import into a log that has events (`Conflict`), or lines that are no events or whose streams have gaps
(`InvalidRequest`, with the number of the line); nothing is imported then. The cursors are not kept: they belong to the
cluster that handed them out. The read models know nothing of what was imported until `readmodels.rebuild`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from microtome.contracts.codec import from_json, message_type
from microtome.errors import ConfigurationError, Conflict, InvalidRequest
from microtome.eventlog.database import Connection, Database
from microtome.eventlog.log import START, Cursor
from microtome.eventlog.postgres import READ_ALL
from microtome.eventlog.upcast import UPCASTERS, Upcasters

PAGE = 2000
_FIELDS = ("stream", "version", "event_id", "tenant", "type", "schema_version", "data", "meta", "at")
_MEMBERS = {*_FIELDS, "cursor"}
# The order of the file is kept by positions that rise with it: all events of an import share a transaction.
_ANY = "select exists (select from events)"
_GAPS = "select stream from events group by stream having max(version) <> count(*) limit 1"
_BACKWARDS = """
select stream from (
    select stream, version < lag(version) over (partition by stream order by position) as backwards from events
) as ordered where backwards limit 1
"""


@dataclass(frozen=True, slots=True)
class Imported:
    """What came in."""

    events: int
    streams: int


async def export_lines(database: Database, after: Cursor = START) -> AsyncIterator[bytes]:
    """Yield the events after the cursor that can be read now, one line each, with its line feed.

    Raises `Unavailable`.
    """
    while True:
        async with database.connection() as connection:
            page = await connection.fetch(READ_ALL, after.xid, after.position, PAGE)
        for row in page:
            yield line(row)
        if not page:
            return
        after = Cursor(page[-1]["xid"], page[-1]["position"])


def line(row: asyncpg.Record) -> bytes:
    """Return the line of a row with the log's columns."""
    event: dict[str, Any] = {"cursor": str(Cursor(row["xid"], row["position"]))}
    event.update((name, row[name]) for name in _FIELDS)
    event["event_id"] = str(row["event_id"])
    return orjson.dumps(event, option=orjson.OPT_APPEND_NEWLINE)


async def import_lines(
    database: Database,
    lines: Iterable[bytes],
    upcasters: Upcasters = UPCASTERS,
    progress: Callable[[int], None] = lambda events: None,  # noqa: ARG005 - a caller may look on
) -> Imported:
    """Store exported lines in an empty log, all or none; then rebuild the read models (see the module).

    Raises `Conflict`, `InvalidRequest`, `ConfigurationError` for events of a newer program, `Unavailable`.
    """
    async with database.session() as connection, connection.transaction():
        # Nobody appends meanwhile, or the log would not be empty.
        await connection.execute("lock table events in exclusive mode")
        if await connection.fetchval(_ANY):
            raise Conflict("The log holds events already; import into a new database.")
        rows: list[tuple[Any, ...]] = []
        count = 0
        for count, text in enumerate(lines, start=1):
            rows.append(_row(count, text, upcasters))
            if len(rows) == PAGE:
                await _store(connection, rows)
                progress(count)
                # A large file must not keep the event loop to itself.
                await asyncio.sleep(0)
        await _store(connection, rows)
        for query, fault in ((_GAPS, "has gaps"), (_BACKWARDS, "is not in the order of its versions")):
            stream = await connection.fetchval(query)
            if stream is not None:
                raise InvalidRequest(f"Stream {stream} {fault}; the file is damaged.")
        streams = await connection.fetchval("select count(*) from events where version = 1")
    return Imported(count, int(streams))


def _row(number: int, text: bytes, upcasters: Upcasters) -> tuple[Any, ...]:
    """Return the values of `_FIELDS`. Raises `InvalidRequest` for a line that could not be read again."""
    try:
        event = orjson.loads(text)
        if not isinstance(event, dict) or not {*event} >= {*_FIELDS} or {*event} - _MEMBERS:
            raise InvalidRequest("it is no exported event")
        from_json(message_type(event["type"]), upcasters.upcast(event["type"], event["schema_version"], event["data"]))
        at = datetime.fromisoformat(event["at"])
        if at.tzinfo is None:
            raise InvalidRequest("its time has no offset")
        event.update(event_id=UUID(event["event_id"]), at=at)
        return tuple(event[name] for name in _FIELDS)
    except ConfigurationError:
        raise
    except (InvalidRequest, ValueError, TypeError, AttributeError) as error:
        raise InvalidRequest(f"Line {number}: {error}") from error


async def _store(connection: Connection, rows: list[tuple[Any, ...]]) -> None:
    if not rows:
        return
    try:
        await connection.copy_records_to_table("events", records=rows, columns=_FIELDS)
    except asyncpg.UniqueViolationError as error:
        raise InvalidRequest(f"An event comes twice ({error.constraint_name}).") from error
    rows.clear()
