"""From a submitted JSON document to events.

Promises: what is accepted names slides of its user that its jobs can work on, and a graph that can be walked. The
same `Idempotency-Key` gives the same workflow, and adds the same jobs only once, whatever became of the slides and of
the server's defaults since: a repeated request is known by its own digest. Refuses: to start anything; the scheduler
does.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import Event, JobsAdded, SlideRegistered
from microtome.crashpoint import CrashPoint, crash_point
from microtome.domain.commands import AddJobs, Submit
from microtome.domain.limits import Limits
from microtome.domain.workflow import Workflow, decide, evolve
from microtome.errors import ConcurrencyConflict, Conflict, InvalidWorkflow, SlideGone
from microtome.eventlog.log import Append, EventLog, NewEvent, StoredEvent
from microtome.readmodels.queries import Queries
from microtome.readmodels.rows import WorkflowRecord
from microtome.reservations.uploads import Drawing
from microtome.tissue.outline import TissueOutline
from microtome.tissue.store import save_outline
from microtome.workflows import Workflows, new_event, stream_of
from services.gateway.documents import JobIn, JobsIn, WorkflowIn
from services.gateway.quota import Quota, full_disk
from services.gateway.specs import Defaults, branches, job_ids, outlines, specs

_NAMESPACE = uuid.UUID("0d0c2f0b-7b0e-4f5a-9a53-1f1c8a6f5b52")
# Half of what the bus takes in one message.
MAX_EVENT_BYTES = 512 * 1024
# A race is lost only when another writer won it.
_TRIES = 20
# Of an event's `meta`: the digest of the request that asked for it under an Idempotency-Key.
REQUEST = "request"


class Submissions:
    """Accepts workflows and further jobs for them."""

    def __init__(
        self,
        log: EventLog,
        queries: Queries,
        workflows: Workflows,
        limits: Limits,
        defaults: Defaults,
        data_dir: Path,
        quota: Quota,
    ) -> None:
        self._data_dir = data_dir
        self._quota = quota
        self._log = log
        self._queries = queries
        self._workflows = workflows
        self._limits = limits
        self.defaults = defaults

    async def submitted_before(self, user_id: str, wanted: WorkflowIn, idempotency_key: str | None) -> str | None:
        """The workflow that this very request made before; None if it is new.

        Raises `Conflict` when the idempotency key was used for a different workflow.
        """
        if idempotency_key is None:
            return None
        workflow_id = str(workflow_id_for(user_id, idempotency_key))
        event = await self._event(workflow_id, _submission_id(workflow_id))
        # What was recorded without a digest is compared when it is appended again.
        return None if event is None or not _is_repeated(event, wanted) else workflow_id

    async def submit(self, user_id: str, wanted: WorkflowIn, idempotency_key: str | None) -> WorkflowRecord:
        """Record the workflow and return it as it was recorded; if it was repeated, more may have happened since.

        Raises `InvalidWorkflow`, `InvalidRequest`, `UnknownModel`, `UnknownMpp`, `UnsuitableSlide`; `Conflict` when the
        idempotency key was used for a different workflow.
        """
        workflow_id = str(workflow_id_for(user_id, idempotency_key))
        slides = await self._slides(user_id, wanted.jobs)
        drawn = await self._drawn(wanted.jobs, slides)
        ids = job_ids(workflow_id, wanted.jobs)
        jobs = specs(wanted.jobs, ids, slides, self.defaults, drawn, draft=wanted.draft)
        command = Submit(workflow_id, user_id, wanted.name, jobs, branches(wanted.branches))
        events = decide(None, command)
        _check_size(*(to_bytes(event) for event in events))
        await self._keep(user_id, wanted.jobs, slides, drawn)
        new = _new_events(events, user_id, _submission_id(workflow_id), wanted, idempotency_key)
        stored = await self._log.append(Append(stream_of(workflow_id), 0, new))
        crash_point(CrashPoint.GATEWAY_AFTER_COMMIT_BEFORE_ANSWER)
        if not _is_repeated(stored[0], wanted) and stored[0].message != events[0]:
            raise Conflict("This Idempotency-Key was used for a different workflow.")
        return _record(stored)

    async def added_before(
        self, user_id: str, workflow_id: str, wanted: JobsIn, idempotency_key: str | None
    ) -> tuple[str, ...] | None:
        """The ids of the jobs that this very request added before; None if it is new.

        Raises `Conflict` when the idempotency key was used for different jobs.
        """
        if idempotency_key is None:
            return None
        event = await self._event(workflow_id, _addition_id(user_id, workflow_id, idempotency_key))
        if event is None or not isinstance(event.message, JobsAdded) or not _is_repeated(event, wanted):
            return None
        return tuple(job.job_id for job in event.message.jobs)

    async def add(self, user_id: str, workflow_id: str, wanted: JobsIn, idempotency_key: str | None) -> tuple[str, ...]:
        """Add jobs to a workflow, whose user is known to be this one, and return their ids.

        Raises the same, and `Conflict` when a key is taken.
        """
        slides = await self._slides(user_id, wanted.jobs)
        drawn = await self._drawn(wanted.jobs, slides)
        for _ in range(_TRIES):
            before = await self.added_before(user_id, workflow_id, wanted, idempotency_key)
            if before is not None:
                return before
            workflow, version = await self._workflows.load(workflow_id)
            # Of all jobs, because new ones may depend on those that are there.
            ids = {job.key: job_id for job_id, job in workflow.jobs.items()} | job_ids(workflow_id, wanted.jobs)
            jobs = specs(wanted.jobs, ids, slides, self.defaults, drawn, draft=wanted.draft)
            events = decide(workflow, AddJobs(jobs, branches(wanted.branches)), self._limits)
            await self._keep(user_id, wanted.jobs, slides, drawn)
            if not events or await self._appended(workflow, version, events, wanted, idempotency_key):
                return tuple(job.job_id for job in jobs)
        raise ConcurrencyConflict

    async def _appended(
        self,
        workflow: Workflow,
        version: int,
        events: Sequence[Event],
        wanted: JobsIn,
        idempotency_key: str | None,
    ) -> bool:
        """Whether the jobs were added; False when somebody else changed the workflow first."""
        _check_size(*(to_bytes(event) for event in events))
        workflow_id, user_id = workflow.workflow_id, workflow.user_id
        first = _addition_id(user_id, workflow_id, idempotency_key) if idempotency_key is not None else uuid.uuid4()
        new = _new_events(events, user_id, first, wanted, idempotency_key)
        try:
            stored = await self._log.append(Append(stream_of(workflow_id), version, new))
        except ConcurrencyConflict:
            return False
        if not _is_repeated(stored[0], wanted) and stored[0].message != events[0]:
            raise Conflict("This Idempotency-Key was used for different jobs.")
        return True

    async def _event(self, workflow_id: str, event_id: uuid.UUID) -> StoredEvent | None:
        events = await self._log.read_stream(stream_of(workflow_id))
        return next((event for event in events if event.event_id == event_id), None)

    async def _drawn(self, jobs: Sequence[JobIn], slides: Mapping[str, SlideRegistered]) -> Mapping[str, TissueOutline]:
        """What the jobs say is tissue, by their keys. Raises `InvalidTissue`."""
        if all(job.parameters.tissue is None for job in jobs):
            return {}
        return await asyncio.to_thread(outlines, jobs, slides)

    async def _keep(
        self,
        user_id: str,
        jobs: Sequence[JobIn],
        slides: Mapping[str, SlideRegistered],
        drawn: Mapping[str, TissueOutline],
    ) -> None:
        """Keep what was drawn beside its slides before a job refers to it; events hold its digest only.

        Raises `SlideGone`, `StorageFull`, `QuotaExceeded`.
        """
        if not drawn:
            return
        places = {job.key: slides[job.slide_id].slide_id for job in jobs if job.key in drawn}
        drawings = [Drawing(places[key], outline.sha256, len(outline.document)) for key, outline in drawn.items()]
        await self._quota.draw(user_id, drawings)
        for job in jobs:
            if job.key not in drawn:
                continue
            slide = self._data_dir / slides[job.slide_id].path
            try:
                await asyncio.to_thread(save_outline, drawn[job.key], slide)
            except FileNotFoundError:
                raise SlideGone from None
            except OSError as error:
                raise full_disk(error) from error

    async def _slides(self, user_id: str, jobs: Iterable[JobIn]) -> Mapping[str, SlideRegistered]:
        """The user's slides that the jobs name, by id; those that are not there are left out."""
        found = await self._queries.slides_by_id(user_id, {job.slide_id for job in jobs})
        return {record.facts.slide_id: record.facts for record in found}


