"""The log, event by event.

Promises: every event that passes the filters once, in log order; following goes on across restarts of the database.
Refuses: to keep what it has printed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

from microtome.domain.cluster import STREAM_PREFIX
from microtome.errors import Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.replay import output
from microtome.replay.describe import Names, job_of, sentence
from microtome.replay.fold import until
from microtome.replay.moment import NOW, Moment
from microtome.replay.source import DatabaseHistory, History, open_log

_PATIENCE_S = 1.0
_STYLES = {
    "JobSucceeded": "green",
    "JobFailed": "bold red",
    "JobAttemptLost": "red",
    "JobPreempted": "yellow",
    "JobSkipped": "magenta",
    "JobCancelled": "magenta",
    "JobStarted": "cyan",
    "SeatGranted": "blue",
    "SeatReleased": "blue",
}


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events are wanted; None: all."""

    streams: tuple[str, ...] | None = None
    types: tuple[str, ...] | None = None
    tenants: tuple[str, ...] | None = None
    job_id: str | None = None

    def events(self, history: History, after: Cursor) -> AsyncIterator[StoredEvent]:
        """The wanted events after a cursor, in log order."""
        found = history.events(after, streams=self.streams, types=self.types, tenants=self.tenants)
        return found if self.job_id is None else self._of_job(found)

    async def _of_job(self, events: AsyncIterator[StoredEvent]) -> AsyncIterator[StoredEvent]:
        async for event in events:
            jobs = getattr(event.message, "jobs", ())
            if job_of(event.message) == self.job_id or any(job.job_id == self.job_id for job in jobs):
                yield event


async def last(history: History, wanted: Filter, count: int, end: Moment = NOW) -> tuple[StoredEvent, ...]:
    """Return the last `count` wanted events up to `end`."""
    if isinstance(history, DatabaseHistory) and wanted.job_id is None and end.is_end:
        return await history.last(count, streams=wanted.streams, types=wanted.types, tenants=wanted.tenants)
    found: deque[StoredEvent] = deque(maxlen=count)
    async for event in until(history, end, wanted.events(history, START)):
        found.append(event)
    return tuple(found)


async def end(history: History) -> Cursor:
    """Return the place of the last event."""
    found = await last(history, Filter(), 1)
    return found[-1].cursor if found else START


async def since(history: History, wanted: Filter, first: Moment, end: Moment) -> AsyncIterator[StoredEvent]:
    """Yield the wanted events after `first` (a cursor or position) or from it on (a time), up to `end`."""
    async for event in until(history, end, wanted.events(history, first.cursor or START)):
        if _later(event, first):
            yield event


def _later(event: StoredEvent, first: Moment) -> bool:
    return event.at >= first.time if first.time is not None else not first.includes(event)


async def follow(database: Database, wanted: Filter, after: Cursor, first: Moment) -> AsyncIterator[StoredEvent]:
    """Yield the wanted events after a cursor that are no earlier than `first`, and then what is appended, until
    cancelled.
    """
    history = DatabaseHistory(database)
    async with open_log(database) as log:
        while True:
            try:
                async for event in wanted.events(history, after):
                    if _later(event, first):
                        yield event
                    after = event.cursor
                await log.wait(_PATIENCE_S)
            except Unavailable as away:
                output.remark(f"{away.detail}; trying again")
                await asyncio.sleep(_PATIENCE_S)


class Printer:
    """Prints events, one a line."""

    def __init__(self, console: Console, history: History, *, json: bool) -> None:
        self._console = console
        self._history = history
        self._json = json
        self._names = Names()
        self._known: set[str] = set()
        self._knows_all = False

    async def print(self, event: StoredEvent, document: dict[str, object]) -> None:
        """Print one event; `document` is its JSON."""
        if self._json:
            output.print_json_line(document)
            return
        await self._learn(event)
        name = type(event.message).__name__
        self._console.print(
            Text.assemble(
                (_time(event.at), "dim"),
                f"  {event.cursor!s:<14}",
                (f" {event.tenant:<12}", "bold"),
                (f" {name:<18}", _STYLES.get(name, "")),
                f" {sentence(event.message, self._names)}",
                (_worker(event), "dim"),
            ),
            soft_wrap=True,
        )

    async def _learn(self, event: StoredEvent) -> None:
        """Look once for the names of a workflow's jobs; most events name only the job's id."""
        self._names.learn(event.message)
        if event.stream.startswith(STREAM_PREFIX) and event.stream not in self._known:
            self._known.add(event.stream)
            if event.version == 1 or self._knows_all:
                return
            # A file has no index: there it costs the same to learn the names of all.
            self._knows_all = not isinstance(self._history, DatabaseHistory)
            streams = None if self._knows_all else [event.stream]
            async for earlier in self._history.events(streams=streams, types=["WorkflowSubmitted", "JobsAdded"]):
                self._names.learn(earlier.message)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}.{at.microsecond // 1000:03d}"


def _worker(event: StoredEvent) -> str:
    return f"  [{event.meta['worker']}]" if event.meta.get("worker") else ""
