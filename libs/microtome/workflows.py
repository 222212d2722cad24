"""Deciding on a workflow against the log.

Promises: a command is decided on the newest state of its workflow, and what it decides is appended
only if that state is still the newest; a lost race is decided anew. Refuses: to decide anything
itself (`microtome.domain.workflow` does).
"""

from __future__ import annotations

import uuid
from collections import OrderedDict
from collections.abc import Mapping

from microtome import clock
from microtome.contracts.messages import Message
from microtome.domain.workflow import Command, Limits, Workflow, decide, evolve
from microtome.errors import ConcurrencyConflict, NotFound
from microtome.eventlog.log import Append, EventLog, NewEvent, StoredEvent
from microtome.telemetry.tracing import current_traceparent

# A race is lost only when another writer won it, so some writer always makes progress.
_TRIES = 20
# Workflows whose state is kept at hand.
_REMEMBERED = 256


def stream_of(workflow_id: str) -> str:
    """Return the name of a workflow's stream."""
    return f"workflow-{workflow_id}"


class Workflows:
    """Executes commands on workflows."""

    def __init__(self, log: EventLog, limits: Limits, meta: Mapping[str, str] | None = None) -> None:
        """`meta`: what every event that is appended here says of where it comes from."""
        self._log = log
        self._limits = limits
        self._meta = dict(meta or {})
        # What was folded once stays true, since the log only grows; a command then costs its workflow's news, not its
        # history.
        self._known: OrderedDict[str, tuple[Workflow, int]] = OrderedDict()

    async def load(self, workflow_id: str) -> tuple[Workflow, int]:
        """Return a workflow as it is now and the version of its stream; `NotFound` if there is none."""
        workflow, version = self._known.get(workflow_id, (None, 0))
        for stored in await self._log.read_stream(stream_of(workflow_id), version):
            workflow = evolve(workflow, stored.message, stored.at)
            version = stored.version
        if workflow is None:
            raise NotFound
        self._known[workflow_id] = workflow, version
        self._known.move_to_end(workflow_id)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return workflow, version

    async def execute(self, workflow_id: str, command: Command) -> tuple[StoredEvent, ...]:
        """Decide `command` and append what follows; empty if it changes nothing.

        Raises what `decide` raises (`StaleAttempt`, `Conflict`, …), `NotFound`, and
        `ConcurrencyConflict` after losing many races in a row.
        """
        for _ in range(_TRIES):
            workflow, version = await self.load(workflow_id)
            events = decide(workflow, command, self._limits)
            if not events:
                return ()
            try:
                return await self._log.append(
                    Append(
                        stream=stream_of(workflow_id),
                        expected_version=version,
                        events=tuple(new_event(event, workflow.user_id, meta=self._meta) for event in events),
                    )
                )
            except ConcurrencyConflict:
                continue
        raise ConcurrencyConflict


def new_event(
    message: Message,
    user_id: str,
    *,
    traceparent: str | None = None,
    event_id: uuid.UUID | None = None,
    meta: Mapping[str, str] | None = None,
) -> NewEvent:
    """Return an event about to be appended; it remembers the trace in which it came to be.

    `event_id`: given where the same fact must have the same id when it is appended again. `meta`: what else it tells
    about where it comes from.
    """
    traceparent = traceparent or current_traceparent()
    told = dict(meta or {}) | ({"traceparent": traceparent} if traceparent else {})
    return NewEvent(event_id=event_id or clock.new_id(), message=message, tenant=user_id, meta=told)