def workflow_id_for(user_id: str, idempotency_key: str | None) -> uuid.UUID:
    """The id that a submission gives its workflow: the same for the same key of the same user."""
    return uuid.uuid4() if idempotency_key is None else uuid.uuid5(_NAMESPACE, f"{user_id}/{idempotency_key}")


def _submission_id(workflow_id: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, workflow_id)


def _addition_id(user_id: str, workflow_id: str, idempotency_key: str) -> uuid.UUID:
    return uuid.uuid5(_NAMESPACE, f"{user_id}/{workflow_id}/{idempotency_key}")


def _new_events(
    events: Sequence[Event], user_id: str, first: uuid.UUID, wanted: WorkflowIn | JobsIn, idempotency_key: str | None
) -> tuple[NewEvent, ...]:
    """What is appended together: repeated, it has the same ids, and the first event knows the request."""
    ids = (first, *(uuid.uuid5(first, str(number)) for number in range(1, len(events))))
    metas = ({} if idempotency_key is None else {REQUEST: _digest(wanted)}, *({} for _ in events[1:]))
    return tuple(
        new_event(event, user_id, event_id=event_id, meta=meta)
        for event, event_id, meta in zip(events, ids, metas, strict=True)
    )


def _digest(wanted: WorkflowIn | JobsIn) -> str:
    """Of what the request says, however its JSON is written. What a later release may add is not said here."""
    return sha256(wanted.model_dump_json(exclude_defaults=True).encode()).hexdigest()


def _is_repeated(event: StoredEvent, wanted: WorkflowIn | JobsIn) -> bool:
    """Whether the event was asked for by this very request; False if it does not say. Raises `Conflict` for another."""
    digest = event.meta.get(REQUEST)
    if digest is not None and digest != _digest(wanted):
        raise Conflict("This Idempotency-Key was used for a different request.")
    return digest is not None


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
