"""How the jobs of a workflow stand to each other, kept up to date job by job.

Promises: `by_status`, `ready` and `doomed` of every workflow made here are what its jobs, graph and policies say; one
job's change costs as much as it changes, whether the workflow has ten jobs or a thousand.
Refuses: to know why a job changed (see `evolution`) or what should happen next (see `decisions`).

The line of a branch, by policy. HALT: a failed job holds up the jobs after it. SKIP: a failed or skipped job dooms the
pending jobs after it. CONTINUE: failed jobs are passed over. Succeeded, cancelled and skipped jobs and drafts are
always passed over. A dependency that failed, was cancelled or was skipped dooms a pending job, except in a branch that
halts: there the job waits and holds up its branch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from microtome.contracts.messages import BranchPolicy, JobSpec
from microtome.domain.graph import Graph, extended, members, moved_to_the_end
from microtome.domain.graph import restored as restored_graph
from microtome.domain.persistent import Table
from microtome.domain.state import Job, JobStatus, Workflow, empty

# Looked up once: these are compared for every event, and finding a member of an Enum is slow.
DRAFT, PENDING, RUNNING, SUCCEEDED, FAILED, CANCELLED, SKIPPED = JobStatus
HALT, SKIP, CONTINUE = BranchPolicy.HALT, BranchPolicy.SKIP, BranchPolicy.CONTINUE
_CAME_TO_NOTHING = frozenset({FAILED, CANCELLED, SKIPPED})


def restored(
    *,
    workflow_id: str,
    user_id: str,
    name: str,
    submitted_at: datetime,
    jobs: Iterable[Job],
    policies: Mapping[str, BranchPolicy] | None = None,
    submitted: int | None = None,
) -> Workflow:
    """Return the workflow that consists of `jobs`, which come by order and have turns of their own.

    `submitted`: how many of them came with the submission; all, when not given.
    """
    known = Table((job.job_id, job) for job in jobs)
    by_status = dict(empty())
    for job in known.values():
        by_status[job.status] |= 1 << job.turn
    workflow = Workflow(
        workflow_id=workflow_id,
        user_id=user_id,
        name=name,
        submitted_at=submitted_at,
        jobs=known,
        submitted=len(known) if submitted is None else submitted,
        policies=policies or {},
        graph=restored_graph([(job.spec, job.turn) for job in known.values()]),
        by_status=by_status,
    )
    return _surveyed(workflow)


def _surveyed(workflow: Workflow) -> Workflow:
    ready = doomed = 0
    for branch in workflow.graph.branches:
        ready |= _ready_in(workflow.graph, workflow.by_status, workflow.policy(branch), branch)
    for turn in members(workflow.by_status[PENDING]) if workflow.policies else ():
        if reason_to_skip(workflow, workflow.at_turn(turn)) is not None:
            doomed |= 1 << turn
    return replace(workflow, ready=ready, doomed=doomed)


def with_more(workflow: Workflow, specs: Iterable[JobSpec], policies: Mapping[str, BranchPolicy]) -> Workflow:
    """Return the workflow with more jobs."""
    specs = tuple(specs)
    new = fresh_jobs(specs, len(workflow.jobs), workflow.next_turn)
    by_status = {**workflow.by_status}
    for job in new:
        by_status[job.status] |= 1 << job.turn
    grown = replace(
        workflow,
        jobs=Table((*workflow.jobs.items(), *((job.job_id, job) for job in new))),
        policies={**workflow.policies, **policies} if policies else workflow.policies,
        graph=extended(workflow.graph, specs),
        by_status=by_status,
    )
    return _surveyed(grown)


def fresh_jobs(specs: Iterable[JobSpec], order: int, turn: int) -> tuple[Job, ...]:
    """Return the jobs as they are before anything happened to them, numbered from `order` and `turn` on."""
    return tuple(
        Job(
            spec=spec,
            order=order + number,
            turn=turn + number,
            draft=spec.draft,
            status=DRAFT if spec.draft else PENDING,
        )
        for number, spec in enumerate(specs)
    )


def with_job(workflow: Workflow, before: Job, after: Job) -> Workflow:
    """Return the workflow in which the job `before` has become `after`."""
    jobs = workflow.jobs
    following = jobs.set(after.job_id, after) if isinstance(jobs, Table) else {**jobs, after.job_id: after}
    if before.status is after.status and before.turn == after.turn:
        return _replaced(workflow, following, workflow.graph, workflow.by_status, workflow.ready, workflow.doomed)
    graph = workflow.graph
    if before.turn != after.turn:
        graph = moved_to_the_end(graph, after.spec, before.turn)
    bit, by_status = 1 << after.turn, {**workflow.by_status}
    by_status[before.status] &= ~(1 << before.turn)
    by_status[after.status] |= bit
    branch = after.spec.branch
    ready = workflow.ready & ~(1 << before.turn) & ~graph.branches[branch]
    ready |= _ready_in(graph, by_status, workflow.policy(branch), branch)
    changed = _replaced(workflow, following, graph, by_status, ready, workflow.doomed & ~(1 << before.turn))
    if after.status is SUCCEEDED:
        return _freed(changed, after)
    return _condemned(changed, after) if workflow.policies else changed


def _replaced(
    workflow: Workflow,
    jobs: Mapping[str, Job],
    graph: Graph,
    by_status: Mapping[JobStatus, int],
    ready: int,
    doomed: int,
) -> Workflow:
    """As `dataclasses.replace` does, at a third of its time; this runs for every event."""
    return Workflow(
        workflow_id=workflow.workflow_id,
        user_id=workflow.user_id,
        name=workflow.name,
        submitted_at=workflow.submitted_at,
        jobs=jobs,
        submitted=workflow.submitted,
        policies=workflow.policies,
        graph=graph,
        by_status=by_status,
        ready=ready,
        doomed=doomed,
    )


def _ready_in(graph: Graph, by_status: Mapping[JobStatus, int], policy: BranchPolicy, branch: str) -> int:
    """Return the branch's job that only waits for capacity or for its retry time, if there is one."""
    line = graph.branches[branch]
    if line & by_status[RUNNING]:
        return 0
    pending = by_status[PENDING]
    first = line & (pending if policy is CONTINUE else pending | by_status[FAILED])
    first &= -first
    if not first & pending:
        return 0
    needs = graph.needs[first.bit_length() - 1]
    return first if needs & by_status[SUCCEEDED] == needs else 0


