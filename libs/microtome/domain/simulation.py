"""What if: the recorded wishes of users under other limits or policies.

    recording = record(log)                      # log: (message, at, stream) in the order of the log
    outcome = simulate(recording.wishes, recording.fates(), Limits(max_workers=8), policies={"*": BranchPolicy.SKIP})
    outcome.waits                                # one Wait per job, in the order in which the jobs came
    outcome.quantile(0.95, Wait.waited)          # timedelta | None

    record(log: Iterable[tuple[Message, datetime, str]]) -> Recording
    Recording.wishes: tuple[Wish, ...]           # what users asked for, and when
    Recording.fates() -> Fates                   # how long each job took, and whether it failed
    simulate(wishes, fates, limits, policies: Mapping[str, BranchPolicy] | None = None,
             until: datetime | None = None) -> Outcome

Promises: pure; the same recording under the same limits gives the same outcome; a recording without faults, simulated
under the limits that it was made with, gives its own waiting times, but for the time that the real processes took.
Refuses: to imagine faults, and to know how machines slow each other down: a job takes as long as it took.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from microtome.contracts.messages import (
    Branch,
    BranchPolicy,
    JobCancelled,
    JobFailed,
    JobPreempted,
    JobReleased,
    JobRetried,
    JobsAdded,
    JobStarted,
    JobSucceeded,
    Message,
    WorkflowSubmitted,
)
from microtome.domain import cluster as clusters
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.commands import AddJobs, Cancel, Release, Retry, Submit
from microtome.domain.course import Fate, Fates, Step, Wish, course
from microtome.domain.graph import members
from microtome.domain.limits import Limits
from microtome.domain.rates import Rates
from microtome.domain.state import Job, Workflow

EVERY_BRANCH = "*"


@dataclass(frozen=True, slots=True)
class Recording:
    """What a log says of users and jobs."""

    wishes: tuple[Wish, ...]
    ends: Mapping[str, tuple[Fate, ...]]
    """By job id, how it ended, each time that it ended for good."""
    rates: Rates
    """For jobs of which the log tells no end."""

    def fates(self) -> Fates:
        """Return how jobs end in one simulation: as they did, one time after the other; else as the rates say, and
        at once when the log tells of no work at all.
        """
        left = {job_id: list(reversed(fates)) for job_id, fates in self.ends.items()}
        begun: dict[str, tuple[int, Fate]] = {}

        def fate(job: Job) -> Fate:
            # The same fate for an attempt that was preempted and begins again.
            known = begun.get(job.job_id)
            if known is not None and known[0] == job.preemptions - job.attempt:
                return known[1]
            ends = left.get(job.job_id)
            if ends:
                found = ends.pop() if len(ends) > 1 else ends[0]
            else:
                found = Fate(self.rates.duration(job) or timedelta(0))
            begun[job.job_id] = (job.preemptions - job.attempt, found)
            return found

        return fate


def record(log: Iterable[tuple[Message, datetime, str]]) -> Recording:
    """Return the recording of a whole log; raises NotFound when it does not begin at the beginning."""
    cluster = Cluster()
    wishes: list[Wish] = []
    ends: dict[str, list[Fate]] = {}
    for message, at, stream in log:
        workflow_id = stream.removeprefix(STREAM_PREFIX)
        workflow = cluster.workflows.get(workflow_id)
        wish = _wish(message, at, workflow_id, workflow)
        if wish is not None:
            wishes.append(wish)
        final = isinstance(message, JobSucceeded) or (isinstance(message, JobFailed) and message.retry_at is None)
        if final and workflow is not None:
            assert isinstance(message, JobSucceeded | JobFailed)
            job = workflow.jobs[message.job_id]
            if job.started_at is not None:
                work = max(at - job.started_at, timedelta(0)) + job.ran
                ends.setdefault(job.job_id, []).append(Fate(work, isinstance(message, JobFailed)))
        cluster = clusters.evolve(cluster, message, at, stream)
    wishes.sort(key=lambda wish: wish.at)
    return Recording(tuple(wishes), {job_id: tuple(fates) for job_id, fates in ends.items()}, cluster.rates)


def _wish(message: Message, at: datetime, workflow_id: str, workflow: Workflow | None) -> Wish | None:
    user = workflow.user_id if workflow is not None else ""
    match message:
        case WorkflowSubmitted(user_id=owner, name=name, jobs=jobs, branches=branches):
            return Wish(at, workflow_id, owner, Submit(workflow_id, owner, name, jobs, branches))
        case JobsAdded(user_id=owner, jobs=jobs, branches=branches):
            return Wish(at, workflow_id, owner or user, AddJobs(jobs, branches))
        case JobReleased(job_id=job_id):
            return Wish(at, workflow_id, user, Release(job_id))
        case JobCancelled(job_id=job_id):
            return Wish(at, workflow_id, user, Cancel(job_id))
        case JobRetried(job_id=job_id):
            return Wish(at, workflow_id, user, Retry(job_id))
        case _:
            return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """How long one job waited."""

    job_id: str
    workflow_id: str
    user_id: str
    wanted_at: datetime
    """When it was submitted, added or started as a draft."""
    ready_at: datetime | None = None
    """When its dependencies and its branch first let it go."""
    started_at: datetime | None = None
    """When it first started."""
    finished_at: datetime | None = None
    """When it last succeeded or failed."""
    preemptions: int = 0

    def waited(self) -> timedelta | None:
        """Return how long it waited for a seat and a slot; None if it never started."""
        return None if self.started_at is None or self.ready_at is None else self.started_at - self.ready_at

    def queued(self) -> timedelta | None:
        """Return how long it waited for anything; None if it never started."""
        return None if self.started_at is None else self.started_at - self.wanted_at

    def took(self) -> timedelta | None:
        """Return the time from the wish to the end; None if it never ended."""
        return None if self.finished_at is None else self.finished_at - self.wanted_at


Measure = Callable[[Wait], timedelta | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    waits: tuple[Wait, ...]
    """One per job that was ever wanted to run, in the order of the wishes."""
    preemptions: int
    slot_time: timedelta
    """Time that slots were in use, all slots together."""
    finished_at: datetime | None
    """When the last thing happened."""
    most_running: int
    most_active_users: int

    def sorted(self, measure: Measure = Wait.waited) -> tuple[timedelta, ...]:
        """Return what is measured of all jobs that have it, the shortest first."""
        return tuple(sorted(span for wait in self.waits if (span := measure(wait)) is not None))

    def quantile(self, share: float, measure: Measure = Wait.waited) -> timedelta | None:
        """Return the least span that `share` (0 to 1) of the jobs do not exceed; None without jobs."""
        spans = self.sorted(measure)
        return spans[max(0, math.ceil(share * len(spans)) - 1)] if spans else None


@dataclass(slots=True)
class Ledger:
    """Writes down how long jobs wait: of a simulation, or of a log, whose events are steps as well."""

    waits: dict[str, Wait] = field(default_factory=dict)
    preemptions: int = 0
    slot_time: timedelta = timedelta(0)
    last: datetime | None = None
    most_running: int = 0
    most_active: int = 0

    def outcome(self) -> Outcome:
        """Return what came of all steps so far."""
        return Outcome(
            waits=tuple(self.waits.values()),
            preemptions=self.preemptions,
            slot_time=self.slot_time,
            finished_at=self.last,
            most_running=self.most_running,
            most_active_users=self.most_active,
        )

    def take(self, step: Step) -> None:
        """Take in the next step; steps come in the order of time."""
        if self.last is not None:
            self.slot_time += len(step.before.running) * (step.at - self.last)
        self.last = step.at
        self.most_running = max(self.most_running, len(step.after.running))
        self.most_active = max(self.most_active, len(step.after.seats))
        workflow_id = step.stream.removeprefix(STREAM_PREFIX)
        before = step.before.workflows.get(workflow_id)
        after = step.after.workflows.get(workflow_id)
        event = step.event
        if after is not None:
            if isinstance(event, WorkflowSubmitted | JobsAdded):
                for spec in event.jobs:
                    if not spec.draft:
                        self._wanted(spec.job_id, after, step.at)
            elif isinstance(event, JobReleased):
                self._wanted(event.job_id, after, step.at)
            self._ready(after, after.ready & ~(before.ready if before is not None else 0), step.at)
        if isinstance(event, JobStarted) and self.waits[event.job_id].started_at is None:
            self._note(event.job_id, started_at=step.at)
        elif isinstance(event, JobSucceeded | JobFailed):
            self._note(event.job_id, finished_at=step.at)
        elif isinstance(event, JobPreempted):
            self.preemptions += 1
            self._note(event.job_id, preemptions=self.waits[event.job_id].preemptions + 1)

    def _wanted(self, job_id: str, workflow: Workflow, at: datetime) -> None:
        if job_id not in self.waits:
            self.waits[job_id] = Wait(
                job_id=job_id, workflow_id=workflow.workflow_id, user_id=workflow.user_id, wanted_at=at
            )

    def _ready(self, workflow: Workflow, turns: int, at: datetime) -> None:
        for turn in members(turns):
            job_id = workflow.graph.turns[turn]
            self._wanted(job_id, workflow, at)
            if self.waits[job_id].ready_at is None:
                self._note(job_id, ready_at=at)

    def _note(self, job_id: str, **changes: datetime | int) -> None:
        self.waits[job_id] = replace(self.waits[job_id], **changes)  # type: ignore[arg-type]


def simulate(
    wishes: Iterable[Wish],
    fates: Fates,
    limits: Limits,
    policies: Mapping[str, BranchPolicy] | None = None,
    until: datetime | None = None,
) -> Outcome:
    """Return what comes of `wishes` under `limits`.

    `policies`: what branches do instead of what their users chose, by name; EVERY_BRANCH stands for those not named.
    `until`: nothing after this time is looked at; default: until nothing can happen any more.
    """
    wanted = [_under(wish, policies) for wish in wishes] if policies else list(wishes)
    ledger = Ledger()
    if wanted:
        for step in course(Cluster(), limits, wanted[0].at, fates, wanted):
            if until is not None and step.at > until:
                break
            ledger.take(step)
    return ledger.outcome()


def _under(wish: Wish, policies: Mapping[str, BranchPolicy]) -> Wish:
    command = wish.command
    if not isinstance(command, Submit | AddJobs):
        return wish
    chosen = {branch.name: branch.policy for branch in command.branches}
    for name in {spec.branch: None for spec in command.jobs}:
        policy = policies.get(name, policies.get(EVERY_BRANCH))
        if policy is not None:
            chosen[name] = policy
    branches = tuple(Branch(name=name, policy=policy) for name, policy in chosen.items())
    return replace(wish, command=replace(command, branches=branches))
