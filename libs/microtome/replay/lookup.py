"""Which workflow or job somebody means: by id, by the beginning of the id, by name or key.

Promises: exactly one, or `NotFound`, or `Conflict` naming the candidates. Refuses: to search any other tenant's when
asked for one tenant's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from microtome.contracts.messages import JobsAdded, WorkflowSubmitted
from microtome.domain.cluster import STREAM_PREFIX
from microtome.errors import Conflict, NotFound
from microtome.replay.describe import short
from microtome.replay.source import History

_SHORTEST_BEGINNING = 4
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class _Found:
    workflow_id: str
    job_id: str
    label: str
    exact: bool


async def find_workflow(history: History, wanted: str) -> str:
    """Return the id of the workflow with this id, beginning of an id, or name."""
    found: list[_Found] = []
    async for event in history.events(types=["WorkflowSubmitted"]):
        message = event.message
        if not isinstance(message, WorkflowSubmitted):
            continue
        if _fits(message.workflow_id, wanted) or message.name == wanted:
            label = f"{short(message.workflow_id)} {message.name!r} of {message.user_id}"
            found.append(_Found(message.workflow_id, "", label, message.workflow_id == wanted))
    return _only("workflow", wanted, found).workflow_id


async def find_job(history: History, wanted: str) -> tuple[str, str]:
    """Return (workflow id, job id) of the job with this id, beginning of an id, key, or `workflow/key`."""
    workflow, slash, key = wanted.rpartition("/")
    only = await find_workflow(history, workflow) if slash else None
    found: list[_Found] = []
    streams = None if only is None else [STREAM_PREFIX + only]
    async for event in history.events(streams=streams, types=["WorkflowSubmitted", "JobsAdded"]):
        message = event.message
        if not isinstance(message, WorkflowSubmitted | JobsAdded):
            continue
        workflow_id = event.stream.removeprefix(STREAM_PREFIX)
        for job in message.jobs:
            if job.key == key or (not slash and _fits(job.job_id, wanted)):
                label = f"{short(workflow_id)}/{job.key} ({short(job.job_id)})"
                found.append(_Found(workflow_id, job.job_id, label, job.job_id == wanted))
    chosen = _only("job", wanted, found)
    return chosen.workflow_id, chosen.job_id


def _fits(identity: str, wanted: str) -> bool:
    return identity == wanted or (len(wanted) >= _SHORTEST_BEGINNING and identity.startswith(wanted))


def _only(what: str, wanted: str, found: Iterable[_Found]) -> _Found:
    candidates = list(found)
    exact = [each for each in candidates if each.exact]
    if len(exact) == 1:
        return exact[0]
    if not candidates:
        raise NotFound(f"The log knows no {what} {wanted!r}. `tail --type WorkflowSubmitted --from start` lists them.")
    if len(candidates) > 1:
        names = "; ".join(each.label for each in candidates[:_SHOWN])
        more = f" and {len(candidates) - _SHOWN} more" if len(candidates) > _SHOWN else ""
        raise Conflict(f"{wanted!r} may be any of {len(candidates)} {what}s: {names}{more}. Give more of the id.")
    return candidates[0]
