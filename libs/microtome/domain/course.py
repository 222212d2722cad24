"""The course that things take from a state on: a run of the real rules in imagined time.

Promises: what happens is decided by the very `schedule`, `decide` and `evolve` that the scheduler goes by; a run is a
function of its arguments, and exact when the fates are.
Refuses: to imagine faults. Attempts end as their fate says; nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from heapq import heappop, heappush
from typing import TypeAlias

from microtome.contracts.messages import JobResult, JobsAdded, JobSucceeded, Message
from microtome.domain import cluster as clusters
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.commands import AddJobs, Command, ReportFailure
from microtome.domain.decisions import decide
from microtome.domain.enacting import enacted
from microtome.domain.limits import Limits
from microtome.domain.scheduling import next_wakeup, schedule
from microtome.domain.state import Job
from microtome.errors import MicrotomeError

_NO_TIME = timedelta(0)


@dataclass(frozen=True, slots=True)
class Fate:
    """How a job ends once all its work is done."""

    work: timedelta
    """Time that it spends in a slot, over all attempts of which the finished tiles are kept."""
    fails: bool = False
    """For good, after this work."""


Fates: TypeAlias = Callable[[Job], Fate]
"""The fate of a job of which an attempt begins."""


@dataclass(frozen=True, slots=True)
class Wish:
    """Somebody wants something of a workflow at a time."""

    at: datetime
    workflow_id: str
    user_id: str
    command: Command


@dataclass(frozen=True, slots=True)
class Step:
    """One event of the course, with what it made of the cluster."""

    at: datetime
    stream: str
    event: Message
    before: Cluster
    after: Cluster


def course(
    cluster: Cluster, limits: Limits, now: datetime, fates: Fates, wishes: Iterable[Wish] = ()
) -> Iterator[Step]:
    """Yield every event from `now` on, until nothing can happen any more.

    `wishes`: in the order of time; those that the state does not allow are passed over, as a user would be refused.
    """
    return _Course(cluster, limits, now, fates, wishes).steps()


class _Course:
    def __init__(self, cluster: Cluster, limits: Limits, now: datetime, fates: Fates, wishes: Iterable[Wish]) -> None:
        self._cluster = cluster
        self._limits = limits
        self._now = now
        self._fates = fates
        self._wishes = iter(wishes)
        self._wish = next(self._wishes, None)
        # When attempts end: (time, moment of the start, job, attempt, whether it fails).
        self._ends: list[tuple[datetime, int, str, int, bool]] = []
        for job_id in cluster.running:
            self._note_end(job_id)

    def steps(self) -> Iterator[Step]:
        while True:
            yield from self._settle_down()
            following = self._next_time()
            if following is None:
                return
            self._now = max(self._now, following)
            yield from self._attempts_end()
            yield from self._wishes_come()

    def _next_time(self) -> datetime | None:
        times = [at for at in (next_wakeup(self._cluster, self._now, self._limits),) if at is not None]
        while self._ends and not self._still_runs(*self._ends[0][2:4]):
            heappop(self._ends)
        if self._ends:
            times.append(self._ends[0][0])
        if self._wish is not None:
            times.append(self._wish.at)
        return min(times, default=None)

    def _settle_down(self) -> Iterator[Step]:
        """Let the scheduler act until it has nothing more to do."""
        while facts := enacted(self._cluster, schedule(self._cluster, self._limits, self._now)):
            before = self._cluster.running
            for fact in facts:
                yield self._happens(fact.stream, fact.event)
            for job_id, running in self._cluster.running.items():
                if before.get(job_id) is not running:
                    self._note_end(job_id)

    def _note_end(self, job_id: str) -> None:
        running = self._cluster.running[job_id]
        job = self._cluster.workflows[running.workflow_id].jobs[job_id]
        fate = self._fates(job)
        left = max(_NO_TIME, fate.work - job.ran)
        heappush(self._ends, (running.started_at + left, running.moment, job_id, running.attempt, fate.fails))

    def _still_runs(self, job_id: str, attempt: int) -> bool:
        running = self._cluster.running.get(job_id)
        return running is not None and running.attempt == attempt

    def _attempts_end(self) -> Iterator[Step]:
        while self._ends and self._ends[0][0] <= self._now:
            _, _, job_id, attempt, fails = heappop(self._ends)
            if not self._still_runs(job_id, attempt):
                continue
            workflow_id = self._cluster.running[job_id].workflow_id
            if fails:
                command = ReportFailure(job_id, attempt, "failed", "It failed.", transient=False, now=self._now)
                yield from self._decided(workflow_id, command)
            else:
                done = JobSucceeded(job_id=job_id, attempt=attempt, result=JobResult())
                yield self._happens(STREAM_PREFIX + workflow_id, done)

    def _wishes_come(self) -> Iterator[Step]:
        while self._wish is not None and self._wish.at <= self._now:
            wish, self._wish = self._wish, next(self._wishes, None)
            workflow = self._cluster.workflows.get(wish.workflow_id)
            if isinstance(wish.command, AddJobs) and workflow is None:
                # Everything in the workflow succeeded, and the cluster let go of it.
                added = JobsAdded(
                    workflow_id=wish.workflow_id,
                    user_id=wish.user_id,
                    jobs=wish.command.jobs,
                    branches=wish.command.branches,
                )
                yield self._happens(STREAM_PREFIX + wish.workflow_id, added)
            else:
                yield from self._decided(wish.workflow_id, wish.command)

    def _decided(self, workflow_id: str, command: Command) -> Iterator[Step]:
        try:
            events = decide(self._cluster.workflows.get(workflow_id), command, self._limits)
        except MicrotomeError:
            return
        for event in events:
            yield self._happens(STREAM_PREFIX + workflow_id, event)

    def _happens(self, stream: str, event: Message) -> Step:
        before = self._cluster
        self._cluster = clusters.evolve(before, event, self._now, stream)
        return Step(self._now, stream, event, before, self._cluster)
