"""Questions to the read models.

Promises: what a user asks is answered from rows of that user only; a foreign id is `NotFound`,
like one that does not exist. Answers are values of the domain, never rows.
Refuses: to write.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from microtome.contracts.codec import from_json
from microtome.contracts.messages import (
    JobParameters,
    JobPlanned,
    JobResult,
    JobSpec,
    JobType,
    MppSource,
    SlideLevel,
    SlideRegistered,
    Stain,
)
from microtome.domain import graph
from microtome.domain.state import Job, JobError, JobStatus, Workflow
from microtome.errors import NotFound
from microtome.eventlog.database import Connection, Database
from microtome.eventlog.log import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRecord:
    """A registered slide: its facts and when they became known."""

    facts: SlideRegistered
    registered_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """A workflow as of an event: the fold of its stream up to `version`."""

    state: Workflow
    version: int
    # The stream's last event; later events of the log say nothing new about this workflow.
    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job and whose it is."""

    job: Job
    workflow_id: str
    user_id: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependency:
    """A job that another one builds on."""

    job_id: str
    type: JobType
    status: JobStatus
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JobContext:
    """All that a worker needs to know of a job, in one read."""

    job_id: str
    spec: JobSpec
    status: JobStatus
    # The attempt that runs or ran last.
    attempt: int
    planned: JobPlanned | None
    slide: SlideRegistered
    workflow_id: str
    user_id: str
    dependencies: tuple[Dependency, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """An active user."""

    seat: int
    user_id: str
    granted_at: datetime


_WORKFLOWS = """
select * from workflows where user_id = $1 order by created_at desc, workflow_id limit $2
"""
_SUMMARY = """
select status, count(*) as jobs from jobs group by status
"""


class Queries:
    """Reads on a `Database`. Every method raises `Unavailable` when Postgres does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def slide(self, user_id: str, slide_id: str) -> SlideRecord:
        """Return a slide of the user. Raises `NotFound`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "select * from slides where slide_id = $1 and user_id = $2", slide_id, user_id
            )
        return _slide(_found(row, "slide", slide_id))

    async def slides(self, user_id: str) -> tuple[SlideRecord, ...]:
        """Return all slides of the user, newest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select * from slides where user_id = $1 order by registered_at desc, slide_id", user_id
            )
        return tuple(map(_slide, rows))

    async def workflow(self, user_id: str, workflow_id: str) -> WorkflowRecord:
        """Return a workflow of the user with its jobs. Raises `NotFound`."""
        async with self._database.transaction("repeatable_read") as connection:
            row = await connection.fetchrow(
                "select * from workflows where workflow_id = $1 and user_id = $2", workflow_id, user_id
            )
            (record,) = await _workflows(connection, [_found(row, "workflow", workflow_id)])
        return record

    async def workflows(self, user_id: str, limit: int = 50) -> tuple[WorkflowRecord, ...]:
        """Return the user's workflows with their jobs, newest first."""
        async with self._database.transaction("repeatable_read") as connection:
            return await _workflows(connection, await connection.fetch(_WORKFLOWS, user_id, limit))

    async def workflow_of(self, user_id: str, job_id: str) -> WorkflowRecord:
        """Return the workflow of a job of the user. Raises `NotFound`."""
        async with self._database.transaction("repeatable_read") as connection:
            row = await connection.fetchrow(
                "select w.* from workflows w join jobs j using (workflow_id) where j.job_id = $1 and j.user_id = $2",
                job_id,
                user_id,
            )
            (record,) = await _workflows(connection, [_found(row, "job", job_id)])
        return record

    async def job(self, user_id: str, job_id: str) -> JobRecord:
        """Return a job of the user. Raises `NotFound`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow("select * from jobs where job_id = $1 and user_id = $2", job_id, user_id)
        return _job_record(_found(row, "job", job_id))

    async def unfinished(self, user_id: str) -> tuple[JobRecord, ...]:
        """Return the user's jobs that are pending or running, in the order of submission."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                "select * from jobs where user_id = $1 and status in ('PENDING', 'RUNNING') "
                "order by created_at, workflow_id, ordinal",
                user_id,
            )
        return tuple(map(_job_record, rows))

    # For workers and operators: whoever's job it is.

    async def job_context(self, job_id: str) -> JobContext:
        """Return what a worker needs to know of any job. Raises `NotFound`."""
        async with self._database.transaction("repeatable_read") as connection:
            row = _found(await connection.fetchrow("select * from jobs where job_id = $1", job_id), "job", job_id)
            slide = await connection.fetchrow("select * from slides where slide_id = $1", row["slide_id"])
            others = await connection.fetch(
                "select job_id, type, status, attempt from jobs where job_id = any($1::text[]) order by ordinal",
                row["depends_on"],
            )
        return JobContext(
            job_id=job_id,
            spec=_spec(row),
            status=JobStatus(row["status"]),
            attempt=row["attempt"],
            planned=_planned(row),
            slide=_slide(_found(slide, "slide", row["slide_id"])).facts,
            workflow_id=row["workflow_id"],
            user_id=row["user_id"],
            dependencies=tuple(
                Dependency(
                    job_id=other["job_id"],
                    type=JobType(other["type"]),
                    status=JobStatus(other["status"]),
                    attempt=other["attempt"],
                )
                for other in others
            ),
        )

    async def running(self) -> tuple[JobRecord, ...]:
        """Return all running jobs of all users, by slot."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select * from jobs where status = 'RUNNING' order by slot")
        return tuple(map(_job_record, rows))

    async def seats(self) -> tuple[Seat, ...]:
        """Return who is active, by seat."""
        async with self._database.connection() as connection:
            rows = await connection.fetch("select * from seats order by seat")
        return tuple(Seat(seat=row["seat"], user_id=row["user_id"], granted_at=row["granted_at"]) for row in rows)

    async def jobs_by_status(self) -> dict[JobStatus, int]:
        """Return how many jobs of all users are in each status, for metrics."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_SUMMARY)
        return dict.fromkeys(JobStatus, 0) | {JobStatus(row["status"]): row["jobs"] for row in rows}


