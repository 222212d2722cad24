"""What changed between two moments.

Promises: a job is listed if its status or attempt differs between the two, whatever happened on the way; the earlier
moment comes first, in whichever order they are given. Only workflows that changed are in memory.
Refuses: to list what happened in between; `tail --from … --to …` does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from microtome.contracts.messages import SlideDeleted, SlideRegistered
from microtome.domain import workflow as workflows
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.limits import Limits
from microtome.domain.state import Job, Workflow
from microtome.eventlog.log import StoredEvent
from microtome.replay.fold import Past
from microtome.replay.moment import Moment, Window
from microtome.replay.source import History


@dataclass(frozen=True, slots=True)
class Changed:
    """A workflow that got events between the moments; `before` is None when it was new."""

    before: Workflow | None
    after: Workflow

    def jobs(self) -> Iterator[tuple[Job | None, Job]]:
        """Yield (before, after) of the jobs whose status or attempt changed, and of those that are new."""
        for job_id, after in self.after.jobs.items():
            before = None if self.before is None else self.before.jobs.get(job_id)
            if before is None or (before.status, before.attempt) != (after.status, after.attempt):
                yield before, after


@dataclass(slots=True)
class Differences:
    """The state at both moments, and what happened to workflows and slides between them."""

    before: Past
    after: Past
    events: Counter[str] = field(default_factory=Counter)
    workflows: dict[str, Changed] = field(default_factory=dict)
    slides_added: int = 0
    slides_deleted: int = 0

    @property
    def seconds(self) -> float:
        """Time from the last event before the first moment to the last before the second."""
        if self.after.at is None:
            return 0.0
        return (self.after.at - (self.before.at or self.after.at)).total_seconds()


async def between(history: History, one: Moment, other: Moment, limits: Limits) -> Differences:
    """Return what changed between two moments of the log, whichever is earlier."""
    windows = [Window(one), Window(other)]
    past = Past(limits)
    found: Differences | None = None
    async for event in history.events():
        if one.over(event) and other.over(event):
            break
        admitted = [window.admits(event) for window in windows]
        if found is None:
            if all(admitted):
                past.take(event)
            if all(admitted) or not any(admitted):
                continue
            # The first event that only one of them has seen tells which is the earlier one.
            if admitted[0]:
                windows.reverse()
                admitted.reverse()
            found = Differences(past, replace(past))
        await _take(history, found, event, in_before=admitted[0], in_after=admitted[1])
    return found or Differences(past, past)


async def _take(history: History, found: Differences, event: StoredEvent, *, in_before: bool, in_after: bool) -> None:
    """Fold an event into the states that have seen it; positions and times do not cut the log's order cleanly."""
    if in_before:
        found.before.take(event)
    if not in_after:
        return
    if not in_before:
        await _note(history, found, event)
    found.after.take(event)


async def _note(history: History, found: Differences, event: StoredEvent) -> None:
    message = event.message
    found.events[type(message).__name__] += 1
    found.slides_added += isinstance(message, SlideRegistered)
    found.slides_deleted += isinstance(message, SlideDeleted)
    if not event.stream.startswith(STREAM_PREFIX):
        return
    workflow_id = event.stream.removeprefix(STREAM_PREFIX)
    known = found.workflows.get(workflow_id)
    before = known.before if known is not None else await _before(history, found, event)
    state = known.after if known is not None else before
    found.workflows[workflow_id] = Changed(before, workflows.evolve(state, message, event.at))


async def _before(history: History, found: Differences, event: StoredEvent) -> Workflow | None:
    """The workflow just before its first event between the moments."""
    if event.version == 1:
        return None
    known = found.before.cluster.workflows.get(event.stream.removeprefix(STREAM_PREFIX))
    if known is not None and known.submitted:
        return known
    # The cluster forgets what succeeded, and then knows only what was added to it.
    state: Workflow | None = None
    async for earlier in history.events(streams=[event.stream]):
        if earlier.version >= event.version:
            break
        state = workflows.evolve(state, earlier.message, earlier.at)
    return state
