"""A small world to tell stories in: the real decide, evolve and schedule, a list as the log, a clock moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from microtome.contracts.messages import (
    Branch,
    BranchPolicy,
    JobPlanned,
    JobResult,
    JobSpec,
    JobStarted,
    JobType,
    Message,
    WorkflowSubmitted,
)
from microtome.domain import cluster as clusters
from microtome.domain import workflow as workflows
from microtome.domain.cluster import Cluster
from microtome.domain.enacting import enacted
from microtome.domain.scheduling import Decision, Limits, Waiting, schedule, waiting
from microtome.domain.workflow import Cancel, Command, Job, ReportFailure, ReportSuccess, Retry, Submit, Workflow

BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)

Schedule = Callable[[Cluster, Limits, datetime], tuple[Decision, ...]]


def spec(
    key: str,
    branch: str = "main",
    depends_on: tuple[str, ...] = (),
    workflow: str = "w",
    *,
    draft: bool = False,
    tiles: int = 0,
) -> JobSpec:
    """A job whose id is `<workflow>.<key>`; dependencies are given by key."""
    return JobSpec(
        job_id=f"{workflow}.{key}",
        key=key,
        type=JobType.SEGMENT_CELLS,
        slide_id="slide",
        branch=branch,
        depends_on=tuple(f"{workflow}.{other}" for other in depends_on),
        draft=draft,
        expected_tiles=tiles,
    )


def policies(**branches: str) -> tuple[Branch, ...]:
    """Branches with their policies, given by name."""
    return tuple(Branch(name=name, policy=BranchPolicy[policy.upper()]) for name, policy in branches.items())


def submitted(*jobs: JobSpec, workflow: str = "w", user: str = "ada", branches: tuple[Branch, ...] = ()) -> Workflow:
    state = tell(None, Submit(workflow, user, "name", jobs, branches))
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

    def __init__(self, limits: Limits | None = None, scheduler: Schedule = schedule) -> None:
        self.limits = limits or Limits()
        self.scheduler = scheduler
        self.now = BEGINNING
        self.cluster = Cluster()
        self.log: list[tuple[Message, datetime, str]] = []
        self.states: dict[str, Workflow] = {}
        """Every workflow, folded from its own stream alone; the cluster lets go of those that succeeded."""

    def append(self, event: Message, stream: str) -> None:
        self.log.append((event, self.now, stream))
        self.cluster = clusters.evolve(self.cluster, event, self.now, stream)
        name = stream.removeprefix("workflow-")
        if name != stream:
            before = None if isinstance(event, WorkflowSubmitted) else self.states[name]
            self.states[name] = workflows.evolve(before, event, self.now)

    def workflow(self, name: str) -> Workflow | None:
        return self.states.get(name)

    def job(self, job_id: str) -> Job:
        return self.states[job_id.split(".", maxsplit=1)[0]].jobs[job_id]

    def tell(self, name: str, command: Command) -> None:
        for event in workflows.decide(self.workflow(name), command, self.limits):
            self.append(event, f"workflow-{name}")

    def submit(self, name: str, user: str, *jobs: JobSpec, branches: tuple[Branch, ...] = ()) -> None:
        self.tell(name, Submit(name, user, name, jobs or (spec("job", workflow=name),), branches))

    def tick(self) -> list[str]:
        """Let the scheduler act once; returns the ids of the jobs it started, in order."""
        started = []
        for fact in enacted(self.cluster, self.scheduler(self.cluster, self.limits, self.now)):
            self.append(fact.event, fact.stream)
            if isinstance(fact.event, JobStarted):
                started.append(fact.event.job_id)
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

    def plan(self, job_id: str, tiles: int = 9) -> None:
        planned = JobPlanned(job_id=job_id, attempt=self.job(job_id).attempt, tiles_total=tiles)
        self.tell(job_id.split(".", maxsplit=1)[0], workflows.ReportPlanned(planned))

    def advance(self, **time: float) -> None:
        self.now += timedelta(**time)

    def waiting(self) -> dict[str, Waiting]:
        return waiting(self.cluster, self.limits, self.now)
