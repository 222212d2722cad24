"""From events to rows.

Promises: `apply` depends on the event, its cursor and its time alone, and touches only rows that
the event's own stream writes. A job's row says what `microtome.domain.workflow.evolve` says.
Refuses: an event about a job, workflow or seat that is not there; such a log would be corrupt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microtome.contracts.codec import to_json
from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobRetried,
    JobStarted,
    JobSucceeded,
    SeatGranted,
    SeatReleased,
    SlideRegistered,
    WorkflowSubmitted,
)
from microtome.errors import Conflict, WorkerLost
from microtome.eventlog.log import StoredEvent

if TYPE_CHECKING:
    from microtome.eventlog.database import Connection

TABLES = ("slides", "workflows", "jobs", "seats")

_SLIDE = """
insert into slides (slide_id, user_id, filename, size_bytes, sha256, vendor, width, height, mpp, mpp_source,
                    objective_power, stain, levels, notes, path, registered_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
_WORKFLOW = """
insert into workflows (workflow_id, user_id, name, created_at, version, xid, position)
values ($1, $2, $3, $4, $5, $6, $7)
"""
_WORKFLOW_MOVED = "update workflows set version = $2, xid = $3, position = $4 where workflow_id = $1"
_JOB = """
insert into jobs (job_id, workflow_id, user_id, ordinal, key, type, slide_id, branch, depends_on, parameters,
                  status, attempt, failures, created_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, 'PENDING', 0, 0, $11)
"""
_STARTED = """
update jobs set status = 'RUNNING', attempt = $3, slot = $4, seated_user = user_id, started_at = $5,
                not_before = null, planned = null, result = null, finished_at = null
where job_id = $1 and workflow_id = $2
"""
_PLANNED = "update jobs set planned = $3 where job_id = $1 and workflow_id = $2"
_SUCCEEDED = """
update jobs set status = 'SUCCEEDED', slot = null, seated_user = null, error = null, result = $3, finished_at = $4
where job_id = $1 and workflow_id = $2
"""
_FAILED = """
update jobs set status = case when $4::timestamptz is null then 'FAILED' else 'PENDING' end,
                slot = null, seated_user = null, failures = failures + 1, error = $3, not_before = $4,
                finished_at = case when $4::timestamptz is null then $5::timestamptz end
where job_id = $1 and workflow_id = $2
"""
_LOST = """
update jobs set status = 'PENDING', slot = null, seated_user = null, failures = failures + 1, error = $3
where job_id = $1 and workflow_id = $2
"""
_CANCELLED = """
update jobs set status = 'CANCELLED', slot = null, seated_user = null, not_before = null, finished_at = $3
where job_id = $1 and workflow_id = $2
"""
_RETRIED = """
update jobs set status = 'PENDING', slot = null, seated_user = null, failures = 0, not_before = null, error = null,
                planned = null, result = null, started_at = null, finished_at = null
where job_id = $1 and workflow_id = $2
"""
_SEATED = "insert into seats (seat, user_id, granted_at) values ($1, $2, $3)"
_UNSEATED = "delete from seats where seat = $1 and user_id = $2"


class ReadModels:
    """The projection that keeps slides, workflows, jobs and seats."""

    async def apply(self, connection: Connection, event: StoredEvent) -> None:
        """Fold one event into the tables. Raises `Conflict` for an event out of nowhere."""
        match event.message:
            case SlideRegistered():
                await _slide(connection, event, event.message)
            case WorkflowSubmitted():
                await _workflow(connection, event, event.message)
            case SeatGranted(seat=seat, user_id=user):
                await connection.execute(_SEATED, seat, user, event.at)
            case SeatReleased(seat=seat, user_id=user):
                await _one(connection, event, _UNSEATED, seat, user)
            case _:
                await _job(connection, event)


async def _slide(connection: Connection, event: StoredEvent, slide: SlideRegistered) -> None:
    facts = to_json(slide)
    await connection.execute(
        _SLIDE,
        slide.slide_id,
        slide.user_id,
        slide.filename,
        slide.size_bytes,
        slide.sha256,
        slide.vendor,
        slide.width,
        slide.height,
        slide.mpp,
        int(slide.mpp_source),
        slide.objective_power,
        int(slide.stain),
        facts.get("levels", []),
        list(slide.notes),
        slide.path,
        event.at,
    )


async def _workflow(connection: Connection, event: StoredEvent, workflow: WorkflowSubmitted) -> None:
    place = (event.version, event.cursor.xid, event.cursor.position)
    await connection.execute(_WORKFLOW, workflow.workflow_id, workflow.user_id, workflow.name, event.at, *place)
    await connection.executemany(
        _JOB,
        [
            (
                job.job_id,
                workflow.workflow_id,
                workflow.user_id,
                ordinal,
                job.key,
                int(job.type),
                job.slide_id,
                job.branch,
                list(job.depends_on),
                None if job.parameters is None else to_json(job.parameters),
                event.at,
            )
            for ordinal, job in enumerate(workflow.jobs)
        ],
    )


async def _job(connection: Connection, event: StoredEvent) -> None:
    workflow_id = event.stream.removeprefix("workflow-")
    match event.message:
        case JobStarted(job_id=job, attempt=attempt, slot=slot):
            await _one(connection, event, _STARTED, job, workflow_id, attempt, slot, event.at)
        case JobPlanned(job_id=job):
            await _one(connection, event, _PLANNED, job, workflow_id, to_json(event.message))
        case JobSucceeded(job_id=job, result=result):
            facts = None if result is None else to_json(result)
            await _one(connection, event, _SUCCEEDED, job, workflow_id, facts, event.at)
        case JobFailed(job_id=job, code=code, detail=detail, transient=transient, retry_at=retry_at):
            error = _error(code, detail, transient=transient)
            await _one(connection, event, _FAILED, job, workflow_id, error, retry_at, event.at)
        case JobAttemptLost(job_id=job, reason=reason):
            error = _error(WorkerLost.code, reason, transient=WorkerLost.transient)
            await _one(connection, event, _LOST, job, workflow_id, error)
        case JobCancelled(job_id=job):
            await _one(connection, event, _CANCELLED, job, workflow_id, event.at)
        case JobRetried(job_id=job):
            await _one(connection, event, _RETRIED, job, workflow_id)
        case _:
            raise Conflict(f"{type(event.message).__name__} is not an event of the log")
    place = (event.version, event.cursor.xid, event.cursor.position)
    await _one(connection, event, _WORKFLOW_MOVED, workflow_id, *place)


def _error(code: str, detail: str, *, transient: bool) -> dict[str, Any]:
    return {"code": code, "detail": detail, "transient": transient}


async def _one(connection: Connection, event: StoredEvent, statement: str, *arguments: object) -> None:
    done = await connection.execute(statement, *arguments)
    if done.rpartition(" ")[2] != "1":
        raise Conflict(f"{type(event.message).__name__} in {event.stream} is about something that is not there")
