"""The scheduler's loop: fold, decide, append.

Promises: it decides on what it has folded, and what it decides is appended only if every stream it
touches is still where the fold saw it; all decisions of one look go into one transaction, or, if one of its streams
has moved, with what is decided anew on that stream's newest state.
Refuses: to keep any state that is not a fold of the log.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from microtome import clock
from microtome.contracts.messages import Event, JobStarted
from microtome.crashpoint import CrashPoint, crash_point
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.enacting import enacted
from microtome.domain.limits import Limits
from microtome.domain.scheduling import Decision, next_wakeup, schedule
from microtome.errors import ConcurrencyConflict, Conflict
from microtome.eventlog.log import Append, EventLog, NewEvent, StoredEvent
from microtome.eventlog.patience import FIRST_S, Patience
from microtome.telemetry.tracing import span_from
from microtome.workflows import new_event
from services.scheduler.folding import Observe, State
from services.scheduler.rebasing import needed, rebased

log = logging.getLogger(__name__)

# What was appended becomes readable in a moment; without a wake-up it is looked for at least this often.
SETTLE_S = 0.02
PAGE = 1000
# A stream that moves this often while a decision is on its way is left to the next look.
TRIES = 3

Started = Callable[[StoredEvent], None]


class Decider:
    """Folds the log, and decides when it is told to. Its state is good for ever: a fold never becomes wrong."""

    def __init__(
        self,
        log_: EventLog,
        limits: Limits,
        observe: Observe,
        state: State | None = None,
        started: Started = lambda _event: None,
    ) -> None:
        """`observe(event, cluster before it)` is told of every event that is folded, `started(event)` of every
        `JobStarted` that this one appends. `state`: where to begin; the log's start by default.
        """
        self._log = log_
        self._limits = limits
        self._observe = observe
        self._started = started
        self._state = state or State()
        # How much the database's clock is ahead of ours: what facts are stamped by, durations are measured by.
        self._ahead = timedelta(0)

    @property
    def cluster(self) -> Cluster:
        """What is known now."""
        return self._state.cluster

    async def run(self) -> None:
        """Decide until cancelled. Raises `Unavailable` when the log cannot be reached."""
        patience = Patience()
        while True:
            folded = await self.catch_up()
            acted = await self.decide_once()
            if folded or acted:
                patience.hurry()
            if not acted and await self._log.wait(min(patience.seconds(), self._until_next())):
                patience.hurry()

    async def catch_up(self) -> bool:
        """Fold everything that can be read; say whether there was something."""
        before = self._state.folded
        while events := await self._log.read_all(self._state.cursor, PAGE):
            for event in events:
                self._observe(event, self._state.cluster)
                self._state.take(event)
        return self._state.folded > before

    async def decide_once(self) -> bool:
        """Decide and append; say whether something was appended."""
        decisions = schedule(self.cluster, self._limits, self._now())
        appends = self._appends(decisions)
        if not appends:
            return False
        crash_point(CrashPoint.SCHEDULER_BEFORE_APPEND)
        asked = clock.now()
        appended = await self._append(appends)
        if not appended:
            # What won the race is readable already, or in a moment.
            await self._log.wait(FIRST_S)
            return False
        crash_point(CrashPoint.SCHEDULER_AFTER_APPEND_BEFORE_FOLD)
        self._ahead = appended[-1].at - (asked + (clock.now() - asked) / 2)
        for event in appended:
            if isinstance(event.message, JobStarted):
                self._started(event)
        # What was appended must be folded before the next look, or it would be decided again.
        await self._wait_for(appended)
        return True

    async def _append(self, appends: Sequence[Append]) -> Sequence[StoredEvent]:
        """Append all in one transaction; if somebody (a user who cancels, a worker that is done, another scheduler) was
        faster in one stream, as that stream is now. Return what is stored.
        """
        now: Sequence[Append] = appends
        for _ in range(TRIES):
            try:
                return await self._log.append(*now)
            except ConcurrencyConflict as lost:
                log.info("decisions were overtaken: %s", lost)
            except Conflict as refused:
                log.info("decisions are refused: %s", refused)
                break
            # What moved a stream is committed, though it may not be readable in the order of the log yet.
            anew = [append for each in appends if (append := await self._rebased(each)) is not None]
            now = needed(anew, {running.job_id: running.slot for running in self.cluster.running.values()})
            if not now:
                return ()
        stored: list[StoredEvent] = []
        # One by one, in their order: what needs a seat or a slot that is not free after all, the constraints refuse.
        for append in now if len(now) > 1 else ():
            with contextlib.suppress(ConcurrencyConflict, Conflict):
                stored += await self._log.append(append)
        return stored

    async def _rebased(self, append: Append) -> Append | None:
        workflow = self.cluster.workflows.get(append.stream.removeprefix(STREAM_PREFIX))
        return append if workflow is None else await rebased(self._log, workflow, append)

    async def _wait_for(self, appended: Iterable[StoredEvent]) -> None:
        last = max(event.cursor for event in appended)
        patience = Patience(SETTLE_S)
        patience.hurry()
        while True:
            await self.catch_up()
            if self._state.cursor >= last:
                return
            # Some older transaction is still open and holds the readers back; it loses nothing, it delays.
            await self._log.wait(patience.seconds())

    def _appends(self, decisions: Iterable[Decision]) -> tuple[Append, ...]:
        """Turn decisions into events, grouped by stream; seats first, since a running job refers to its user's seat."""
        grouped: dict[str, list[tuple[Event, str]]] = {}
        for fact in enacted(self.cluster, decisions):
            grouped.setdefault(fact.stream, []).append((fact.event, fact.user_id))
        return tuple(
            Append(
                stream=stream,
                expected_version=self._state.versions.get(stream, 0),
                events=tuple(self._stamp(stream, event, user) for event, user in events),
            )
            for stream, events in grouped.items()
        )

    def _stamp(self, stream: str, event: Event, user: str) -> NewEvent:
        if not isinstance(event, JobStarted):
            return new_event(event, user)
        # A start belongs to the trace in which its workflow was submitted.
        with span_from(self._state.traces.get(stream), "start job", attempt=event.attempt):
            log.info("a job starts", extra={"job_id": event.job_id, "attempt": event.attempt, "slot": event.slot})
            return new_event(event, user)

    def _now(self) -> datetime:
        """Return the time by the database's clock, as far as it is known."""
        return clock.now() + self._ahead

    def _until_next(self) -> float:
        now = self._now()
        wake = next_wakeup(self.cluster, now, self._limits)
        return float("inf") if wake is None else max(0.01, (wake - now).total_seconds())
