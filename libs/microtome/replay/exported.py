"""A log in a file that `export` wrote, to be read as the database is.

Promises: the same events in the same order, a line in memory at a time; standard input is copied to a temporary file
first, since a log is read more than once.
Refuses, with InvalidRequest and the number of the line: what is no exported event, and an order that is not the log's.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import orjson

from microtome.contracts.codec import from_json, message_type
from microtome.errors import InvalidRequest, MicrotomeError, NotFound
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.upcast import UPCASTERS


class FileHistory:
    """The log of a file. `file` is seekable and binary."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    async def events(
        self,
        after: Cursor = START,
        *,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        """Yield the events after the cursor in the order of the file."""
        wanted = (("stream", streams), ("type", types), ("tenant", tenants))
        last = START
        offset = 0
        number = 0
        while True:
            # Somebody else may have read from the file since.
            self._file.seek(offset)
            text = self._file.readline()
            if not text:
                return
            offset += len(text)
            number += 1
            with _line(number):
                event = orjson.loads(text)
                cursor = Cursor.parse(event["cursor"]) if event.get("cursor") else Cursor(1, number)
                if cursor <= last:
                    raise InvalidRequest(f"{cursor} comes after {last}, which is not the order of a log")
                last = cursor
                if cursor <= after or any(some is not None and event[name] not in some for name, some in wanted):
                    continue
                found = _event(cursor, event)
            yield found


def _event(cursor: Cursor, event: dict[str, Any]) -> StoredEvent:
    data = UPCASTERS.upcast(event["type"], event["schema_version"], event["data"])
    at = datetime.fromisoformat(event["at"])
    if at.tzinfo is None:
        raise InvalidRequest("its time has no offset")
    return StoredEvent(
        cursor=cursor,
        stream=event["stream"],
        version=event["version"],
        event_id=UUID(event["event_id"]),
        tenant=event["tenant"],
        message=from_json(message_type(event["type"]), data),
        meta=event["meta"],
        at=at,
    )


@contextmanager
def _line(number: int) -> Iterator[None]:
    try:
        yield
    except MicrotomeError as error:
        raise InvalidRequest(f"Line {number} of the log is no exported event: {error.detail}") from error
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise InvalidRequest(f"Line {number} of the log is no exported event: {error!r}") from error


@contextmanager
def open_file(path: Path) -> Iterator[FileHistory]:
    """Open an exported log; `-` is standard input. Raises `NotFound` when there is no such file."""
    if str(path) == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(sys.stdin.buffer, copy)
            yield FileHistory(copy)
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"The log {path} cannot be read: {error.strerror}.") from error
    with file:
        yield FileHistory(file)
