"""Which jobs of a workflow may run, by the rules of dependencies and branches alone.

The policy of a branch is `halt`: a failed job holds up the later jobs of its branch until it is retried or cancelled;
a cancelled job is passed over. A job whose dependency failed or was cancelled waits until that is retried, and holds
up its own branch. Other branches never notice.

Promises: at most one startable job per branch, none in a branch where one runs.
Refuses: to know seats, slots and other workflows; see `scheduling`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import takewhile

from microtome.domain.state import Job, JobStatus, Workflow, WorkflowStatus

# Looked up once: these run over every job after every event, and finding a member of an Enum is slow.
PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED = JobStatus


def branch_heads(workflow: Workflow) -> Iterator[Job]:
    """Yield for each branch the job whose turn it is: the running one, else the first that neither succeeded nor was
    cancelled. A branch with nothing left yields nothing.
    """
    jobs = workflow.jobs
    for ids in workflow.graph.branches.values():
        head: Job | None = None
        for job_id in ids:
            job = jobs[job_id]
            if job.status is RUNNING:
                head = job
                break
            if head is None and (job.status is PENDING or job.status is FAILED):
                head = job
        if head is not None:
            yield head


def unmet_dependency(workflow: Workflow, job: Job) -> Job | None:
    """Return the first dependency of `job` that has not succeeded."""
    for job_id in job.spec.depends_on:
        dependency = workflow.jobs[job_id]
        if dependency.status is not SUCCEEDED:
            return dependency
    return None


def in_turn(workflow: Workflow) -> tuple[Job, ...]:
    """Return the pending jobs that only wait for capacity or for their retry time, in the order of submission."""
    ready = [job for job in branch_heads(workflow) if job.status is PENDING and unmet_dependency(workflow, job) is None]
    return tuple(sorted(ready, key=lambda job: job.order))


def startable(workflow: Workflow, now: datetime) -> tuple[Job, ...]:
    """Return the jobs that may start now, given a seat and a slot, in the order of submission."""
    return tuple(job for job in in_turn(workflow) if job.not_before is None or job.not_before <= now)


def halted(workflow: Workflow) -> dict[str, str]:
    """Return the pending jobs that can never start without a user's action, each with the failed or cancelled job that
    is the cause.
    """
    jobs, graph = workflow.jobs, workflow.graph
    causes: dict[str, str] = {}
    reached = [(job_id, job_id) for job_id, job in jobs.items() if job.status in (FAILED, CANCELLED)]
    while reached:
        job_id, cause = reached.pop()
        held_up = [*graph.dependents.get(job_id, ())]
        if jobs[job_id].status is not CANCELLED:
            later = graph.branches[jobs[job_id].spec.branch][graph.place[job_id] + 1 :]
            # The rest of the branch is the business of the next job that is already known to be held up.
            held_up += takewhile(lambda other: other not in causes, later)
        for other in held_up:
            if other not in causes and jobs[other].status is PENDING:
                causes[other] = cause
                reached.append((other, cause))
    return causes


def runnable_work_left(workflow: Workflow) -> bool:
    """Say whether a job runs or can still start without a user's action; decides who needs a seat."""
    pending = trouble = False
    for job in workflow.jobs.values():
        if job.status is RUNNING:
            return True
        if job.status is PENDING:
            pending = True
        elif job.status is not SUCCEEDED:
            trouble = True
    if not (pending and trouble):
        return pending
    causes = halted(workflow)
    return any(job.status is PENDING and job_id not in causes for job_id, job in workflow.jobs.items())


def status(workflow: Workflow) -> WorkflowStatus:
    """Return the status of the whole: FAILED or CANCELLED only when nothing can run any more by itself."""
    if runnable_work_left(workflow):
        begun = any(job.attempt for job in workflow.jobs.values())
        return WorkflowStatus.RUNNING if begun else WorkflowStatus.PENDING
    statuses = {job.status for job in workflow.jobs.values()}
    if statuses == {SUCCEEDED}:
        return WorkflowStatus.SUCCEEDED
    return WorkflowStatus.FAILED if FAILED in statuses else WorkflowStatus.CANCELLED


def finished_at(workflow: Workflow) -> datetime | None:
    """Return when the last job finished, once nothing can run any more by itself."""
    if runnable_work_left(workflow):
        return None
    return max((job.finished_at for job in workflow.jobs.values() if job.finished_at), default=None)
