"""Trying again: a job that failed, was cancelled or was skipped, and what was skipped because of it.

Promises: what comes back is exactly what no other job's end forbids; what stays skipped names a job that still stands
in its way.
Refuses, with Conflict: jobs in any other status, and jobs that another one's end would have skipped again at once; the
message names the job to retry instead.
"""

from __future__ import annotations

from collections.abc import Iterable

from microtome.contracts.messages import Event, JobReleased, JobRetried, JobSkipped
from microtome.domain.evolution import evolve, find
from microtome.domain.graph import members
from microtome.domain.growth import check_release
from microtome.domain.standing import CANCELLED, FAILED, SKIPPED, affected, reason_to_skip
from microtome.domain.state import Job, Workflow
from microtome.errors import Conflict


def retry(workflow: Workflow, job_id: str) -> tuple[Event, ...]:
    """Return the events of a new attempt at the job; raises Conflict or NotFound."""
    job = find(workflow, job_id)
    if job.status not in (FAILED, CANCELLED, SKIPPED):
        raise Conflict(f"Job {job.key!r} is {job.status}; only failed, cancelled and skipped jobs can be retried.")
    return _retried(workflow, (job_id,))


def retry_failed(workflow: Workflow) -> tuple[Event, ...]:
    """Return the events of new attempts at all failed jobs; raises Conflict when there is none."""
    failed = [workflow.graph.turns[turn] for turn in members(workflow.by_status[FAILED])]
    if not failed:
        raise Conflict("No job of this workflow failed; there is nothing to retry.")
    return _retried(workflow, failed)


def _retried(workflow: Workflow, job_ids: Iterable[str]) -> tuple[Event, ...]:
    events: list[Event] = []
    state = workflow

    def happens(event: Event) -> None:
        nonlocal state
        events.append(event)
        state = evolve(state, event, workflow.submitted_at)

    held: dict[str, None] = {}
    for job_id in job_ids:
        job = state.jobs[job_id]
        if job.draft:
            # It never had a place in the line; now it gets the last one.
            check_release(state, job)
        again = JobReleased(job_id=job_id) if job.draft else JobRetried(job_id=job_id)
        happens(again)
        if (obstacle := reason_to_skip(state, state.jobs[job_id])) is not None:
            root = _to_retry(state, obstacle)
            raise Conflict(f"Job {job.key!r} cannot run while job {root.key!r} is {root.status}; retry that one.")
        back = [state.jobs[job_id]]
        while back:
            for turn in members(affected(state, back.pop()) & state.by_status[SKIPPED]):
                other = state.at_turn(turn)
                if reason_to_skip(state, other) is None:
                    happens(JobRetried(job_id=other.job_id))
                    back.append(state.jobs[other.job_id])
                else:
                    held[other.job_id] = None
    for other_id in held:
        other = state.jobs[other_id]
        obstacle = reason_to_skip(state, other) if other.status is SKIPPED else None
        # Skipped for another reason from now on.
        if obstacle is not None and not _in_the_way(state, other):
            happens(JobSkipped(job_id=other_id, cause_job_id=obstacle.job_id))
    return tuple(events)


def _in_the_way(workflow: Workflow, job: Job) -> bool:
    """Say whether the cause that the job names has come to nothing still."""
    cause = workflow.jobs.get(job.cause_job_id or "")
    return cause is not None and cause.status in (FAILED, CANCELLED, SKIPPED)


def _to_retry(workflow: Workflow, job: Job) -> Job:
    """Return the job that can be retried, so that `job` can be in the end."""
    while (obstacle := reason_to_skip(workflow, job)) is not None:
        job = obstacle
    return job
