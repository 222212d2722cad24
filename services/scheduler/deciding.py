"""The scheduler's loop: fold, decide, append.

Promises: it decides on what it has folded, and what it decides is appended only if every stream it
touches is still where the fold saw it; all decisions of one look go into one transaction.
Refuses: to keep any state that is not a fold of the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from microtome.contracts.messages import Event, JobStarted, SeatGranted, SeatReleased
from microtome.domain.cluster import STREAM_PREFIX, Cluster, evolve
from microtome.domain.limits import Limits
from microtome.domain.scheduling import Decision, GrantSeat, ReleaseSeat, StartJob, next_wakeup, schedule
from microtome.domain.workflow import Start, decide
from microtome.errors import ConcurrencyConflict, Conflict
from microtome.eventlog.log import START, Append, EventLog, NewEvent, StoredEvent
from microtome.telemetry.tracing import span_from
from microtome.workflows import new_event

log = logging.getLogger(__name__)

SEATS = "seats"
# An event may become readable without a wake-up (it commits behind a slower transaction), so never sleep long.
LONGEST_SLEEP_S = 1.0
# After a lost race: what won it becomes readable in a moment.
LOST_RACE_PAUSE_S = 0.02
PAGE = 1000

Observe = Callable[[StoredEvent, Cluster], None]


class Decider:
    """Folds the log and decides, for as long as this process leads."""

    def __init__(self, log_: EventLog, limits: Limits, observe: Observe) -> None:
        """`observe(event, cluster before it)` is told of every event that is folded."""
        self._log = log_
        self._limits = limits
        self._observe = observe
        self._cursor = START
        self._versions: dict[str, int] = {}
        self._traces: dict[str, str] = {}
        self.cluster = Cluster()

    async def run(self) -> None:
        """Decide until cancelled. Raises `Unavailable` when the log cannot be reached."""
        while True:
            await self.catch_up()
            acted = await self.decide_once()
            if not acted:
                await self._log.wait(self._patience())

    async def catch_up(self) -> None:
        """Fold everything that can be read."""
        while events := await self._log.read_all(self._cursor, PAGE):
            for event in events:
                self._fold(event)

    async def decide_once(self) -> bool:
        """Decide and append; say whether something was appended."""
        decisions = schedule(self.cluster, self._limits, datetime.now(UTC))
        appends = self._appends(decisions)
        if not appends:
            return False
        try:
            appended = await self._log.append(*appends)
        except (ConcurrencyConflict, Conflict) as lost:
            # Somebody (a user who cancels, another scheduler) was faster, and what they did is not folded yet.
            log.info("decisions were overtaken and are made anew: %s", lost)
            await self._log.wait(LOST_RACE_PAUSE_S)
            return False
        # What was appended must be folded before the next look, or it would be decided again.
        await self._wait_for(appended)
        return True

    async def _wait_for(self, appended: Iterable[StoredEvent]) -> None:
        last = max(event.cursor for event in appended)
        while self._cursor < last:
            before = self._cursor
            await self.catch_up()
            if self._cursor == before:
                # Some older transaction is still open and holds the readers back; it loses nothing, it delays.
                await self._log.wait(LOST_RACE_PAUSE_S)

    def _fold(self, event: StoredEvent) -> None:
        self._observe(event, self.cluster)
        self.cluster = evolve(self.cluster, event.message, event.at, event.stream)
        self._cursor = event.cursor
        workflow_id = event.stream.removeprefix(STREAM_PREFIX)
        if event.stream == SEATS or workflow_id in self.cluster.workflows:
            self._versions[event.stream] = event.version
            if "traceparent" in event.meta:
                self._traces.setdefault(event.stream, event.meta["traceparent"])
        else:
            self._versions.pop(event.stream, None)
            self._traces.pop(event.stream, None)

    def _appends(self, decisions: Iterable[Decision]) -> tuple[Append, ...]:
        """Turn decisions into events, grouped by stream; seats first, since a running job refers to its user's seat."""
        seats: list[tuple[Event, str]] = []
        starts: dict[str, list[tuple[Event, str]]] = {}
        for decision in decisions:
            match decision:
                case ReleaseSeat(user_id=user, seat=seat):
                    seats.append((SeatReleased(user_id=user, seat=seat), user))
                case GrantSeat(user_id=user, seat=seat):
                    seats.append((SeatGranted(user_id=user, seat=seat), user))
                case StartJob(workflow_id=workflow_id):
                    workflow = self.cluster.workflows[workflow_id]
                    events = decide(workflow, Start(decision.job_id, decision.slot), self._limits)
                    starts.setdefault(STREAM_PREFIX + workflow_id, []).extend(
                        (event, workflow.user_id) for event in events
                    )
        grouped = {SEATS: seats, **starts} if seats else starts
        return tuple(
            Append(
                stream=stream,
                expected_version=self._versions.get(stream, 0),
                events=tuple(self._stamp(stream, event, user) for event, user in events),
            )
            for stream, events in grouped.items()
        )

    def _stamp(self, stream: str, event: Event, user: str) -> NewEvent:
        if not isinstance(event, JobStarted):
            return new_event(event, user)
        # A start belongs to the trace in which its workflow was submitted.
        with span_from(self._traces.get(stream), "start job", attempt=event.attempt):
            log.info("a job starts", extra={"job_id": event.job_id, "attempt": event.attempt, "slot": event.slot})
            return new_event(event, user)

    def _patience(self) -> float:
        now = datetime.now(UTC)
        wake = next_wakeup(self.cluster, now)
        if wake is None:
            return LONGEST_SLEEP_S
        return min(LONGEST_SLEEP_S, max(0.01, (wake - now).total_seconds()))
