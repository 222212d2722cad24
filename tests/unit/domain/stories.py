"""A small world to tell stories in: the real decide, evolve and schedule, a list as the log, a clock moved by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from microtome.contracts.messages import JobPlanned, JobResult, JobSpec, JobType, Message, SeatGranted, SeatReleased
from microtome.domain import cluster as clusters
from microtome.domain import workflow as workflows
from microtome.domain.cluster import Cluster
from microtome.domain.scheduling import GrantSeat, Limits, ReleaseSeat, StartJob, Waiting, schedule, waiting
from microtome.domain.workflow import Cancel, Command, Job, ReportFailure, ReportSuccess, Retry, Start, Submit, Workflow

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


def spec(key: str, branch: str = "main", depends_on: tuple[str, ...] = (), workflow: str = "w") -> JobSpec:
    """A job whose id is `<workflow>.<key>`; dependencies are given by key."""
    return JobSpec(
        job_id=f"{workflow}.{key}",
        key=key,
        type=JobType.SEGMENT_CELLS,
        slide_id="slide",
        branch=branch,
        depends_on=tuple(f"{workflow}.{other}" for other in depends_on),
    )


def submitted(*jobs: JobSpec, workflow: str = "w", user: str = "ada") -> Workflow:
    state = tell(None, Submit(workflow, user, "name", jobs))
    assert state is not None
    return state


def tell(state: Workflow | None, *commands: Command, limits: Limits | None = None) -> Workflow:
    for command in commands:
        for event in workflows.decide(state, command, limits):
            state = workflows.evolve(state, event, BEGINNING)
    assert state is not None
    return state


class World:
    """The cluster with its log; every command goes through `decide`, every decision through `schedule`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.now = BEGINNING
        self.cluster = Cluster()
        self.log: list[tuple[Message, datetime, str]] = []
        self.ended: dict[str, Workflow] = {}

    def append(self, event: Message, stream: str) -> None:
        self.log.append((event, self.now, stream))
        name = stream.removeprefix("workflow-")
        before = self.cluster.workflows.get(name)
        self.cluster = clusters.evolve(self.cluster, event, self.now, stream)
        if before is not None and name not in self.cluster.workflows:
            self.ended[name] = workflows.evolve(before, event, self.now)

    def workflow(self, name: str) -> Workflow | None:
        return self.cluster.workflows.get(name) or self.ended.get(name)

    def job(self, job_id: str) -> Job:
        workflow = self.workflow(job_id.split(".", maxsplit=1)[0])
        assert workflow is not None
        return workflow.jobs[job_id]

    def tell(self, name: str, command: Command) -> None:
        for event in workflows.decide(self.workflow(name), command, self.limits):
            self.append(event, f"workflow-{name}")

    def submit(self, name: str, user: str, *jobs: JobSpec) -> None:
        self.tell(name, Submit(name, user, name, jobs or (spec("job", workflow=name),)))

    def tick(self) -> list[str]:
        """Let the scheduler act once; returns the ids of the jobs it started, in order."""
        started = []
        for decision in schedule(self.cluster, self.limits, self.now):
            match decision:
                case GrantSeat(user, seat):
                    self.append(SeatGranted(user_id=user, seat=seat), "seats")
                case ReleaseSeat(user, seat):
                    self.append(SeatReleased(user_id=user, seat=seat), "seats")
                case StartJob(name, job_id, slot):
                    self.tell(name, Start(job_id, slot))
                    started.append(job_id)
        return started

    def succeed(self, *job_ids: str) -> None:
        for job_id in job_ids:
            self.tell(job_id.split(".")[0], ReportSuccess(job_id, self.job(job_id).attempt, JobResult(tiles_total=1)))

    def fail(self, job_id: str, *, transient: bool = False) -> None:
        command = ReportFailure(job_id, self.job(job_id).attempt, "internal", "it broke", transient, self.now)
        self.tell(job_id.split(".", maxsplit=1)[0], command)

    def cancel(self, job_id: str) -> None:
        self.tell(job_id.split(".", maxsplit=1)[0], Cancel(job_id))

    def retry(self, job_id: str) -> None:
        self.tell(job_id.split(".", maxsplit=1)[0], Retry(job_id))

    def plan(self, job_id: str) -> None:
        planned = JobPlanned(job_id=job_id, attempt=self.job(job_id).attempt, tiles_total=9)
        self.tell(job_id.split(".", maxsplit=1)[0], workflows.ReportPlanned(planned))

    def advance(self, **time: float) -> None:
        self.now += timedelta(**time)

    def waiting(self) -> dict[str, Waiting]:
        return waiting(self.cluster, self.limits, self.now)
