"""The state at a moment: the fold of the log up to it.

Promises: the very `evolve` of the scheduler; the log is walked once, page by page, and only the state is in memory.
Refuses: to guess the limits of that time: the log holds none. They are those given, and at least what was in use.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from microtome.contracts.messages import JobStarted, SeatGranted
from microtome.domain import cluster as clusters
from microtome.domain.cluster import Cluster
from microtome.domain.limits import Limits
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.replay.moment import NOW, Moment, Window
from microtome.replay.source import History


@dataclass(slots=True)
class Past:
    """The state at a moment, and how it came to it."""

    limits: Limits
    cluster: Cluster = field(default_factory=Cluster)
    cursor: Cursor = START
    """The last event folded."""
    at: datetime | None = None
    """The time of the latest event folded."""
    count: int = 0

    def take(self, event: StoredEvent) -> None:
        """Fold one event."""
        self.cluster = clusters.evolve(self.cluster, event.message, event.at, event.stream)
        self.cursor = event.cursor
        self.at = event.at if self.at is None else max(self.at, event.at)
        self.count += 1
        self.limits = in_use(self.limits, event)

    def now(self, moment: Moment, *, grows: bool) -> datetime:
        """The time of the moment, for what depends on the clock; the end of a log that `grows` is now."""
        if moment.time is not None:
            return moment.time
        return datetime.now(UTC) if (moment.is_end and grows) or self.at is None else self.at


def in_use(limits: Limits, event: StoredEvent) -> Limits:
    """The limits, raised to what an event proves: slots and seats are numbered from 0."""
    match event.message:
        case JobStarted(slot=slot) if slot >= limits.max_workers:
            return replace(limits, max_workers=slot + 1)
        case SeatGranted(seat=seat) if seat >= limits.max_active_users:
            return replace(limits, max_active_users=seat + 1)
        case _:
            return limits


async def until(
    history: History, moment: Moment = NOW, events: AsyncIterator[StoredEvent] | None = None
) -> AsyncIterator[StoredEvent]:
    """Yield of `events` (of all events, if not given) what had happened by the moment, in log order."""
    window = Window(moment)
    async for event in history.events() if events is None else events:
        if moment.over(event):
            return
        if window.admits(event):
            yield event


async def fold(history: History, moment: Moment, limits: Limits) -> Past:
    """The whole system at a moment. Raises what `History.events` raises."""
    past = Past(limits)
    async for event in until(history, moment):
        past.take(event)
    return past
