"""From a submitted JSON document to events.

Promises: what is accepted names slides of its user that its jobs can work on, and a graph that can be walked. The
same `Idempotency-Key` gives the same workflow, and adds the same jobs only once. Refuses: to start anything; the
scheduler does.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence

from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobsAdded, JobSpec, SlideRegistered
from microtome.crashpoint import CrashPoint, crash_point
from microtome.domain.commands import AddJobs, Submit
from microtome.domain.limits import Limits
from microtome.domain.workflow import Workflow, decide, evolve
from microtome.errors import ConcurrencyConflict, Conflict, InvalidWorkflow
from microtome.eventlog.log import Append, EventLog, StoredEvent
from microtome.readmodels.queries import Queries
from microtome.readmodels.rows import WorkflowRecord
from microtome.workflows import Workflows, new_event, stream_of
from services.gateway.documents import JobIn, JobsIn, WorkflowIn
from services.gateway.specs import Defaults, branches, job_ids, specs

_NAMESPACE = uuid.UUID("0d0c2f0b-7b0e-4f5a-9a53-1f1c8a6f5b52")
# Half of what the bus takes in one message.
MAX_EVENT_BYTES = 512 * 1024
# A race is lost only when another writer won it.
_TRIES = 20


class Submissions:
    """Accepts workflows and further jobs for them."""

    def __init__(
        self, log: EventLog, queries: Queries, workflows: Workflows, limits: Limits, defaults: Defaults
    ) -> None:
        self._log = log
        self._queries = queries
        self._workflows = workflows
        self._limits = limits
        self.defaults = defaults

    async def submit(self, user_id: str, wanted: WorkflowIn, idempotency_key: str | None) -> WorkflowRecord:
        """Record the workflow and return it as it was recorded; if it was repeated, more may have happened since.

        Raises `InvalidWorkflow`, `InvalidRequest`, `UnknownModel`, `UnknownMpp`, `UnsuitableSlide`; `Conflict` when the
        idempotency key was used for a different workflow.
        """
        workflow_id = str(workflow_id_for(user_id, idempotency_key))
        jobs = await self._specs(user_id, wanted.jobs, job_ids(workflow_id, wanted.jobs), draft=wanted.draft)
        command = Submit(workflow_id, user_id, wanted.name, jobs, branches(wanted.branches))
        first, *rest = decide(None, command)
        _check_size(to_bytes(first))
        ids = _event_ids(uuid.uuid5(_NAMESPACE, workflow_id), 1 + len(rest))
        events = tuple(
            new_event(event, user_id, event_id=each) for event, each in zip((first, *rest), ids, strict=True)
        )
        stored = await self._log.append(Append(stream_of(workflow_id), 0, events))
        crash_point(CrashPoint.GATEWAY_AFTER_COMMIT_BEFORE_ANSWER)
        if stored[0].message != first:
            raise Conflict("This Idempotency-Key was used for a different workflow.")
        return _record(stored)

    async def add(self, user_id: str, workflow_id: str, wanted: JobsIn, idempotency_key: str | None) -> tuple[str, ...]:
        """Add jobs to a workflow, whose user is known to be this one, and return their ids.

        Raises the same, and `Conflict` when a key is taken.
        """
        event_id = None if idempotency_key is None else _addition_id(user_id, workflow_id, idempotency_key)
        slides = await self._slides(user_id, wanted.jobs)
        for _ in range(_TRIES):
            workflow, version = await self._workflows.load(workflow_id)
            # Of all jobs, because new ones may depend on those that are there.
            ids = {job.key: job_id for job_id, job in workflow.jobs.items()} | job_ids(workflow_id, wanted.jobs)
            jobs = specs(wanted.jobs, ids, slides, self.defaults, draft=wanted.draft)
            command = AddJobs(jobs, branches(wanted.branches))
            if event_id is not None and await self._added_before(workflow_id, event_id, command):
                break
            if await self._appended(workflow, version, command, event_id):
                break
        else:
            raise ConcurrencyConflict
        return tuple(job.job_id for job in jobs)

    async def added_before(self, user_id: str, workflow_id: str, idempotency_key: str | None) -> bool:
        """Whether something was added to the workflow under this key."""
        if idempotency_key is None:
            return False
        return await self._event(workflow_id, _addition_id(user_id, workflow_id, idempotency_key)) is not None

    async def _appended(self, workflow: Workflow, version: int, command: AddJobs, event_id: uuid.UUID | None) -> bool:
        """Whether the jobs were added; False when somebody else changed the workflow first."""
        events = decide(workflow, command, self._limits)
        _check_size(*(to_bytes(event) for event in events))
        ids = _event_ids(event_id or uuid.uuid4(), len(events))
        new = tuple(new_event(event, workflow.user_id, event_id=each) for event, each in zip(events, ids, strict=True))
        try:
            await self._log.append(Append(stream_of(workflow.workflow_id), version, new))
        except ConcurrencyConflict:
            return False
        return True

    async def _added_before(self, workflow_id: str, event_id: uuid.UUID, command: AddJobs) -> bool:
        stored = await self._event(workflow_id, event_id)
        if stored is None:
            return False
        added = stored.message
        if isinstance(added, JobsAdded) and (added.jobs, added.branches) == (command.jobs, command.branches):
            return True
        raise Conflict("This Idempotency-Key was used for different jobs.")

    async def _event(self, workflow_id: str, event_id: uuid.UUID) -> StoredEvent | None:
        events = await self._log.read_stream(stream_of(workflow_id))
        return next((event for event in events if event.event_id == event_id), None)

    async def _specs(
        self, user_id: str, jobs: Sequence[JobIn], ids: Mapping[str, str], *, draft: bool
    ) -> tuple[JobSpec, ...]:
        return specs(jobs, ids, await self._slides(user_id, jobs), self.defaults, draft=draft)

    async def _slides(self, user_id: str, jobs: Iterable[JobIn]) -> Mapping[str, SlideRegistered]:
        """The user's slides that the jobs name, by id; those that are not there are left out."""
        found = await self._queries.slides_by_id(user_id, {job.slide_id for job in jobs})
        return {record.facts.slide_id: record.facts for record in found}


def workflow_id_for(user_id: str, idempotency_key: str | None) -> uuid.UUID:
    """The id that a submission gives its workflow: the same for the same key of the same user."""
    return uuid.uuid4() if idempotency_key is None else uuid.uuid5(_NAMESPACE, f"{user_id}/{idempotency_key}")


def _addition_id(user_id: str, workflow_id: str, idempotency_key: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{user_id}/{workflow_id}/{idempotency_key}")


def _event_ids(first: uuid.UUID, count: int) -> tuple[uuid.UUID, ...]:
    """Ids for what is appended together: repeated, it has the same ones."""
    return (first, *(uuid.uuid5(first, str(number)) for number in range(1, count)))


def _check_size(*events: bytes) -> None:
    size = max(map(len, events))
    if size > MAX_EVENT_BYTES:
        raise InvalidWorkflow(
            f"The workflow takes {size} bytes as one event, more than the {MAX_EVENT_BYTES} that the bus carries. "
            "Submit it as several workflows, or with fewer dependencies and shorter names."
        )


def _record(stored: Sequence[StoredEvent]) -> WorkflowRecord:
    workflow: Workflow | None = None
    for event in stored:
        workflow = evolve(workflow, event.message, event.at)
    if workflow is None:
        raise Conflict("Nothing was recorded.")
    return WorkflowRecord(state=workflow, version=stored[-1].version, cursor=stored[-1].cursor)
