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

from microtome.contracts.messages import JobPlanned, JobSpec, JobType, SlideRegistered
from microtome.domain.state import JobStatus
from microtome.errors import NotFound
from microtome.eventlog.database import Connection, Database
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.postgres import COLUMNS, stored_event
from microtome.readmodels import listing, rows
from microtome.readmodels.listing import ANY_JOB, ANY_SLIDE, ANY_WORKFLOW, JobFilter, Page, SlideFilter, WorkflowFilter
from microtome.readmodels.rows import JobRecord, SlideRecord, WorkflowRecord

__all__ = [
    "Dependency",
    "JobContext",
    "JobFilter",
    "JobRecord",
    "Page",
    "Queries",
    "Seat",
    "SlideFilter",
    "SlideRecord",
    "Usage",
    "WorkflowFilter",
    "WorkflowRecord",
]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a user takes up. Bytes are of files that are there: deleted slides and artifacts count nothing."""

    slides: int
    slide_bytes: int
    artifact_bytes: int
    workflows: int
    jobs: dict[JobStatus, int]

    @property
    def bytes_stored(self) -> int:
        """Slides and artifacts together."""
        return self.slide_bytes + self.artifact_bytes


_SUMMARY = """
select status, count(*) as jobs from jobs group by status
"""
_STORED = """
select count(*) as slides, coalesce(sum(size_bytes), 0)::bigint as bytes
from slides where user_id = $1 and deleted_at is null
"""
_JOBS_OF = """
select status, count(*) as jobs, coalesce(sum(artifact_bytes), 0)::bigint as bytes
from jobs where user_id = $1 group by status
"""
# Of one stream, so that no late commit can come in before what was read: its order is that of its versions.
_EVENTS = f"""
select {COLUMNS} from events
where stream = $1 and (xid, position) > ($2::xid8, $3::bigint)
order by version
limit $4
"""  # noqa: S608 - no input

# A page of workflows has about so many jobs at most, or one workflow.
MAX_JOBS = 2000


class Queries:
    """Reads on a `Database`. Every method raises `Unavailable` when Postgres does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def slide(self, user_id: str, slide_id: str, *, deleted: bool = False) -> SlideRecord:
        """Return a slide of the user; a deleted one only when `deleted` are wanted, too. Raises `NotFound`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                "select * from slides where slide_id = $1 and user_id = $2 and ($3 or deleted_at is null)",
                slide_id,
                user_id,
                deleted,
            )
        return rows.slide_record(_found(row, "slide", slide_id))

    async def slides_by_id(self, user_id: str, slide_ids: Iterable[str]) -> tuple[SlideRecord, ...]:
        """Return those of the user's slides that are there, in no order; others are left out."""
        async with self._database.connection() as connection:
            found = await connection.fetch(
                "select * from slides where user_id = $1 and slide_id = any($2::text[]) and deleted_at is null",
                user_id,
                list(slide_ids),
            )
        return tuple(map(rows.slide_record, found))

    async def find_slides(
        self, user_id: str, wanted: SlideFilter = ANY_SLIDE, limit: int = 50, cursor: str | None = None
    ) -> Page[SlideRecord]:
        """Return a page of the user's slides, newest first. Raises `InvalidRequest`; see `listing.page`."""
        async with self._database.connection() as connection:
            found, following = await listing.page(connection, listing.slides(user_id, wanted), limit, cursor)
        return Page(tuple(map(rows.slide_record, found)), following)

    async def workflow(self, user_id: str, workflow_id: str) -> WorkflowRecord:
        """Return a workflow of the user with its jobs. Raises `NotFound`."""
        async with self._database.transaction("repeatable_read") as connection:
            row = await connection.fetchrow(
                "select * from workflows where workflow_id = $1 and user_id = $2", workflow_id, user_id
            )
            (record,) = await _workflows(connection, [_found(row, "workflow", workflow_id)])
        return record

    async def find_workflows(
        self,
        user_id: str,
        wanted: WorkflowFilter = ANY_WORKFLOW,
        limit: int = 50,
        cursor: str | None = None,
        *,
        jobs: int = MAX_JOBS,
    ) -> Page[WorkflowRecord]:
        """Return a page of the user's workflows with their jobs, newest first; it ends after about so many `jobs`.

        Raises `InvalidRequest`; see `listing.page`.
        """
        async with self._database.transaction("repeatable_read") as connection:
            found, following = await listing.page(connection, listing.workflows(user_id, wanted), limit, cursor)
            found, following = listing.shortened(found, following, jobs)
            return Page(await _workflows(connection, found), following)

    async def find_jobs(
        self, user_id: str, wanted: JobFilter = ANY_JOB, limit: int = 50, cursor: str | None = None
    ) -> Page[JobRecord]:
        """Return a page of the user's jobs, newest first, of one submission the last first.

        Raises `InvalidRequest`; see `listing.page`.
        """
        async with self._database.connection() as connection:
            found, following = await listing.page(connection, listing.jobs(user_id, wanted), limit, cursor)
        return Page(tuple(map(rows.job_record, found)), following)

    async def events(
        self, user_id: str, workflow_id: str, after: Cursor = START, limit: int = 100
    ) -> tuple[StoredEvent, ...]:
        """Return at most `limit` events of a workflow of the user after the cursor. Raises `NotFound`."""
        async with self._database.connection() as connection:
            owned = await connection.fetchrow(
                "select from workflows where workflow_id = $1 and user_id = $2", workflow_id, user_id
            )
            _found(owned, "workflow", workflow_id)
            found = await connection.fetch(_EVENTS, f"workflow-{workflow_id}", after.xid, after.position, limit)
        return tuple(map(stored_event, found))

    async def usage(self, user_id: str) -> Usage:
        """Return what the user takes up; all zero for one who was never seen."""
        async with self._database.transaction("repeatable_read") as connection:
            slides = await connection.fetchrow(_STORED, user_id)
            jobs = await connection.fetch(_JOBS_OF, user_id)
            workflows = await connection.fetchval("select count(*) from workflows where user_id = $1", user_id)
        assert slides is not None
        return Usage(
            slides=slides["slides"],
            slide_bytes=slides["bytes"],
            artifact_bytes=sum(row["bytes"] for row in jobs),
            workflows=workflows,
            jobs=dict.fromkeys(JobStatus, 0) | {JobStatus(row["status"]): row["jobs"] for row in jobs},
        )

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
        return rows.job_record(_found(row, "job", job_id))

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
            spec=rows.spec(row),
            status=JobStatus(row["status"]),
            attempt=row["attempt"],
            planned=rows.planned(row),
            slide=rows.slide_record(_found(slide, "slide", row["slide_id"])).facts,
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
            found = await connection.fetch("select * from jobs where status = 'RUNNING' order by slot")
        return tuple(map(rows.job_record, found))

    async def statuses(self, job_ids: Iterable[str]) -> dict[str, tuple[JobStatus, int]]:
        """Return the status of each of these jobs, of whichever users, that there is, and its last attempt's number."""
        async with self._database.connection() as connection:
            found = await connection.fetch(
                "select job_id, status, attempt from jobs where job_id = any($1::text[])", list(job_ids)
            )
        return {row["job_id"]: (JobStatus(row["status"]), row["attempt"]) for row in found}

    async def seats(self) -> tuple[Seat, ...]:
        """Return who is active, by seat."""
        async with self._database.connection() as connection:
            found = await connection.fetch("select * from seats order by seat")
        return tuple(Seat(seat=row["seat"], user_id=row["user_id"], granted_at=row["granted_at"]) for row in found)

    async def jobs_by_status(self) -> dict[JobStatus, int]:
        """Return how many jobs of all users are in each status, for metrics."""
        async with self._database.connection() as connection:
            found = await connection.fetch(_SUMMARY)
        return dict.fromkeys(JobStatus, 0) | {JobStatus(row["status"]): row["jobs"] for row in found}


def _found(row: asyncpg.Record | None, what: str, identity: str) -> asyncpg.Record:
    if row is None:
        raise NotFound(f"There is no {what} {identity[:80]} of yours.")
    return row


async def _workflows(connection: Connection, found: Iterable[asyncpg.Record]) -> tuple[WorkflowRecord, ...]:
    jobs: dict[str, list[asyncpg.Record]] = {row["workflow_id"]: [] for row in found}
    for job in await connection.fetch(
        "select * from jobs where workflow_id = any($1::text[]) order by workflow_id, ordinal", list(jobs)
    ):
        jobs[job["workflow_id"]].append(job)
    return tuple(rows.workflow_record(row, jobs[row["workflow_id"]]) for row in found)
