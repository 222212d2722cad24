"""Which jobs of a workflow may run, by the rules of dependencies and branches alone.

Promises: at most one startable job per branch, none in a branch where one runs.
Refuses: to know seats, slots and other workflows; see `scheduling`. What a policy means for a line is in `standing`.
"""

from __future__ import annotations

from datetime import datetime

from microtome.domain.graph import members
from microtome.domain.standing import CANCELLED, CONTINUE, DRAFT, FAILED, PENDING, RUNNING, SKIPPED, SUCCEEDED
from microtome.domain.state import Job, Workflow, WorkflowStatus


def branch_head(workflow: Workflow, branch: str) -> Job | None:
    """Return the job whose turn it is in a branch: the running one, else the first that is not passed over; None when
    nothing is left.
    """
    by_status, line = workflow.by_status, workflow.graph.branches[branch]
    head = line & by_status[RUNNING]
    if not head:
        held = 0 if workflow.policy(branch) is CONTINUE else by_status[FAILED]
        head = line & (by_status[PENDING] | held)
    return workflow.at_turn((head & -head).bit_length() - 1) if head else None


def unmet_dependency(workflow: Workflow, job: Job) -> Job | None:
    """Return the first dependency of `job` that has not succeeded; one that the workflow no longer knows has."""
    for job_id in job.spec.depends_on:
        dependency = workflow.jobs.get(job_id)
        if dependency is not None and dependency.status is not SUCCEEDED:
            return dependency
    return None


def in_turn(workflow: Workflow) -> tuple[Job, ...]:
    """Return the pending jobs that only wait for capacity or for their retry time, the lowest turn first."""
    return tuple(workflow.at_turn(turn) for turn in members(workflow.ready))


def startable(workflow: Workflow, now: datetime) -> tuple[Job, ...]:
    """Return the jobs that may start now, given a seat and a slot, the lowest turn first."""
    return tuple(job for job in in_turn(workflow) if job.not_before is None or job.not_before <= now)


def halted(workflow: Workflow) -> dict[str, str]:
    """Return the pending jobs that can never start without a user's action, each with the job that is the cause: one
    that failed, was cancelled or was skipped, or a draft.
    """
    graph, by_status = workflow.graph, workflow.by_status
    pending = by_status[PENDING]
    nothing = by_status[FAILED] | by_status[CANCELLED] | by_status[SKIPPED]
    causes: dict[str, str] = {}
    reached = [(turn, graph.turns[turn]) for turn in members(nothing | by_status[DRAFT])]
    # The first in line is the reason that people look for.
    reached.reverse()
    while reached and pending:
        turn, cause = reached.pop()
        held = graph.feeds[turn] & pending
        branch = workflow.at_turn(turn).spec.branch
        fails = by_status[FAILED] >> turn & 1 and workflow.policy(branch) is not CONTINUE
        if fails or not (nothing | by_status[DRAFT]) >> turn & 1:
            held |= (graph.branches[branch] & pending) >> turn + 1 << turn + 1
        pending &= ~held
        for other in members(held):
            causes[graph.turns[other]] = cause
            reached.append((other, cause))
    return causes


def runnable_work_left(workflow: Workflow) -> bool:
    """Say whether a job runs or can still start without a user's action; decides who needs a seat.

    If any can, then one runs or is ready: of the pending jobs that nothing halts, take the first by dependencies and
    lines. While jobs are doomed, what will be left is not known yet, and counts as work.
    """
    return bool(workflow.by_status[RUNNING] or workflow.ready or workflow.doomed)


def begun(workflow: Workflow) -> bool:
    """Say whether a job ever started."""
    if workflow.by_status[RUNNING] or workflow.by_status[SUCCEEDED] or workflow.by_status[FAILED]:
        return True
    return any(job.attempt for job in workflow.jobs.values())


def all_succeeded(workflow: Workflow) -> bool:
    """Say whether nothing can change any more, unless jobs are added."""
    return workflow.by_status[SUCCEEDED].bit_count() == len(workflow.jobs)


def status(workflow: Workflow) -> WorkflowStatus:
    """Return the status of the whole: FAILED or CANCELLED only when nothing can run any more by itself.

    A workflow whose drafts are all that is left has not ended.
    """
    by_status = workflow.by_status
    if not runnable_work_left(workflow):
        if all_succeeded(workflow):
            return WorkflowStatus.SUCCEEDED
        if by_status[FAILED]:
            return WorkflowStatus.FAILED
        if not by_status[DRAFT]:
            return WorkflowStatus.CANCELLED
    return WorkflowStatus.RUNNING if begun(workflow) else WorkflowStatus.PENDING


def finished_at(workflow: Workflow) -> datetime | None:
    """Return when the last job finished, once the workflow ended."""
    if status(workflow) in (WorkflowStatus.PENDING, WorkflowStatus.RUNNING):
        return None
    return max((job.finished_at for job in workflow.jobs.values() if job.finished_at), default=None)
