"""Workflows and jobs as the API shows them, put together from the read model, the workers' reports and the line.

Promises: one answer is one state of the workflow, never older than the question; what did not change is not made
again. Refuses: rows of other users, as `NotFound`; to hold more than a bounded number of jobs in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from microtome.domain.scheduling import Waiting
from microtome.readmodels.queries import JobRecord, Queries, WorkflowRecord
from services.gateway import present
from services.gateway.etag import Rendered
from services.gateway.headlines import Headline, Headlines, Parent, not_found
from services.gateway.places import Places

MAX_JOBS_KEPT = 10_000
_MAX_PARENTS_KEPT = 100_000


@dataclass(frozen=True, slots=True)
class Shown:
    """A document and the version of the workflow that it shows."""

    version: int
    rendered: Rendered


@dataclass(slots=True)
class _Known:
    """A workflow in memory, and the documents that were made of it: its own under None, its jobs' by their ids."""

    record: WorkflowRecord
    headline: Headline
    waiting: Mapping[str, Waiting]
    documents: dict[str | None, Shown] = field(default_factory=dict)

    def document(self, job_id: str | None) -> Shown:
        shown = self.documents.get(job_id)
        if shown is None:
            shown = self.documents[job_id] = Shown(self.record.version, Rendered.of(self._made(job_id)))
        return shown

    def _made(self, job_id: str | None) -> dict[str, Any]:
        standings = self.headline.standings()
        if job_id is None:
            return present.workflow(self.record, self.waiting, standings)
        job = self.record.state.jobs[job_id]
        created_at = present.created_at(self.record, job)
        workflow_id = self.record.state.workflow_id
        return present.job(workflow_id, created_at, job, self.waiting.get(job_id), standings.get(job_id))


class Showing:
    """Answers with documents."""

    def __init__(self, headlines: Headlines, queries: Queries, places: Places) -> None:
        self._headlines = headlines
        self._queries = queries
        self._places = places
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._jobs_kept = 0
        self._parents: OrderedDict[str, Parent] = OrderedDict()

    async def workflow(self, user_id: str, workflow_id: str) -> Shown:
        """A workflow of the user. Raises `NotFound`."""
        return (await self._current(user_id, workflow_id, f"workflow {workflow_id[:80]}")).document(None)

    async def job(self, user_id: str, job_id: str) -> Shown:
        """A job of the user. Raises `NotFound`."""
        what = f"job {job_id[:80]}"
        parent = await self._parent(job_id)
        if parent is None or parent.user_id != user_id:
            raise not_found(what)
        return (await self._current(user_id, parent.workflow_id, what)).document(job_id)

    async def check_owner(self, user_id: str, workflow_id: str) -> None:
        """Raises `NotFound` unless the workflow is the user's."""
        await self._headlines.of(user_id, workflow_id)

    async def workflow_id_of(self, user_id: str, job_id: str) -> str:
        """The workflow of a job of the user. Raises `NotFound`."""
        parent = await self._parent(job_id)
        if parent is None or parent.user_id != user_id:
            raise not_found(f"job {job_id[:80]}")
        return parent.workflow_id

    async def versions(self, workflow_ids: Iterable[str]) -> Mapping[str, int]:
        """The newest version of each of these workflows."""
        headlines = await self._headlines.of_all(list(workflow_ids))
        return {workflow_id: headline.version for workflow_id, headline in headlines.items()}

    def fresh(self, record: WorkflowRecord) -> Shown:
        """A workflow that this process has just recorded, so that nothing of it can be running yet."""
        state = record.state
        headline = Headline(state.user_id, record.version)
        return self._keep(_Known(record, headline, self._places.waiting_in(state.workflow_id))).document(None)

    async def documents(self, records: Sequence[WorkflowRecord]) -> list[dict[str, Any]]:
        """Workflows that were just read, as documents in the same order."""
        running = [record.state.workflow_id for record in records if _runs(record)]
        headlines = await self._headlines.of_all(running) if running else {}
        return [
            present.workflow(
                record,
                self._places.waiting_in(record.state.workflow_id),
                headlines[record.state.workflow_id].standings() if record.state.workflow_id in headlines else {},
            )
            for record in records
        ]

    async def job_documents(self, records: Sequence[JobRecord]) -> list[dict[str, Any]]:
        """Jobs that were just read, as documents in the same order."""
        running = {record.workflow_id for record in records if record.job.slot is not None}
        headlines = await self._headlines.of_all(list(running)) if running else {}
        standings = {job_id: each for headline in headlines.values() for job_id, each in headline.standings().items()}
        return [
            present.job(
                record.workflow_id,
                record.created_at,
                record.job,
                self._places.waiting_in(record.workflow_id).get(record.job.job_id),
                standings.get(record.job.job_id),
            )
            for record in records
        ]

    async def _current(self, user_id: str, workflow_id: str, what: str) -> _Known:
        headline = await self._headlines.of(user_id, workflow_id, what)
        waiting = self._places.waiting_in(workflow_id)
        known = self._known.get(workflow_id)
        if known is None or known.record.version < headline.version:
            return self._keep(_Known(await self._queries.workflow(user_id, workflow_id), headline, waiting))
        self._known.move_to_end(workflow_id)
        if known.waiting is not waiting or known.headline.rows != headline.rows:
            known.headline, known.waiting, known.documents = headline, waiting, {}
        return known

    def _keep(self, known: _Known) -> _Known:
        workflow_id = known.record.state.workflow_id
        previous = self._known.pop(workflow_id, None)
        if previous is not None and previous.record.version > known.record.version:
            # Somebody who asked later was answered earlier: what is kept must not go back.
            self._known[workflow_id] = previous
            return known
        self._jobs_kept += len(known.record.state.jobs) - (0 if previous is None else len(previous.record.state.jobs))
        self._known[workflow_id] = known
        while self._jobs_kept > MAX_JOBS_KEPT and len(self._known) > 1:
            _, gone = self._known.popitem(last=False)
            self._jobs_kept -= len(gone.record.state.jobs)
        return known

    async def _parent(self, job_id: str) -> Parent | None:
        parent = self._parents.get(job_id)
        if parent is None:
            parent = await self._headlines.parent_of(job_id)
            if parent is not None:
                self._parents[job_id] = parent
                if len(self._parents) > _MAX_PARENTS_KEPT:
                    self._parents.popitem(last=False)
        return parent


def _runs(record: WorkflowRecord) -> bool:
    return any(job.slot is not None for job in record.state.jobs.values())
