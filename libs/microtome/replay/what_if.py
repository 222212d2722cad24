"""What if: the recorded work under other limits or policies, beside what was recorded.

Promises: the recorded side is read off the log's own events, the simulated one comes from the domain's own rules; both
are measured alike. The log is read once, page by page; in memory are the wishes and one record per job.
Refuses: to imagine faults. It says how many attempts were lost (their time counts as work, since their tiles were
found again) and failed for a moment (theirs does not).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

from microtome.contracts.messages import BranchPolicy, Event, JobAttemptLost, JobFailed, Message
from microtome.domain import cluster as clusters
from microtome.domain.cluster import Cluster
from microtome.domain.course import Step
from microtome.domain.limits import Limits
from microtome.domain.simulation import EVERY_BRANCH, Ledger, Outcome, Recording, Wait, record, simulate
from microtome.errors import Conflict
from microtome.eventlog.log import StoredEvent
from microtome.replay.fold import in_use

_PAGE = 1000
LOST, FAILED = "lost", "failed for a moment"
SHARES = (0.5, 0.9, 0.99, 1.0)
POLICIES = {"halt": BranchPolicy.HALT, "skip": BranchPolicy.SKIP, "continue": BranchPolicy.CONTINUE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What is to be otherwise; None: as recorded."""

    max_workers: int | None = None
    max_active_users: int | None = None
    seat_tenure: float | None = None
    slice_seconds: float | None = None
    policies: Mapping[str, str] | None = None

    def applied(self, limits: Limits) -> Limits:
        """The limits with the changes."""
        if self.max_workers is not None:
            limits = replace(limits, max_workers=self.max_workers)
        if self.max_active_users is not None:
            limits = replace(limits, max_active_users=self.max_active_users)
        if self.seat_tenure is not None:
            tenure = timedelta(seconds=self.seat_tenure) if self.seat_tenure else None
            limits = replace(limits, seat_tenure=tenure)
        if self.slice_seconds is not None:
            limits = replace(limits, slice_seconds=self.slice_seconds)
        return limits

    def branch_policies(self) -> dict[str, BranchPolicy] | None:
        """Policies by branch; `all` stands for those that are not named."""
        if not self.policies:
            return None
        return {EVERY_BRANCH if name == "all" else name: POLICIES[policy] for name, policy in self.policies.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two: under which limits, and what came of it."""

    limits: Limits
    outcome: Outcome

    @property
    def makespan(self) -> timedelta:
        """From the first wish to the last event."""
        waits, end = self.outcome.waits, self.outcome.finished_at
        return timedelta(0) if not waits or end is None else end - min(wait.wanted_at for wait in waits)

    @property
    def utilisation(self) -> float:
        """How much of the worker slots' time was used, 0 to 1."""
        whole = self.makespan.total_seconds() * self.limits.max_workers
        return self.outcome.slot_time.total_seconds() / whole if whole else 0.0

    def of_user(self, user_id: str) -> Outcome:
        """The outcome for one user's jobs alone (their waits only)."""
        return replace(self.outcome, waits=tuple(wait for wait in self.outcome.waits if wait.user_id == user_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The recorded work and what would have come of it."""

    recorded: Side
    simulated: Side
    faults: Mapping[str, int]
    """Attempts of the recording that the simulation does not repeat, by what happened to them."""
    policies: Mapping[str, str]

    @property
    def users(self) -> tuple[str, ...]:
        """All users with jobs, in the order of their first wish."""
        return tuple(dict.fromkeys(wait.user_id for wait in self.recorded.outcome.waits))

    @property
    def same_rules(self) -> bool:
        """Whether nothing was changed: then the two sides tell how good the simulation is."""
        return self.recorded.limits == self.simulated.limits and not self.policies

    def start_errors(self) -> tuple[float, ...]:
        """Seconds between recorded and simulated first starts of the same jobs, without signs, smallest first."""
        starts = {wait.job_id: wait.started_at for wait in self.simulated.outcome.waits}
        return tuple(
            sorted(
                abs((simulated - wait.started_at).total_seconds())
                for wait in self.recorded.outcome.waits
                if wait.started_at is not None and (simulated := starts.get(wait.job_id)) is not None
            )
        )


class _Watched:
    """Hands the log to `record` and watches what passes."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.ledger = Ledger()
        self.faults: Counter[str] = Counter()
        self._cluster = Cluster()

    def events(self, log: Iterator[StoredEvent]) -> Iterator[tuple[Message, datetime, str]]:
        last: datetime | None = None
        for event in log:
            before = self._cluster
            self._cluster = clusters.evolve(before, event.message, event.at, event.stream)
            # Transactions that ran side by side may be a little out of order by time.
            last = event.at if last is None else max(last, event.at)
            self.ledger.take(Step(last, event.stream, cast("Event", event.message), before, self._cluster))
            self.limits = in_use(self.limits, event)
            if isinstance(event.message, JobAttemptLost):
                self.faults[LOST] += 1
            elif isinstance(event.message, JobFailed) and event.message.retry_at is not None:
                self.faults[FAILED] += 1
            yield event.message, event.at, event.stream


async def compare(events: AsyncIterator[StoredEvent], known: Limits, changes: Changes) -> Comparison:
    """Read the log and run its work under the changed limits; `known`: the least that the recorded limits were.

    Raises `Conflict` when the log holds no work.
    """
    loop = asyncio.get_running_loop()
    watched = _Watched(known)
    recording: Recording = await asyncio.to_thread(record, watched.events(_blocking(events, loop)))
    if not recording.wishes:
        raise Conflict("The log holds no workflow up to there; there is nothing to simulate.")
    limits = changes.applied(watched.limits)
    outcome = await asyncio.to_thread(simulate, recording.wishes, recording.fates(), limits, changes.branch_policies())
    return Comparison(
        recorded=Side(limits=watched.limits, outcome=watched.ledger.outcome()),
        simulated=Side(limits=limits, outcome=outcome),
        faults=dict(watched.faults),
        policies=dict(changes.policies or {}),
    )


def _blocking(events: AsyncIterator[StoredEvent], loop: asyncio.AbstractEventLoop) -> Iterator[StoredEvent]:
    """The events for a thread that is not the loop's, a page at a time."""

    async def page() -> list[StoredEvent]:
        found: list[StoredEvent] = []
        async for event in events:
            found.append(event)
            if len(found) >= _PAGE:
                break
        return found

    while some := asyncio.run_coroutine_threadsafe(page(), loop).result():
        yield from some


def document(comparison: Comparison) -> dict[str, Any]:
    """The comparison as JSON; durations are seconds."""
    errors = comparison.start_errors()
    return {
        "recorded": _side(comparison.recorded),
        "simulated": _side(comparison.simulated),
        "policies": dict(comparison.policies),
        "faults_not_simulated": dict(comparison.faults),
        "start_error_seconds": {_name(share): quantile(errors, share) for share in SHARES},
        "users": {
            user: {
                "recorded": _waits(comparison.recorded.of_user(user)),
                "simulated": _waits(comparison.simulated.of_user(user)),
            }
            for user in comparison.users
        },
        "jobs": _jobs(comparison),
    }


def _side(side: Side) -> dict[str, Any]:
    limits = side.limits
    return {
        "max_workers": limits.max_workers,
        "max_active_users": limits.max_active_users,
        "seat_tenure": limits.seat_tenure.total_seconds() if limits.seat_tenure else 0.0,
        "slice_seconds": limits.slice_seconds,
        "makespan_seconds": side.makespan.total_seconds(),
        "utilisation": round(side.utilisation, 4),
        "preemptions": side.outcome.preemptions,
        "most_running": side.outcome.most_running,
        "most_active_users": side.outcome.most_active_users,
        **_waits(side.outcome),
    }


def _waits(outcome: Outcome) -> dict[str, Any]:
    return {
        "jobs": len(outcome.waits),
        "started": len(outcome.sorted()),
        "finished": len(outcome.sorted(Wait.took)),
        "waited_seconds": {_name(share): _seconds(outcome.quantile(share)) for share in SHARES},
        "took_seconds": {_name(share): _seconds(outcome.quantile(share, Wait.took)) for share in SHARES},
    }


def _jobs(comparison: Comparison) -> list[dict[str, Any]]:
    simulated = {wait.job_id: wait for wait in comparison.simulated.outcome.waits}
    return [
        {
            "job_id": wait.job_id,
            "workflow_id": wait.workflow_id,
            "user_id": wait.user_id,
            "recorded_waited_seconds": _seconds(wait.waited()),
            "simulated_waited_seconds": _seconds(other.waited())
            if (other := simulated.get(wait.job_id)) is not None
            else None,
        }
        for wait in comparison.recorded.outcome.waits
    ]


def quantile(values: tuple[float, ...], share: float) -> float | None:
    """The least of the sorted values that `share` of them do not exceed; None without values."""
    return values[max(0, math.ceil(share * len(values)) - 1)] if values else None


def _name(share: float) -> str:
    return "max" if share == 1 else f"p{share * 100:.0f}"


def _seconds(span: timedelta | None) -> float | None:
    return None if span is None else span.total_seconds()
