"""One workflow: `decide` turns a command into events.

Promises: pure; the same report twice yields no second event; an attempt number is never used again. With an event
because of which jobs are to be skipped come the events that say so, in one answer.
Refuses: reports of attempts that no longer run (StaleAttempt), commands that the state does not allow (Conflict), jobs
that the workflow lacks (NotFound), graphs that cannot be walked (InvalidWorkflow).
"""

from __future__ import annotations

from datetime import timedelta

from microtome.contracts.messages import (
    ArtifactsDeleted,
    Event,
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobPreempted,
    JobStarted,
    JobSucceeded,
)
from microtome.domain.commands import (
    AddJobs,
    Cancel,
    CancelWorkflow,
    Command,
    DeleteArtifacts,
    LoseAttempt,
    Preempt,
    Release,
    ReleaseAll,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    RetryFailed,
    Start,
    Submit,
)
from microtome.domain.evolution import find
from microtome.domain.graph import members
from microtome.domain.growth import add, release, release_all, submit
from microtome.domain.limits import Limits
from microtome.domain.retrying import retry, retry_failed
from microtome.domain.settling import settled
from microtome.domain.standing import CANCELLED, DRAFT, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from microtome.domain.state import Job, JobError, Workflow
from microtome.errors import Conflict, NotFound, StaleAttempt, WorkerLost

FIRST_BACKOFF = timedelta(seconds=2)
LONGEST_BACKOFF = timedelta(seconds=60)


def backoff(failures: int) -> timedelta:
    """Return how long to wait after a transient failure that had `failures` before it."""
    return min(FIRST_BACKOFF * (1 << min(failures, 10)), LONGEST_BACKOFF)


def check_attempt(workflow: Workflow, job_id: str, attempt: int) -> Job:
    """Return the job when this very attempt at it runs; raises StaleAttempt or NotFound. The fence for workers."""
    job = find(workflow, job_id)
    if job.status is not RUNNING or job.attempt != attempt:
        raise StaleAttempt(
            f"Attempt {attempt} at job {job.key!r} no longer counts: it is {job.status} in attempt {job.attempt}."
        )
    return job


def decide(workflow: Workflow | None, command: Command, limits: Limits | None = None) -> tuple[Event, ...]:
    """Return the events that answer `command`, none when what it says is already so; raises as the module says."""
    if isinstance(command, Submit):
        return submit(workflow, command)
    if workflow is None:
        raise NotFound("There is no such workflow.")
    match command:
        case Start() | Preempt() | ReportPlanned() | ReportSuccess() | ReportFailure() | LoseAttempt():
            return _attempt(workflow, command, limits or Limits())
        case AddJobs():
            return add(workflow, command)
        case Release():
            return release(workflow, command.job_id)
        case ReleaseAll():
            return release_all(workflow)
        case Cancel():
            return _cancel(workflow, command)
        case CancelWorkflow():
            return _cancel_all(workflow)
        case Retry():
            return retry(workflow, command.job_id)
        case RetryFailed():
            return retry_failed(workflow)
        case DeleteArtifacts():
            return _delete_artifacts(workflow, command)


def _attempt(
    workflow: Workflow,
    command: Start | Preempt | ReportPlanned | ReportSuccess | ReportFailure | LoseAttempt,
    limits: Limits,
) -> tuple[Event, ...]:
    match command:
        case Start():
            return _start(workflow, command)
        case Preempt():
            job = check_attempt(workflow, command.job_id, command.attempt)
            return (JobPreempted(job_id=job.job_id, attempt=job.attempt),)
        case ReportPlanned():
            return _planned(workflow, command.planned)
        case ReportSuccess():
            return _succeeded(workflow, command)
        case ReportFailure():
            return _failed(workflow, command, limits)
        case LoseAttempt():
            return _lost(workflow, command, limits)


def _start(workflow: Workflow, command: Start) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    if not workflow.ready >> job.turn & 1:
        raise Conflict(f"It is not the turn of job {job.key!r} ({job.status}).")
    return (JobStarted(job_id=job.job_id, attempt=job.attempt + 1, slot=command.slot),)


def _planned(workflow: Workflow, planned: JobPlanned) -> tuple[Event, ...]:
    job = check_attempt(workflow, planned.job_id, planned.attempt)
    if job.planned is None:
        return (planned,)
    if job.planned == planned:
        return ()
    raise Conflict(f"Attempt {planned.attempt} at job {job.key!r} is already planned, and differently.")


def _succeeded(workflow: Workflow, command: ReportSuccess) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    if job.status is SUCCEEDED and job.attempt == command.attempt:
        return ()  # The first report stands; a redelivered one may differ in its timings.
    check_attempt(workflow, command.job_id, command.attempt)
    return (JobSucceeded(job_id=job.job_id, attempt=job.attempt, result=command.result),)


def _already_failed(job: Job, attempt: int, error: JobError) -> bool:
    ended = job.status in (PENDING, FAILED)
    return ended and job.attempt == attempt and job.error == error


def _failed(workflow: Workflow, command: ReportFailure, limits: Limits) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    error = JobError(code=command.code, detail=command.detail, transient=command.transient)
    if _already_failed(job, command.attempt, error):
        return ()
    check_attempt(workflow, command.job_id, command.attempt)
    again = command.transient and job.failures + 1 < limits.max_attempts
    failed = JobFailed(
        job_id=job.job_id,
        attempt=job.attempt,
        code=command.code,
        detail=command.detail,
        transient=command.transient,
        retry_at=command.now + backoff(job.failures) if again else None,
    )
    return settled(workflow, failed)


def _lost(workflow: Workflow, command: LoseAttempt, limits: Limits) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    ended = job.status in (PENDING, FAILED) and job.attempt == command.attempt
    if ended and job.error is not None and job.error.code == WorkerLost.code:
        return ()
    check_attempt(workflow, command.job_id, command.attempt)
    if job.failures + 1 < limits.max_attempts:
        lost = JobAttemptLost(job_id=job.job_id, attempt=job.attempt, owner=command.owner, reason=command.reason)
        return (lost,)
    failed = JobFailed(
        job_id=job.job_id,
        attempt=job.attempt,
        code=WorkerLost.code,
        detail=f"{command.reason} This was attempt {job.failures + 1} of {limits.max_attempts}; retry it by hand.",
        transient=WorkerLost.transient,
    )
    return settled(workflow, failed)


def _cancel(workflow: Workflow, command: Cancel) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    if job.status in (SUCCEEDED, CANCELLED, SKIPPED):
        raise Conflict(f"Job {job.key!r} is {job.status}; there is nothing to cancel.")
    return settled(workflow, JobCancelled(job_id=job.job_id))


def _cancel_all(workflow: Workflow) -> tuple[Event, ...]:
    by_status = workflow.by_status
    turns = [*members(by_status[DRAFT] | by_status[PENDING] | by_status[RUNNING])]
    if not turns:
        raise Conflict("Nothing of this workflow runs or waits; there is nothing to cancel.")
    # From the end of the lines, so that no job's turn comes on the way.
    return settled(workflow, *(JobCancelled(job_id=workflow.graph.turns[turn]) for turn in reversed(turns)))


def _delete_artifacts(workflow: Workflow, command: DeleteArtifacts) -> tuple[Event, ...]:
    job = find(workflow, command.job_id)
    if job.result is None:
        raise Conflict(f"Job {job.key!r} is {job.status} and has no files to delete.")
    if job.artifacts_deleted_at is not None:
        return ()
    return (ArtifactsDeleted(job_id=job.job_id, attempt=job.attempt),)
