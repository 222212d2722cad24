"""A log with an exact clock: the real decide, evolve and schedule, and events as the log would store them."""

from __future__ import annotations

import heapq
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from datetime import UTC, datetime, timedelta

from microtome.contracts.messages import (
    JobPlanned,
    JobResult,
    JobSpec,
    JobStarted,
    JobType,
    Message,
    StageSeconds,
)
from microtome.domain import cluster as clusters
from microtome.domain import workflow as workflows
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.commands import (
    Cancel,
    Command,
    LoseAttempt,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    Submit,
)
from microtome.domain.enacting import enacted
from microtome.domain.limits import Limits
from microtome.domain.scheduling import next_wakeup, schedule
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.eventlog.log import START, Cursor, StoredEvent

BEGINNING = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


def spec(workflow: str, key: str, branch: str = "main", depends_on: tuple[str, ...] = (), tiles: int = 1) -> JobSpec:
    """A job whose id is `<workflow>.<key>`; dependencies are given by key."""
    return JobSpec(
        job_id=f"{workflow}.{key}",
        key=key,
        type=JobType.SEGMENT_CELLS,
        slide_id="slide",
        branch=branch,
        depends_on=tuple(f"{workflow}.{other}" for other in depends_on),
        expected_tiles=tiles,
    )


class ListHistory:
    """A log in a list."""

    def __init__(self, events: Collection[StoredEvent]) -> None:
        self.stored = list(events)

    async def events(
        self,
        after: Cursor = START,
        *,
        streams: Collection[str] | None = None,
        types: Collection[str] | None = None,
        tenants: Collection[str] | None = None,
    ) -> AsyncIterator[StoredEvent]:
        for event in self.stored:
            wanted = (
                (streams, event.stream),
                (types, type(event.message).__name__),
                (tenants, event.tenant),
            )
            if event.cursor > after and all(some is None or each in some for some, each in wanted):
                yield event


class Recorder:
    """Tells a story and keeps its log. Each `tell` and each `tick` is one transaction."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.now = BEGINNING
        self.cluster = Cluster()
        self.states: dict[str, Workflow] = {}
        self.log: list[StoredEvent] = []
        self._versions: dict[str, int] = {}
        self._xid = 700

    @property
    def history(self) -> ListHistory:
        return ListHistory(self.log)

    @property
    def last(self) -> Cursor:
        return self.log[-1].cursor

    def at(self, seconds: float) -> None:
        """Move the clock to so long after the beginning."""
        self.now = BEGINNING + timedelta(seconds=seconds)

    def append(self, stream: str, message: Message, tenant: str, meta: Mapping[str, str] | None = None) -> None:
        self._versions[stream] = self._versions.get(stream, 0) + 1
        self.log.append(
            StoredEvent(
                cursor=Cursor(self._xid, 1000 + len(self.log)),
                stream=stream,
                version=self._versions[stream],
                event_id=uuid.uuid5(uuid.NAMESPACE_URL, f"{stream}/{self._versions[stream]}"),
                tenant=tenant,
                message=message,
                meta=dict(meta or {}),
                at=self.now,
            )
        )
        self.cluster = clusters.evolve(self.cluster, message, self.now, stream)
        if stream.startswith(STREAM_PREFIX):
            name = stream.removeprefix(STREAM_PREFIX)
            self.states[name] = workflows.evolve(self.states.get(name), message, self.now)

    def _decide(self, name: str, command: Command, meta: Mapping[str, str] | None = None) -> None:
        state = self.states.get(name)
        for event in workflows.decide(state, command, self.limits):
            user = command.user_id if isinstance(command, Submit) else self.states[name].user_id
            self.append(STREAM_PREFIX + name, event, user, meta)

    def tell(self, name: str, command: Command, worker: str | None = None) -> None:
        self._xid += 1
        self._decide(name, command, {"worker": worker} if worker else None)

    def submit(self, name: str, user: str, *jobs: JobSpec, title: str = "") -> None:
        self.tell(name, Submit(name, user, title or name, jobs or (spec(name, "job"),)))

    def tick(self) -> list[str]:
        """Let the scheduler act once; returns the ids of the jobs it started, in order."""
        self._xid += 1
        started = []
        for fact in enacted(self.cluster, schedule(self.cluster, self.limits, self.now)):
            self.append(fact.stream, fact.event, fact.user_id)
            if isinstance(fact.event, JobStarted):
                started.append(fact.event.job_id)
        return started

    def job(self, job_id: str) -> Job:
        return self.states[job_id.split(".", maxsplit=1)[0]].jobs[job_id]

    def plan(self, job_id: str, tiles: int, worker: str | None = None) -> None:
        planned = JobPlanned(job_id=job_id, attempt=self.job(job_id).attempt, tiles_total=tiles, tiles_skipped=1)
        self.tell(job_id.split(".", maxsplit=1)[0], ReportPlanned(planned), worker)

    def succeed(self, job_id: str, worker: str | None = None, **stages: float) -> None:
        result = JobResult(
            tiles_total=9,
            cells=1234,
            stage_seconds=tuple(StageSeconds(stage=name, seconds=taken) for name, taken in stages.items()),
        )
        self.tell(job_id.split(".", maxsplit=1)[0], ReportSuccess(job_id, self.job(job_id).attempt, result), worker)

    def fail(self, job_id: str, *, transient: bool = False, worker: str | None = None) -> None:
        attempt = self.job(job_id).attempt
        command = ReportFailure(job_id, attempt, "internal", "it broke", transient, self.now)
        self.tell(job_id.split(".", maxsplit=1)[0], command, worker)

    def lose(self, job_id: str, owner: str) -> None:
        attempt = self.job(job_id).attempt
        command = LoseAttempt(job_id, attempt, owner, "Nobody heard of it.")
        self.tell(job_id.split(".", maxsplit=1)[0], command)

    def cancel(self, job_id: str) -> None:
        self.tell(job_id.split(".", maxsplit=1)[0], Cancel(job_id))

    def retry(self, job_id: str) -> None:
        self.tell(job_id.split(".", maxsplit=1)[0], Retry(job_id))

    def run(self, arrivals: Collection[tuple[float, Callable[[], None]]], seconds: Mapping[str, float]) -> None:
        """Play to the end: arrivals at their seconds, every job runs exactly its seconds in all, however often
        it gives its slot to somebody else.
        """
        agenda: list[tuple[datetime, int, str, int]] = []
        coming = sorted(arrivals, key=lambda arrival: arrival[0])
        number = 0
        while True:
            while started := self.tick():
                for job_id in started:
                    number += 1
                    job = self.job(job_id)
                    end = self.now + timedelta(seconds=seconds[job_id]) - job.ran
                    heapq.heappush(agenda, (end, number, job_id, job.attempt))
            times = [each[0] for each in agenda if self._runs(*each[2:])]
            times += [BEGINNING + timedelta(seconds=coming[0][0])] if coming else []
            wake = next_wakeup(self.cluster, self.now, self.limits)
            times += [wake] if wake else []
            if not times:
                return
            self.now = max(self.now, min(times))
            while agenda and agenda[0][0] <= self.now:
                _, _, job_id, attempt = heapq.heappop(agenda)
                if self._runs(job_id, attempt):
                    self.succeed(job_id)
            while coming and BEGINNING + timedelta(seconds=coming[0][0]) <= self.now:
                coming.pop(0)[1]()

    def _runs(self, job_id: str, attempt: int) -> bool:
        job = self.job(job_id)
        return job.status is JobStatus.RUNNING and job.attempt == attempt
