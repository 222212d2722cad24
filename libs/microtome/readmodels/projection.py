"""From events to rows.

Promises: `apply` depends on the event, its cursor and its time alone, and touches only rows that
the event's own stream writes. A job's row says what `microtome.domain.workflow.evolve` says; `settle` then
writes what follows from all rows of a workflow: its status, its version, its place in the log.
Refuses: an event about a job, workflow or seat that is not there; such a log would be corrupt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from microtome.contracts.codec import to_json
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
    JobResult,
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
from microtome.domain import eligibility
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.evolution import policies
from microtome.domain.state import WorkflowStatus
from microtome.errors import Conflict, WorkerLost
from microtome.eventlog.log import StoredEvent
from microtome.readmodels import rows

if TYPE_CHECKING:
    from microtome.eventlog.database import Connection

TABLES = ("slides", "workflows", "jobs", "seats")

_SLIDE = """
insert into slides (slide_id, user_id, filename, size_bytes, sha256, vendor, width, height, mpp, mpp_source,
                    objective_power, stain, levels, notes, path, registered_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
"""
_SLIDE_DELETED = "update slides set deleted_at = $2 where slide_id = $1"
_WORKFLOW_MOVED = "update workflows set version = $2, xid = $3, position = $4, status = $5 where workflow_id = $1"
_KNOWN = """
select user_id, branches, next_turn, (select count(*)::integer from jobs where workflow_id = $1) as jobs
from workflows where workflow_id = $1
"""
_GREW = "update workflows set next_turn = $2, branches = $3 where workflow_id = $1"
_JOBS = """
insert into jobs (job_id, workflow_id, user_id, ordinal, key, type, slide_id, branch, depends_on, parameters,
                  status, attempt, failures, created_at, turn, draft, expected_tiles)
select job_id, $1, $2, ordinal, key, type, slide_id, branch, depends_on, parameters,
       case when draft then 'DRAFT' else 'PENDING' end, 0, 0, $3, turn, draft, expected_tiles
from jsonb_to_recordset($4) as job (job_id text, ordinal integer, key text, type smallint, slide_id text, branch text,
                                    depends_on text[], parameters jsonb, turn integer, draft boolean,
                                    expected_tiles bigint)
"""
# A workflow and its jobs in one statement: submissions are frequent, and each costs a way to the server and back.
_WORKFLOW = f"""
with workflow as (
    insert into workflows (workflow_id, user_id, created_at, name, version, xid, position, branches, submitted,
                           next_turn)
    values ($1, $2, $3, $5, $6, $7, $8, $9, $10, $10)
)
{_JOBS}
"""  # noqa: S608 - no input
_RELEASED = """
with line as (update workflows set next_turn = next_turn + 1 where workflow_id = $2 returning next_turn - 1 as turn)
update jobs set status = 'PENDING', turn = line.turn, released = true, failures = 0, not_before = null, error = null,
                planned = null, result = null, started_at = null, finished_at = null, cause_job_id = null,
                artifacts_deleted_at = null, artifact_bytes = 0, ran = '0'
from line where job_id = $1 and workflow_id = $2
"""
_STARTED = """
update jobs set status = 'RUNNING', attempt = $3, slot = $4, seated_user = user_id, started_at = $5,
                not_before = null, planned = null, result = null, finished_at = null, cause_job_id = null,
                artifacts_deleted_at = null, artifact_bytes = 0, released = draft
where job_id = $1 and workflow_id = $2
"""
_PLANNED = "update jobs set planned = $3 where job_id = $1 and workflow_id = $2"
_SUCCEEDED = """
update jobs set status = 'SUCCEEDED', slot = null, seated_user = null, error = null, result = $3, finished_at = $4,
                artifact_bytes = $5
where job_id = $1 and workflow_id = $2
"""
_FAILED = """
update jobs set status = case when $4::timestamptz is null then 'FAILED' else 'PENDING' end,
                slot = null, seated_user = null, failures = failures + 1, error = $3, not_before = $4,
                finished_at = case when $4::timestamptz is null then $5::timestamptz end
where job_id = $1 and workflow_id = $2
"""
_LOST = """
update jobs set status = 'PENDING', slot = null, seated_user = null, failures = failures + 1, error = $3,
                ran = ran + greatest($4::timestamptz - started_at, '0')
where job_id = $1 and workflow_id = $2
"""
_PREEMPTED = """
update jobs set status = 'PENDING', slot = null, seated_user = null, not_before = null, preemptions = preemptions + 1,
                ran = ran + greatest($3::timestamptz - started_at, '0')
where job_id = $1 and workflow_id = $2
"""
_SKIPPED = """
update jobs set status = 'SKIPPED', not_before = null, cause_job_id = $3, finished_at = $4
where job_id = $1 and workflow_id = $2
"""
_ARTIFACTS_DELETED = """
update jobs set artifacts_deleted_at = $3, artifact_bytes = 0 where job_id = $1 and workflow_id = $2
"""
_CANCELLED = """
update jobs set status = 'CANCELLED', slot = null, seated_user = null, not_before = null, finished_at = $3
where job_id = $1 and workflow_id = $2
"""
_RETRIED = """
update jobs set status = 'PENDING', slot = null, seated_user = null, failures = 0, not_before = null, error = null,
                planned = null, result = null, started_at = null, finished_at = null, cause_job_id = null,
                artifacts_deleted_at = null, artifact_bytes = 0, ran = '0'
where job_id = $1 and workflow_id = $2
"""
_SEATED = "insert into seats (seat, user_id, granted_at) values ($1, $2, $3)"
_UNSEATED = "delete from seats where seat = $1 and user_id = $2"


# Enough of a workflow's jobs to tell its status.
_STANDING = """
select job_id, key, type, slide_id, branch, depends_on, draft, released, ordinal, turn, status, attempt
from jobs where workflow_id = $1 order by ordinal
"""
_WHOLE = "select * from workflows where workflow_id = $1"
_RUNS = "select exists (select from jobs where workflow_id = $1 and status = 'RUNNING')"


class ReadModels:
    """The projection that keeps slides, workflows, jobs and seats."""

    async def apply(self, connection: Connection, event: StoredEvent) -> None:
        """Fold one event into the tables. Raises `Conflict` for an event out of nowhere."""
        match event.message:
            case SlideRegistered():
                await _slide(connection, event, event.message)
            case SlideDeleted(slide_id=slide):
                await _one(connection, event, _SLIDE_DELETED, slide, event.at)
            case WorkflowSubmitted():
                await _workflow(connection, event, event.message)
            case JobsAdded():
                await _added(connection, event, event.message)
            case SeatGranted(seat=seat, user_id=user):
                await connection.execute(_SEATED, seat, user, event.at)
            case SeatReleased(seat=seat, user_id=user):
                await _one(connection, event, _UNSEATED, seat, user)
            case _:
                await _job(connection, event)

    async def settle(self, connection: Connection, events: Sequence[StoredEvent]) -> None:
        """Write the status and the place of each workflow that the events are about."""
        latest = {event.stream: event for event in events if event.stream.startswith(STREAM_PREFIX)}
        for stream, event in latest.items():
            if isinstance(event.message, WorkflowSubmitted):
                continue  # Nothing else has happened to it: its row is as it was inserted, and pending.
            workflow_id = stream.removeprefix(STREAM_PREFIX)
            status = await _status(connection, workflow_id)
            place = (event.version, event.cursor.xid, event.cursor.position)
            await _one(connection, event, _WORKFLOW_MOVED, workflow_id, *place, status)


async def _status(connection: Connection, workflow_id: str) -> str:
    # Most events come while something runs, and then nothing else matters.
    if await connection.fetchval(_RUNS, workflow_id):
        return WorkflowStatus.RUNNING.value
    workflow = await connection.fetchrow(_WHOLE, workflow_id)
    if workflow is None:
        raise Conflict(f"there is no workflow {workflow_id}")
    return eligibility.status(rows.outline(workflow, await connection.fetch(_STANDING, workflow_id))).value


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
    about = (workflow.workflow_id, workflow.user_id)
    chosen = branches(policies(workflow.branches))
    jobs = _rows(workflow.jobs, ordinal=0, turn=0)
    await connection.execute(_WORKFLOW, *about, event.at, jobs, workflow.name, *place, chosen, len(workflow.jobs))


async def _added(connection: Connection, event: StoredEvent, added: JobsAdded) -> None:
    known = await connection.fetchrow(_KNOWN, added.workflow_id)
    if known is None:
        raise _nowhere(event)
    turn = known["next_turn"]
    chosen = branches(rows.chosen_policies(known["branches"]) | policies(added.branches))
    await connection.execute(_GREW, added.workflow_id, turn + len(added.jobs), chosen)
    jobs = _rows(added.jobs, ordinal=known["jobs"], turn=turn)
    await connection.execute(_JOBS, added.workflow_id, known["user_id"], event.at, jobs)


def branches(chosen: Mapping[str, BranchPolicy]) -> list[dict[str, Any]]:
    """Return policies as `Branch` in canonical JSON."""
    return [to_json(Branch(name=name, policy=policy)) for name, policy in chosen.items()]


def _rows(jobs: Sequence[JobSpec], ordinal: int, turn: int) -> list[dict[str, Any]]:
    """What the rows of new jobs do not share."""
    return [
        {
            "job_id": job.job_id,
            "ordinal": ordinal + number,
            "key": job.key,
            "type": int(job.type),
            "slide_id": job.slide_id,
            "branch": job.branch,
            "depends_on": job.depends_on,
            "parameters": None if job.parameters is None else to_json(job.parameters),
            "turn": turn + number,
            "draft": job.draft,
            "expected_tiles": job.expected_tiles,
        }
        for number, job in enumerate(jobs)
    ]


async def _job(connection: Connection, event: StoredEvent) -> None:
    workflow_id = event.stream.removeprefix(STREAM_PREFIX)
    match event.message:
        case JobReleased(job_id=job):
            await _one(connection, event, _RELEASED, job, workflow_id)
        case JobStarted(job_id=job, attempt=attempt, slot=slot):
            await _one(connection, event, _STARTED, job, workflow_id, attempt, slot, event.at)
        case JobPlanned(job_id=job):
            await _one(connection, event, _PLANNED, job, workflow_id, to_json(event.message))
        case JobSucceeded(job_id=job, result=result):
            facts = None if result is None else to_json(result)
            await _one(connection, event, _SUCCEEDED, job, workflow_id, facts, event.at, artifact_bytes(result))
        case JobFailed(job_id=job, code=code, detail=detail, transient=transient, retry_at=retry_at):
            error = _error(code, detail, transient=transient)
            await _one(connection, event, _FAILED, job, workflow_id, error, retry_at, event.at)
        case JobAttemptLost(job_id=job, reason=reason):
            error = _error(WorkerLost.code, reason, transient=WorkerLost.transient)
            await _one(connection, event, _LOST, job, workflow_id, error, event.at)
        case JobPreempted(job_id=job):
            await _one(connection, event, _PREEMPTED, job, workflow_id, event.at)
        case JobSkipped(job_id=job, cause_job_id=cause):
            await _one(connection, event, _SKIPPED, job, workflow_id, cause, event.at)
        case JobCancelled(job_id=job):
            await _one(connection, event, _CANCELLED, job, workflow_id, event.at)
        case JobRetried(job_id=job):
            await _one(connection, event, _RETRIED, job, workflow_id)
        case ArtifactsDeleted(job_id=job):
            await _one(connection, event, _ARTIFACTS_DELETED, job, workflow_id, event.at)
        case _:
            raise Conflict(f"{type(event.message).__name__} is not an event of the log")


def artifact_bytes(result: JobResult | None) -> int:
    """Return the size of all files of a result."""
    return 0 if result is None else sum(artifact.size_bytes for artifact in result.artifacts)


def _error(code: str, detail: str, *, transient: bool) -> dict[str, Any]:
    return {"code": code, "detail": detail, "transient": transient}


async def _one(connection: Connection, event: StoredEvent, statement: str, *arguments: object) -> None:
    done = await connection.execute(statement, *arguments)
    if done.rpartition(" ")[2] != "1":
        raise _nowhere(event)


def _nowhere(event: StoredEvent) -> Conflict:
    return Conflict(f"{type(event.message).__name__} in {event.stream} is about something that is not there")
