"""One workflow: `decide` turns a command into events, `evolve` turns an event into the next state.

Promises: pure; the same report twice yields no second event; an attempt number is never used again.
Refuses: reports of attempts that no longer run (StaleAttempt), commands that the state does not allow (Conflict), jobs
that the workflow lacks (NotFound), graphs that cannot be walked (InvalidWorkflow).
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from microtome.contracts.messages import (
    Event,
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobRetried,
    JobStarted,
    JobSucceeded,
    Message,
    WorkflowSubmitted,
)
from microtome.domain import graph
from microtome.domain.commands import (
    Cancel,
    Command,
    LoseAttempt,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    Start,
    Submit,
)
from microtome.domain.eligibility import finished_at, halted, in_turn, runnable_work_left, startable, status
from microtome.domain.limits import Limits
from microtome.domain.state import Job, JobError, JobStatus, Workflow, WorkflowStatus
from microtome.errors import Conflict, NotFound, StaleAttempt, WorkerLost

__all__ = [
    "Cancel",
    "Command",
    "Job",
    "JobError",
    "JobStatus",
    "Limits",
    "LoseAttempt",
    "ReportFailure",
    "ReportPlanned",
    "ReportSuccess",
    "Retry",
    "Start",
    "Submit",
    "Workflow",
    "WorkflowStatus",
    "backoff",
    "check_attempt",
    "decide",
    "evolve",
    "finished_at",
    "halted",
    "runnable_work_left",
    "startable",
    "status",
]

FIRST_BACKOFF = timedelta(seconds=2)
LONGEST_BACKOFF = timedelta(seconds=60)


def backoff(failures: int) -> timedelta:
    """Return how long to wait after a transient failure that had `failures` before it."""
    return min(FIRST_BACKOFF * (1 << min(failures, 10)), LONGEST_BACKOFF)


def check_attempt(workflow: Workflow, job_id: str, attempt: int) -> Job:
    """Return the job when this very attempt at it runs; raises StaleAttempt or NotFound. The fence for workers."""
    job = _job(workflow, job_id)
    if job.status is not JobStatus.RUNNING or job.attempt != attempt:
        raise StaleAttempt(
            f"Attempt {attempt} at job {job.key!r} no longer counts: it is {job.status} in attempt {job.attempt}."
        )
    return job


def decide(workflow: Workflow | None, command: Command, limits: Limits | None = None) -> tuple[Event, ...]:
    """Return the events that answer `command`, none when what it says is already so; raises as the module says."""
    if isinstance(command, Submit):
        return _submit(workflow, command)
    if workflow is None:
        raise NotFound("There is no such workflow.")
    match command:
        case Start():
            return _start(workflow, command)
        case ReportPlanned():
            return _planned(workflow, command.planned)
        case ReportSuccess():
            return _succeeded(workflow, command)
        case ReportFailure():
            return _failed(workflow, command, limits or Limits())
        case LoseAttempt():
            return _lost(workflow, command, limits or Limits())
        case Cancel():
            return _cancel(workflow, command)
        case Retry():
            return _retry(workflow, command)


def _job(workflow: Workflow, job_id: str) -> Job:
    try:
        return workflow.jobs[job_id]
    except KeyError:
        raise NotFound(f"Workflow {workflow.workflow_id} has no job {job_id}.") from None


def _submit(workflow: Workflow | None, command: Submit) -> tuple[Event, ...]:
    if workflow is not None:
        same = (workflow.user_id, workflow.name) == (command.user_id, command.name)
        if same and tuple(job.spec for job in workflow.jobs.values()) == command.jobs:
            return ()
        raise Conflict(f"Workflow {command.workflow_id} exists and is a different one.")
    graph.validate(command.name, command.jobs)
    submitted = WorkflowSubmitted(
        workflow_id=command.workflow_id, user_id=command.user_id, name=command.name, jobs=command.jobs
    )
    return (submitted,)


def _start(workflow: Workflow, command: Start) -> tuple[Event, ...]:
    job = _job(workflow, command.job_id)
    if job.job_id not in {ready.job_id for ready in in_turn(workflow)}:
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
    job = _job(workflow, command.job_id)
    if job.status is JobStatus.SUCCEEDED and job.attempt == command.attempt:
        return ()  # The first report stands; a redelivered one may differ in its timings.
    check_attempt(workflow, command.job_id, command.attempt)
    return (JobSucceeded(job_id=job.job_id, attempt=job.attempt, result=command.result),)


def _already_failed(job: Job, attempt: int, error: JobError) -> bool:
    ended = job.status in (JobStatus.PENDING, JobStatus.FAILED)
    return ended and job.attempt == attempt and job.error == error


def _failed(workflow: Workflow, command: ReportFailure, limits: Limits) -> tuple[Event, ...]:
    job = _job(workflow, command.job_id)
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
    return (failed,)


def _lost(workflow: Workflow, command: LoseAttempt, limits: Limits) -> tuple[Event, ...]:
    job = _job(workflow, command.job_id)
    ended = job.status in (JobStatus.PENDING, JobStatus.FAILED) and job.attempt == command.attempt
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
    return (failed,)


def _cancel(workflow: Workflow, command: Cancel) -> tuple[Event, ...]:
    job = _job(workflow, command.job_id)
    if job.status in (JobStatus.SUCCEEDED, JobStatus.CANCELLED):
        raise Conflict(f"Job {job.key!r} is {job.status}; there is nothing to cancel.")
    return (JobCancelled(job_id=job.job_id),)


def _retry(workflow: Workflow, command: Retry) -> tuple[Event, ...]:
    job = _job(workflow, command.job_id)
    if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        raise Conflict(f"Job {job.key!r} is {job.status}; only failed and cancelled jobs can be retried.")
    return (JobRetried(job_id=job.job_id),)


def evolve(workflow: Workflow | None, event: Message, at: datetime) -> Workflow:
    """Return the state after `event`, which became a fact at `at`; raises NotFound for an event out of nowhere."""
    if isinstance(event, WorkflowSubmitted):
        jobs = {spec.job_id: Job(spec=spec, order=order) for order, spec in enumerate(event.jobs)}
        return Workflow(
            workflow_id=event.workflow_id,
            user_id=event.user_id,
            name=event.name,
            submitted_at=at,
            jobs=jobs,
            graph=graph.build(event.jobs),
        )
    if workflow is None:
        raise NotFound(f"A {type(event).__name__} belongs to a submitted workflow.")
    job = _evolve_job(workflow, event, at)
    return replace(workflow, jobs={**workflow.jobs, job.job_id: job})


def _evolve_job(workflow: Workflow, event: Message, at: datetime) -> Job:
    match event:
        case JobStarted():
            return Job(
                spec=(job := _job(workflow, event.job_id)).spec,
                order=job.order,
                status=JobStatus.RUNNING,
                attempt=event.attempt,
                slot=event.slot,
                failures=job.failures,
                error=job.error,
                started_at=at,
            )
        case JobPlanned():
            return replace(_job(workflow, event.job_id), planned=event)
        case JobSucceeded():
            job = _job(workflow, event.job_id)
            return replace(job, status=JobStatus.SUCCEEDED, slot=None, error=None, result=event.result, finished_at=at)
        case JobFailed():
            return _after_failure(_job(workflow, event.job_id), event, at)
        case JobAttemptLost():
            job = _job(workflow, event.job_id)
            error = JobError(code=WorkerLost.code, detail=event.reason, transient=WorkerLost.transient)
            return replace(job, status=JobStatus.PENDING, slot=None, failures=job.failures + 1, error=error)
        case JobCancelled():
            job = _job(workflow, event.job_id)
            return replace(job, status=JobStatus.CANCELLED, slot=None, not_before=None, finished_at=at)
        case JobRetried():
            job = _job(workflow, event.job_id)
            return Job(spec=job.spec, order=job.order, attempt=job.attempt)
        case _:
            raise NotFound(f"A {type(event).__name__} says nothing about a workflow.")


def _after_failure(job: Job, event: JobFailed, at: datetime) -> Job:
    final = event.retry_at is None
    return replace(
        job,
        status=JobStatus.FAILED if final else JobStatus.PENDING,
        slot=None,
        failures=job.failures + 1,
        not_before=event.retry_at,
        error=JobError(code=event.code, detail=event.detail, transient=event.transient),
        finished_at=at if final else None,
    )
