"""Deciding anew on a workflow whose stream moved while a decision about it was on its way.

Promises: what was decided is decided again on the newest state of that one workflow, by the same rules; a start or a
preemption that is not possible any more is left out, and so is a preemption whose slot nobody is to have. Slots and
seats are the scheduler's own, so nobody else took them.
Refuses: the stream of seats; that moves only when another scheduler decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from microtome.contracts.messages import JobPreempted, JobStarted, Message
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.commands import Command, Preempt, Start
from microtome.domain.workflow import Workflow, decide, evolve
from microtome.errors import Conflict, NotFound, StaleAttempt
from microtome.eventlog.log import Append, EventLog, NewEvent


async def rebased(log: EventLog, workflow: Workflow, append: Append) -> Append | None:
    """Return `append` as it is to be on the newest state; None if nothing of it is left.

    `workflow`: its state at the version that `append` expected. Raises `Unavailable`.
    """
    assert append.stream == STREAM_PREFIX + workflow.workflow_id
    version = append.expected_version
    for event in await log.read_stream(append.stream, version):
        workflow = evolve(workflow, event.message, event.at)
        version = event.version
    events: list[NewEvent] = []
    for new in append.events:
        command = _command(new.message)
        if command is None:
            continue
        try:
            decided = decide(workflow, command)
        except (Conflict, StaleAttempt, NotFound):
            continue
        for message in decided:
            workflow = evolve(workflow, message, workflow.submitted_at)
            events.append(replace(new, message=message))
    return Append(append.stream, version, tuple(events)) if events else None


def needed(appends: Iterable[Append], slots: Mapping[str, int]) -> list[Append]:
    """Return `appends` without preemptions for starts that are not among them any more.

    `slots`: of each running job, the slot that its preemption would free.
    """
    appends = tuple(appends)
    messages = (new.message for append in appends for new in append.events)
    taken = {message.slot for message in messages if isinstance(message, JobStarted)}

    def is_needed(message: Message) -> bool:
        return not isinstance(message, JobPreempted) or slots.get(message.job_id) in taken

    kept = (replace(append, events=tuple(new for new in append.events if is_needed(new.message))) for append in appends)
    return [append for append in kept if append.events]


def _command(message: Message) -> Command | None:
    """Return what the scheduler wanted when it decided this; one command means one event."""
    match message:
        case JobStarted(job_id=job_id, slot=slot):
            return Start(job_id, slot)
        case JobPreempted(job_id=job_id, attempt=attempt):
            return Preempt(job_id, attempt)
        case _:
            return None
