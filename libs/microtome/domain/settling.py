"""Which jobs are skipped with an event: those that can come to nothing only, by the policy of their branch.

Promises: after the events that it returns no job is doomed; each skip names a job that came to nothing before it.
Refuses: to decide on the events that it is given.
"""

from __future__ import annotations

from microtome.contracts.messages import Event, JobSkipped
from microtome.domain.evolution import evolve
from microtome.domain.standing import reason_to_skip
from microtome.domain.state import Workflow


def settled(workflow: Workflow, *events: Event) -> tuple[Event, ...]:
    """Return `events` and the skips that follow from them."""
    if not workflow.policies and not any(hasattr(event, "branches") for event in events):
        return events  # Where every branch halts, nothing is ever skipped.
    for event in events:
        workflow = evolve(workflow, event, workflow.submitted_at)
    return (*events, *skips(workflow))


def skips(workflow: Workflow) -> tuple[JobSkipped, ...]:
    """Return what is to be skipped in this state, across branches, each after its cause."""
    found: list[JobSkipped] = []
    while workflow.doomed:
        job = workflow.at_turn((workflow.doomed & -workflow.doomed).bit_length() - 1)
        cause = reason_to_skip(workflow, job)
        assert cause is not None
        found.append(JobSkipped(job_id=job.job_id, cause_job_id=cause.job_id))
        workflow = evolve(workflow, found[-1], workflow.submitted_at)
    return tuple(found)
