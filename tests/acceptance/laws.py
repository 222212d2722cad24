"""The scheduling law, read off a log: whoever wrote the log, and however fast, it holds or `check` says where not.

Written from the law's text, without the domain's code, so that the one can find the other wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobRetried,
    JobSpec,
    JobStarted,
    JobSucceeded,
    SeatGranted,
    SeatReleased,
    SlideRegistered,
    WorkflowSubmitted,
)
from microtome.eventlog.log import StoredEvent


class Broken(AssertionError):
    """An event that the law forbids."""


@dataclass(frozen=True)
class Run:
    """One attempt; `start` and `end` are places in the log, `end` None while it runs."""

    user: str
    workflow: str
    job: str
    key: str
    branch: str
    attempt: int
    slot: int
    start: int
    end: int | None = None
    outcome: str = "running"

    def overlaps(self, other: Run) -> bool:
        return self.start < (other.end or 1 << 60) and other.start < (self.end or 1 << 60)


@dataclass
class History:
    """What the log says happened."""

    runs: list[Run] = field(default_factory=list)
    most_at_once: int = 0
    seats: dict[str, int] = field(default_factory=dict)

    def of(self, workflow: str) -> dict[str, list[Run]]:
        """The attempts of one workflow by job key, in the order of their starts."""
        found: dict[str, list[Run]] = {}
        for run in self.runs:
            if run.workflow == workflow:
                found.setdefault(run.key, []).append(run)
        return found


@dataclass
class _Flow:
    user: str
    order: list[JobSpec]
    status: dict[str, str]
    attempts: dict[str, int]


class _Checker:
    def __init__(self, max_workers: int, max_active_users: int) -> None:
        self.max_workers, self.max_active_users = max_workers, max_active_users
        self.history = History()
        self.flows: dict[str, _Flow] = {}
        self.running: dict[str, int] = {}  # job -> index of its run

    def take(self, place: int, event: StoredEvent) -> None:
        def law(holds: bool, text: str) -> None:
            if not holds:
                raise Broken(f"event {place} ({type(event.message).__name__} in {event.stream}): {text}")

        workflow = event.stream.removeprefix("workflow-")
        seats, runs = self.history.seats, self.history.runs
        match event.message:
            case SlideRegistered():
                pass
            case WorkflowSubmitted(user_id=user, jobs=jobs):
                law(workflow not in self.flows, "submitted twice")
                ids = [spec.job_id for spec in jobs]
                self.flows[workflow] = _Flow(user, list(jobs), dict.fromkeys(ids, "pending"), dict.fromkeys(ids, 0))
            case SeatGranted(user_id=user, seat=seat):
                law(user not in seats and seat not in seats.values(), "the user has a seat, or the seat a user")
                seats[user] = seat
                law(len(seats) <= self.max_active_users, f"{len(seats)} users are active")
            case SeatReleased(user_id=user, seat=seat):
                law(seats.pop(user, None) == seat, "not this user's seat")
                busy = [run for run in runs if run.user == user and run.end is None]
                law(not busy, "the user still runs something")
            case JobStarted(job_id=job, attempt=attempt, slot=slot):
                self._start(place, workflow, job, attempt, slot, law)
            case JobPlanned(job_id=job, attempt=attempt):
                law(self._attempt(job) == attempt, "this attempt does not run")
            case (
                JobSucceeded(job_id=job, attempt=attempt)
                | JobFailed(job_id=job, attempt=attempt)
                | JobAttemptLost(job_id=job, attempt=attempt)
            ):
                law(self._attempt(job) == attempt, "this attempt does not run")
                again = getattr(event.message, "retry_at", None) is not None
                names = {JobSucceeded: "succeeded", JobFailed: "failed", JobAttemptLost: "lost"}
                outcome = names[type(event.message)]
                self._end(place, job, outcome)
                self.flows[workflow].status[job] = "pending" if outcome == "lost" or again else outcome
            case JobCancelled(job_id=job):
                law(self.flows[workflow].status[job] != "succeeded", "it had succeeded")
                if job in self.running:
                    self._end(place, job, "cancelled")
                self.flows[workflow].status[job] = "cancelled"
            case JobRetried(job_id=job):
                law(self.flows[workflow].status[job] in ("failed", "cancelled"), "nothing to retry")
                self.flows[workflow].status[job] = "pending"
            case unknown:
                law(holds=False, text=f"the law knows no {unknown!r}")

    def _start(self, place: int, workflow: str, job: str, attempt: int, slot: int, law) -> None:
        flow, runs = self.flows[workflow], self.history.runs
        spec = next(spec for spec in flow.order if spec.job_id == job)
        law(flow.status[job] == "pending", f"it is {flow.status[job]}")
        law(flow.attempts[job] + 1 == attempt, f"attempt {attempt} follows {flow.attempts[job]}")
        flow.attempts[job] = attempt
        for needed in spec.depends_on:
            law(flow.status[needed] == "succeeded", f"its dependency is {flow.status[needed]}")
        before = flow.order[: flow.order.index(spec)]
        for earlier in (other for other in before if other.branch == spec.branch):
            law(
                flow.status[earlier.job_id] in ("succeeded", "cancelled"),
                f"{earlier.key!r} comes first in branch {spec.branch!r} and is {flow.status[earlier.job_id]}",
            )
        at_once = [runs[index] for index in self.running.values()]
        law(
            not any(run.workflow == workflow and run.branch == spec.branch for run in at_once),
            f"branch {spec.branch!r} is busy",
        )
        law(flow.user in self.history.seats, "its user has no seat")
        law(slot not in {run.slot for run in at_once}, f"slot {slot} is taken")
        self.running[job] = len(runs)
        runs.append(Run(flow.user, workflow, job, spec.key, spec.branch, attempt, slot, place))
        flow.status[job] = "running"
        law(len(self.running) <= self.max_workers, f"{len(self.running)} jobs run at once")
        self.history.most_at_once = max(self.history.most_at_once, len(self.running))

    def _attempt(self, job: str) -> int | None:
        return self.history.runs[self.running[job]].attempt if job in self.running else None

    def _end(self, place: int, job: str, outcome: str) -> None:
        index = self.running.pop(job)
        self.history.runs[index] = replace(self.history.runs[index], end=place, outcome=outcome)


def check(events: Iterable[StoredEvent], *, max_workers: int, max_active_users: int) -> History:
    """Go through a whole log in its order. Raises `Broken` at the first event that the law forbids."""
    checker = _Checker(max_workers, max_active_users)
    for place, event in enumerate(events):
        checker.take(place, event)
    return checker.history
