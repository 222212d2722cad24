"""The scheduling law, read off a log: whoever wrote the log, and however fast, it holds or `check` says where not.

Written from the law's text, without the domain's code, so that the one can find the other wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from microtome.contracts.messages import (
    ArtifactsDeleted,
    Branch,
    BranchPolicy,
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobPreempted,
    JobReleased,
    JobRetried,
    JobsAdded,
    JobSkipped,
    JobSpec,
    JobStarted,
    JobSucceeded,
    SeatGranted,
    SeatReleased,
    SlideDeleted,
    SlideRegistered,
    WorkflowSubmitted,
)
from microtome.eventlog.log import StoredEvent

# What ends a run, whatever comes after it.
ENDS_RUN = (JobSucceeded, JobFailed, JobAttemptLost, JobPreempted, JobCancelled)
_OUTCOMES = {JobSucceeded: "succeeded", JobFailed: "failed", JobAttemptLost: "lost", JobPreempted: "preempted"}
# Came to nothing; only the user can make anything more of it.
_BROKEN = ("failed", "cancelled", "skipped")
_OVER = ("succeeded", *_BROKEN)


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
    # At the end of the log, the jobs that run or that nothing but a missing seat or slot keeps from running.
    forgotten: list[str] = field(default_factory=list)
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
    specs: dict[str, JobSpec] = field(default_factory=dict)
    status: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=dict)  # branch -> its jobs in their order; drafts are in none
    policies: dict[str, BranchPolicy] = field(default_factory=dict)

    def add(self, jobs: Iterable[JobSpec], branches: Iterable[Branch]) -> None:
        for branch in branches:
            self.policies.setdefault(branch.name, branch.policy)
        for spec in jobs:
            self.specs[spec.job_id] = spec
            self.attempts[spec.job_id] = 0
            self.status[spec.job_id] = "draft" if spec.draft else "pending"
            if not spec.draft:
                self.lines.setdefault(spec.branch, []).append(spec.job_id)

    def policy(self, spec: JobSpec) -> BranchPolicy:
        return self.policies.get(spec.branch) or BranchPolicy.HALT

    def earlier(self, spec: JobSpec) -> list[str]:
        line = self.lines.get(spec.branch, [])
        return line[: line.index(spec.job_id)]

    def passed_over(self, job: str) -> bool:
        """Whether the later jobs of its branch need not wait for it."""
        failed_and_no_matter = self.status[job] == "failed" and self.policy(self.specs[job]) == BranchPolicy.CONTINUE
        return self.status[job] in ("succeeded", "cancelled", "skipped") or failed_and_no_matter

    def forgotten(self) -> list[str]:
        """The jobs that could go on by themselves, but for seats and slots, and have not ended."""
        held: set[str] = set()
        found: list[str] = []
        grew = True
        while grew:
            grew = False
            for job, spec in self.specs.items():
                if job in held or self.status[job] != "pending":
                    continue
                waits = self.policy(spec) == BranchPolicy.HALT
                broken = any(self.status[needed] in _BROKEN for needed in spec.depends_on) and waits
                behind = any(
                    other in held or (self.status[other] == "failed" and waits) for other in self.earlier(spec)
                )
                if broken or behind or any(needed in held for needed in spec.depends_on):
                    held.add(job)
                    grew = True
        for job, status in self.status.items():
            drafted = any(self.status[needed] == "draft" for needed in self._all_needed(job))
            if status == "running" or (status == "pending" and job not in held and not drafted):
                found.append(job)
        return found

    def _all_needed(self, job: str) -> set[str]:
        """Everything that must come before a job: dependencies and, in its branch, whatever is not passed over."""
        needed: set[str] = set()
        ask = [job]
        while ask:
            spec = self.specs[ask.pop()]
            for other in (*spec.depends_on, *(self.earlier(spec) if self.status[spec.job_id] == "pending" else ())):
                if other not in needed and self.status[other] not in _OVER:
                    needed.add(other)
                    ask.append(other)
        return needed


class Checker:
    """Takes a log event by event."""

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
            case SlideRegistered() | SlideDeleted():
                pass
            case WorkflowSubmitted(user_id=user, jobs=jobs, branches=branches):
                law(workflow not in self.flows, "submitted twice")
                self.flows[workflow] = _Flow(user)
                self.flows[workflow].add(jobs, branches)
            case JobsAdded(jobs=jobs, branches=branches):
                known = self.flows[workflow].specs
                law(not any(spec.job_id in known for spec in jobs), "a job is added twice")
                self.flows[workflow].add(jobs, branches)
            case JobReleased(job_id=job):
                flow = self.flows[workflow]
                line = flow.lines.setdefault(flow.specs[job].branch, [])
                law(flow.status[job] in ("draft", *_BROKEN) and job not in line, "it was started before")
                flow.status[job] = "pending"
                line.append(job)
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
                | JobPreempted(job_id=job, attempt=attempt)
            ):
                law(self._attempt(job) == attempt, "this attempt does not run")
                again = getattr(event.message, "retry_at", None) is not None
                outcome = _OUTCOMES[type(event.message)]
                self._end(place, job, outcome)
                self.flows[workflow].status[job] = "pending" if again or outcome not in _OVER else outcome
            case JobSkipped(job_id=job, cause_job_id=cause):
                self._skip(workflow, job, cause, law)
            case ArtifactsDeleted(job_id=job):
                law(self.flows[workflow].status[job] in _OVER, "it is not over")
            case JobCancelled(job_id=job):
                law(self.flows[workflow].status[job] not in ("succeeded", "cancelled"), "it is over")
                if job in self.running:
                    self._end(place, job, "cancelled")
                self.flows[workflow].status[job] = "cancelled"
            case JobRetried(job_id=job):
                flow = self.flows[workflow]
                law(flow.status[job] in _BROKEN, "nothing to retry")
                law(job in flow.lines.get(flow.specs[job].branch, ()), "a draft is started, not retried")
                flow.status[job] = "pending"
            case unknown:
                law(holds=False, text=f"the law knows no {unknown!r}")

    def forgotten(self) -> list[str]:
        """The jobs that run, or that nothing but a seat or a slot keeps from running."""
        return [job for flow in self.flows.values() for job in flow.forgotten()]

    def _start(self, place: int, workflow: str, job: str, attempt: int, slot: int, law) -> None:
        flow, runs = self.flows[workflow], self.history.runs
        spec = flow.specs[job]
        law(flow.status[job] == "pending", f"it is {flow.status[job]}")
        law(flow.attempts[job] + 1 == attempt, f"attempt {attempt} follows {flow.attempts[job]}")
        flow.attempts[job] = attempt
        for needed in spec.depends_on:
            law(flow.status[needed] == "succeeded", f"its dependency is {flow.status[needed]}")
        for earlier in flow.earlier(spec):
            law(
                flow.passed_over(earlier),
                f"{flow.specs[earlier].key!r} comes first in branch {spec.branch!r} and is {flow.status[earlier]}",
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

    def _skip(self, workflow: str, job: str, cause: str, law) -> None:
        flow = self.flows[workflow]
        spec, policy = flow.specs[job], flow.policy(flow.specs[job])
        # Skipped already, it is skipped for another reason from now on.
        law(flow.status[job] in ("pending", "skipped"), f"it is {flow.status[job]}")
        law(policy != BranchPolicy.HALT, "its branch halts")
        law(flow.status[cause] in _BROKEN, f"the cause is {flow.status[cause]}")
        needed = cause in spec.depends_on
        behind = policy == BranchPolicy.SKIP and cause in flow.earlier(spec)
        law(needed or behind, "the cause is none")
        flow.status[job] = "skipped"

    def _attempt(self, job: str) -> int | None:
        return self.history.runs[self.running[job]].attempt if job in self.running else None

    def _end(self, place: int, job: str, outcome: str) -> None:
        index = self.running.pop(job)
        self.history.runs[index] = replace(self.history.runs[index], end=place, outcome=outcome)


def check(events: Iterable[StoredEvent], *, max_workers: int, max_active_users: int) -> History:
    """Go through a whole log in its order. Raises `Broken` at the first event that the law forbids."""
    checker = Checker(max_workers, max_active_users)
    for place, event in enumerate(events):
        checker.take(place, event)
    checker.history.forgotten = checker.forgotten()
    return checker.history
