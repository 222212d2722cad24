"""The event log in memory: the twin of the Postgres log for tests.

Promises: the same laws, checked by the same tests. Refuses: to outlive its process.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID
from weakref import WeakKeyDictionary

from microtome import clock
from microtome.contracts.codec import from_json, to_json
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


class MemoryEventLog:
    """An `EventLog` in a list. Projections get None for a connection; `now` stamps the events."""

    def __init__(self, projections: Sequence[Projection[None]] = (), now: Callable[[], datetime] = clock.now) -> None:
        self._projections = tuple(projections)
        self._now = now
        self._events: list[StoredEvent] = []
        self._cursors: list[Cursor] = []
        self._streams: dict[str, list[StoredEvent]] = {}
        self._ids: dict[UUID, StoredEvent] = {}
        self._lock = asyncio.Lock()
        self._changed = asyncio.Condition()
        self._count = 0
        self._seen: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()

    async def append(self, *appends: Append) -> tuple[StoredEvent, ...]:
        """Store all events or none; see `EventLog.append`."""
        check_appends(appends)
        async with self._lock:
            repeated = already_stored(appends, self._known(appends))
            if repeated is not None:
                return repeated
            check_versions(appends, {append.stream: len(self._streams.get(append.stream, ())) for append in appends})
            stored = self._stored(appends)
            for event in stored:
                for projection in self._projections:
                    await projection.apply(None, event)
            for projection in self._projections:
                if isinstance(projection, SettlingProjection):
                    await projection.settle(None, stored)
            self._keep(stored)
        async with self._changed:
            self._count += 1
            self._changed.notify_all()
        return tuple(stored)

    async def read_stream(self, stream: str, after_version: int = 0) -> tuple[StoredEvent, ...]:
        """Return the events of a stream; see `EventLog.read_stream`."""
        return tuple(self._streams.get(stream, ())[after_version:])

    async def read_all(self, after: Cursor = START, limit: int = 1000) -> tuple[StoredEvent, ...]:
        """Return events of all streams; see `EventLog.read_all`."""
        first = bisect_right(self._cursors, after)
        return tuple(self._events[first : first + limit])

    async def count(self, after: Cursor = START, limit: int = 10_000) -> int:
        """Return how many events lie after the cursor; see `EventLog.count`."""
        return min(limit, len(self._cursors) - bisect_right(self._cursors, after))

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - see the protocol
        """Sleep until something may have been appended; see `EventLog.wait`."""
        task = asyncio.current_task()
        if task is None:  # cannot be: a coroutine that awaits runs in a task
            raise RuntimeError("wait needs a running task")
        seen = self._seen.get(task, 0)
        async with self._changed:
            try:
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self._count > seen)
            except TimeoutError:
                return False
            self._seen[task] = self._count
            return True

    def _known(self, appends: tuple[Append, ...]) -> dict[UUID, StoredEvent]:
        ids = (event.event_id for append in appends for event in append.events)
        return {event_id: self._ids[event_id] for event_id in ids if event_id in self._ids}

    def _keep(self, stored: Sequence[StoredEvent]) -> None:
        for event in stored:
            self._events.append(event)
            self._cursors.append(event.cursor)
            self._streams.setdefault(event.stream, []).append(event)
            self._ids[event.event_id] = event

    def _stored(self, appends: tuple[Append, ...]) -> list[StoredEvent]:
        # Like a transaction: one xid for all events of an append.
        last = self._events[-1].cursor if self._events else START
        stored: list[StoredEvent] = []
        for append in appends:
            for number, event in enumerate(append.events, start=1):
                stored.append(
                    StoredEvent(
                        cursor=Cursor(last.xid + 1, last.position + len(stored) + 1),
                        stream=append.stream,
                        version=append.expected_version + number,
                        event_id=event.event_id,
                        tenant=event.tenant,
                        # Through JSON and back, as the real log does.
                        message=from_json(type(event.message), to_json(event.message)),
                        meta=dict(event.meta),
                        at=self._now(),
                    )
                )
        return stored
