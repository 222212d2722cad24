"""One workflow: `evolve` turns an event into the next state.

Promises: pure; every event that `decisions.decide` gave is understood, and so are those of earlier releases.
Refuses: with NotFound, events about no submitted workflow, about jobs that it lacks, or about something else.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta

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
    JobRetried,
    JobsAdded,
    JobSkipped,
    JobStarted,
    JobSucceeded,
    Message,
    WorkflowSubmitted,
)
from microtome.domain.standing import (
    CANCELLED,
    FAILED,
    PENDING,
    RUNNING,
    SKIPPED,
    SUCCEEDED,
    fresh_jobs,
    restored,
    with_job,
    with_more,
)
from microtome.domain.state import Job, JobError, Workflow
from microtome.errors import NotFound, WorkerLost

AboutJob = (
    JobReleased
    | JobStarted
    | JobPlanned
    | JobSucceeded
    | JobFailed
    | JobAttemptLost
    | JobPreempted
    | JobSkipped
    | JobCancelled
    | JobRetried
    | ArtifactsDeleted
)


def evolve(workflow: Workflow | None, event: Message, at: datetime) -> Workflow:
    """Return the state after `event`, which became a fact at `at`; raises NotFound for an event out of nowhere.

    Jobs added to no workflow (None) found one that consists of them: whoever lets go of workflows in which everything
    succeeded needs to know nothing of the old jobs.
    """
    if isinstance(event, AboutJob):
        if workflow is None:
            raise NotFound(f"A {type(event).__name__} belongs to a submitted workflow.")
        before = find(workflow, event.job_id)
        return with_job(workflow, before, _evolve_job(workflow, before, event, at))
    if isinstance(event, WorkflowSubmitted):
        return restored(
            workflow_id=event.workflow_id,
            user_id=event.user_id,
            name=event.name,
            submitted_at=at,
            jobs=fresh_jobs(event.jobs, 0, 0),
            policies=policies(event.branches),
        )
    if isinstance(event, JobsAdded):
        if workflow is not None:
            return with_more(workflow, event.jobs, policies(event.branches))
        return restored(
            workflow_id=event.workflow_id,
            user_id=event.user_id,
            name="",
            submitted_at=at,
            jobs=fresh_jobs(event.jobs, 0, 0),
            policies=policies(event.branches),
            submitted=0,
        )
    raise NotFound(f"A {type(event).__name__} says nothing about a workflow.")


def policies(branches: Iterable[Branch]) -> dict[str, BranchPolicy]:
    """Return what was chosen for the branches, by name."""
    return {branch.name: branch.policy for branch in branches if branch.policy is not BranchPolicy.UNSPECIFIED}


def find(workflow: Workflow, job_id: str) -> Job:
    """Return a job of the workflow; raises NotFound."""
    try:
        return workflow.jobs[job_id]
    except KeyError:
        raise NotFound(f"Workflow {workflow.workflow_id} has no job {job_id}.") from None


def _evolve_job(workflow: Workflow, job: Job, event: AboutJob, at: datetime) -> Job:
    match event:
        case JobStarted():
            return _begun(job, event, at)
        case JobPlanned():
            return replace(job, planned=event)
        case JobSucceeded():
            return replace(job, status=SUCCEEDED, slot=None, error=None, result=event.result, finished_at=at)
        case JobFailed():
            return _after_failure(job, event, at)
        case JobAttemptLost():
            error = JobError(code=WorkerLost.code, detail=event.reason, transient=WorkerLost.transient)
            back = replace(job, status=PENDING, slot=None, failures=job.failures + 1, error=error)
            return replace(back, ran=_ran(job, at))
        case JobPreempted():
            back = replace(job, status=PENDING, slot=None, not_before=None, preemptions=job.preemptions + 1)
            return replace(back, ran=_ran(job, at))
        case JobSkipped():
            return replace(job, status=SKIPPED, not_before=None, cause_job_id=event.cause_job_id, finished_at=at)
        case JobCancelled():
            return replace(job, status=CANCELLED, slot=None, not_before=None, finished_at=at)
        case JobRetried():
            return _afresh(job)
        case JobReleased():
            return replace(_afresh(job), turn=workflow.next_turn, draft=False)
        case ArtifactsDeleted():
            return replace(job, artifacts_deleted_at=at)


def _begun(job: Job, event: JobStarted, at: datetime) -> Job:
    return Job(
        spec=job.spec,
        order=job.order,
        turn=job.turn,
        status=RUNNING,
        attempt=event.attempt,
        slot=event.slot,
        failures=job.failures,
        preemptions=job.preemptions,
        error=job.error,
        ran=job.ran,
        started_at=at,
    )


def _afresh(job: Job) -> Job:
    return Job(
        spec=job.spec,
        order=job.order,
        turn=job.turn,
        draft=job.draft,
        attempt=job.attempt,
        preemptions=job.preemptions,
    )


def _ran(job: Job, at: datetime) -> timedelta:
    return job.ran + max(at - job.started_at, timedelta(0)) if job.started_at is not None else job.ran


def _after_failure(job: Job, event: JobFailed, at: datetime) -> Job:
    final = event.retry_at is None
    return replace(
        job,
        status=FAILED if final else PENDING,
        slot=None,
        failures=job.failures + 1,
        not_before=event.retry_at,
        error=JobError(code=event.code, detail=event.detail, transient=event.transient),
        finished_at=at if final else None,
    )