def _freed(workflow: Workflow, job: Job) -> Workflow:
    """Note what may start now that the job succeeded."""
    graph, by_status = workflow.graph, workflow.by_status
    dependents = graph.feeds[job.turn] & by_status[PENDING]
    if not dependents:
        return workflow
    ready, succeeded = workflow.ready, by_status[SUCCEEDED]
    for turn in members(dependents):
        if graph.needs[turn] & succeeded == graph.needs[turn]:
            branch = workflow.at_turn(turn).spec.branch
            ready |= _ready_in(graph, by_status, workflow.policy(branch), branch)
    return _replaced(workflow, workflow.jobs, graph, by_status, ready, workflow.doomed)


def _condemned(workflow: Workflow, job: Job) -> Workflow:
    """Note what is to be skipped, now that the job came to nothing or is pending."""
    pending = workflow.by_status[PENDING]
    suspects = workflow.doomed
    if job.status is PENDING:
        suspects |= 1 << job.turn
    elif job.status in _CAME_TO_NOTHING:
        suspects |= affected(workflow, job)
    doomed = 0
    for turn in members(suspects & pending):
        if reason_to_skip(workflow, workflow.at_turn(turn)) is not None:
            doomed |= 1 << turn
    if doomed == workflow.doomed:
        return workflow
    return _replaced(workflow, workflow.jobs, workflow.graph, workflow.by_status, workflow.ready, doomed)


def affected(workflow: Workflow, job: Job) -> int:
    """Return the jobs that can be skipped because of this one alone: its dependents, and in a branch that skips the
    jobs after it.
    """
    found = workflow.graph.feeds[job.turn]
    if workflow.policy(job.spec.branch) is SKIP:
        found |= workflow.graph.branches[job.spec.branch] >> job.turn + 1 << job.turn + 1
    return found


def reason_to_skip(workflow: Workflow, job: Job) -> Job | None:
    """Return the job because of which this one, were it pending, had to be skipped; None if it need not be."""
    policy = workflow.policy(job.spec.branch)
    if policy is HALT:
        return None
    by_status, graph = workflow.by_status, workflow.graph
    failed = by_status[FAILED] | by_status[SKIPPED]
    broken = graph.needs[job.turn] & (failed | by_status[CANCELLED])
    if policy is SKIP and not broken:
        broken = graph.branches[job.spec.branch] & failed & (1 << job.turn) - 1
    return workflow.at_turn((broken & -broken).bit_length() - 1) if broken else None