def _found(row: asyncpg.Record | None, what: str, identity: str) -> asyncpg.Record:
    if row is None:
        raise NotFound(f"There is no {what} {identity[:80]} of yours.")
    return row


async def _workflows(connection: Connection, rows: Iterable[asyncpg.Record]) -> tuple[WorkflowRecord, ...]:
    jobs: dict[str, list[Job]] = {row["workflow_id"]: [] for row in rows}
    found = await connection.fetch(
        "select * from jobs where workflow_id = any($1::text[]) order by workflow_id, ordinal", list(jobs)
    )
    for row in found:
        jobs[row["workflow_id"]].append(_job(row))
    return tuple(_workflow(row, jobs[row["workflow_id"]]) for row in rows)


def _workflow(row: asyncpg.Record, jobs: list[Job]) -> WorkflowRecord:
    return WorkflowRecord(
        state=Workflow(
            workflow_id=row["workflow_id"],
            user_id=row["user_id"],
            name=row["name"],
            submitted_at=row["created_at"],
            jobs={job.job_id: job for job in jobs},
            graph=graph.build(tuple(job.spec for job in jobs)),
        ),
        version=row["version"],
        cursor=Cursor(row["xid"], row["position"]),
    )


def _job_record(row: asyncpg.Record) -> JobRecord:
    return JobRecord(
        job=_job(row), workflow_id=row["workflow_id"], user_id=row["user_id"], created_at=row["created_at"]
    )


def _job(row: asyncpg.Record) -> Job:
    return Job(
        spec=_spec(row),
        order=row["ordinal"],
        status=JobStatus(row["status"]),
        attempt=row["attempt"],
        slot=row["slot"],
        failures=row["failures"],
        not_before=row["not_before"],
        error=None if row["error"] is None else JobError(**row["error"]),
        result=None if row["result"] is None else from_json(JobResult, row["result"]),
        planned=_planned(row),
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )


def _spec(row: asyncpg.Record) -> JobSpec:
    return JobSpec(
        job_id=row["job_id"],
        key=row["key"],
        type=JobType(row["type"]),
        slide_id=row["slide_id"],
        branch=row["branch"],
        depends_on=tuple(row["depends_on"]),
        parameters=None if row["parameters"] is None else from_json(JobParameters, row["parameters"]),
    )


def _planned(row: asyncpg.Record) -> JobPlanned | None:
    return None if row["planned"] is None else from_json(JobPlanned, row["planned"])


def _slide(row: asyncpg.Record) -> SlideRecord:
    return SlideRecord(
        facts=SlideRegistered(
            slide_id=row["slide_id"],
            user_id=row["user_id"],
            filename=row["filename"],
            size_bytes=row["size_bytes"],
            sha256=row["sha256"],
            vendor=row["vendor"],
            width=row["width"],
            height=row["height"],
            mpp=row["mpp"],
            mpp_source=MppSource(row["mpp_source"]),
            objective_power=row["objective_power"],
            stain=Stain(row["stain"]),
            levels=tuple(from_json(SlideLevel, level) for level in row["levels"]),
            notes=tuple(row["notes"]),
            path=row["path"],
        ),
        registered_at=row["registered_at"],
    )
