"""How a workflow comes to its jobs: submission, jobs added later, drafts that are started.

Promises: whatever the order in which a user starts drafts, no two jobs wait for each other.
Refuses: graphs that cannot be walked (InvalidWorkflow), and what the workflow as it is does not allow (Conflict).
"""

from __future__ import annotations

from microtome.contracts.messages import Branch, BranchPolicy, Event, JobReleased, JobsAdded, JobSpec, WorkflowSubmitted
from microtome.domain import graph
from microtome.domain.commands import AddJobs, Submit
from microtome.domain.evolution import evolve, find, policies
from microtome.domain.graph import members
from microtome.domain.settling import settled, skips
from microtome.domain.standing import DRAFT
from microtome.domain.state import Job, Workflow
from microtome.errors import Conflict


def submit(workflow: Workflow | None, command: Submit) -> tuple[Event, ...]:
    """Return the submission; nothing when it is the very one that was made."""
    if workflow is not None:
        same = (workflow.user_id, workflow.name) == (command.user_id, command.name)
        specs = [job.spec for job in workflow.jobs.values()][: workflow.submitted]
        if same and tuple(specs) == command.jobs and _policies_chosen(workflow, command):
            return ()
        raise Conflict(f"Workflow {command.workflow_id} exists and is a different one.")
    graph.validate(command.name, command.jobs, command.branches)
    submitted = WorkflowSubmitted(
        workflow_id=command.workflow_id,
        user_id=command.user_id,
        name=command.name,
        jobs=command.jobs,
        branches=command.branches,
    )
    return (submitted,)


def _policies_chosen(workflow: Workflow, command: Submit) -> bool:
    """Whether the submitted jobs' branches have the policies that the command gives them."""
    wanted = policies(command.branches)
    return all(wanted.get(spec.branch, BranchPolicy.HALT) is workflow.policy(spec.branch) for spec in command.jobs)


def add(workflow: Workflow, command: AddJobs) -> tuple[Event, ...]:
    """Return the addition and the skips that follow; nothing when these very jobs are there already."""
    if command.jobs and all(_is_known(workflow, spec) for spec in command.jobs):
        return ()
    graph.validate_addition(line(workflow), command.jobs, command.branches)
    _check_policies(workflow, command)
    chosen = {branch.name: branch.policy for branch in command.branches}
    used = {spec.branch: workflow.policies[spec.branch] for spec in command.jobs if spec.branch in workflow.policies}
    # The policies of old branches are repeated, so that the event can be understood without the ones before it.
    branches = tuple(Branch(name=name, policy=policy) for name, policy in (used | chosen).items())
    added = JobsAdded(workflow_id=workflow.workflow_id, user_id=workflow.user_id, jobs=command.jobs, branches=branches)
    return settled(workflow, added)


def _is_known(workflow: Workflow, spec: JobSpec) -> bool:
    job = workflow.jobs.get(spec.job_id)
    return job is not None and job.spec == spec


def _check_policies(workflow: Workflow, command: AddJobs) -> None:
    for branch in command.branches:
        known = workflow.policy(branch.name)
        wanted = BranchPolicy.HALT if branch.policy is BranchPolicy.UNSPECIFIED else branch.policy
        if branch.name in workflow.graph.branches and wanted is not known:
            raise Conflict(f"Branch {branch.name!r} exists, and its policy is {known.name.lower()}.")


def release(workflow: Workflow, job_id: str) -> tuple[Event, ...]:
    """Return the start of a draft; nothing when it was started before. Raises Conflict or NotFound."""
    job = find(workflow, job_id)
    if job.spec.draft and not job.draft:
        return ()
    if job.status is not DRAFT:
        raise Conflict(f"Job {job.key!r} is {job.status} and no draft; there is nothing to start.")
    check_release(workflow, job)
    return settled(workflow, JobReleased(job_id=job_id))


def release_all(workflow: Workflow) -> tuple[Event, ...]:
    """Return the start of every draft that can be started, each after those that it waits for; nothing when there is
    none. Raises Conflict when none of the drafts can be started.
    """
    drafts = {workflow.graph.turns[turn] for turn in members(workflow.by_status[DRAFT])}
    given_up = any(job.draft and job.job_id not in drafts for job in workflow.jobs.values())
    events: list[Event] = []
    refused: Conflict | None = None
    state = workflow
    for job_id in graph.in_order(graph.waits_for(line(workflow)), drafts and workflow.jobs):
        if job_id not in drafts:
            continue
        try:
            # In this order only a draft that was cancelled can be in the way.
            if given_up:
                check_release(state, state.jobs[job_id])
        except Conflict as conflict:
            refused = conflict
            continue
        events.append(JobReleased(job_id=job_id))
        state = evolve(state, events[-1], workflow.submitted_at)
    if refused is not None and not events:
        raise refused
    return (*events, *skips(state))


def check_release(workflow: Workflow, job: Job) -> None:
    """Raise Conflict when the draft would wait for another one that can only come after it in their branch."""
    for other_id in graph.in_order(graph.waits_for(line(workflow)), [job.job_id]):
        other = workflow.jobs[other_id]
        if other.draft and other.spec.branch == job.spec.branch and other is not job:
            first = "start" if other.status is DRAFT else "retry"
            raise Conflict(f"Job {job.key!r} waits for the draft {other.key!r} of its branch; {first} that one first.")


def line(workflow: Workflow) -> list[tuple[JobSpec, bool]]:
    """Return the jobs by turn, each with whether it is a draft, or was cancelled as one."""
    return [(job.spec, job.draft) for job in sorted(workflow.jobs.values(), key=lambda job: job.turn)]
