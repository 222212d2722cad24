"""Views of workflows and jobs, put together from the read model, the workers' reports and the line.

Promises: one answer is one state of the workflow. Refuses: rows of other users, as `NotFound`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from microtome.eventlog.database import Database
from microtome.leases.lease import Leases
from microtome.readmodels.queries import Queries, WorkflowRecord
from services.gateway import present, views
from services.gateway.places import Places

_VERSIONS = "select workflow_id, version from workflows where workflow_id = any($1::text[])"


class Showing:
    """Answers with views."""

    def __init__(self, database: Database, queries: Queries, leases: Leases, places: Places) -> None:
        self._database = database
        self._queries = queries
        self._leases = leases
        self._places = places

    async def workflow(self, user_id: str, workflow_id: str) -> views.Workflow:
        """A workflow of the user. Raises `NotFound`."""
        (view,) = await self._views([await self._queries.workflow(user_id, workflow_id)])
        return view

    async def workflows(self, user_id: str, limit: int) -> list[views.Workflow]:
        """The user's workflows, newest first."""
        return await self._views(await self._queries.workflows(user_id, limit))

    async def job(self, user_id: str, job_id: str) -> views.Job:
        """A job of the user. Raises `NotFound`."""
        (view,) = await self._views([await self._queries.workflow_of(user_id, job_id)])
        return next(job for job in view.jobs if job.id == job_id)

    async def versions(self, workflow_ids: Iterable[str]) -> Mapping[str, int]:
        """The newest version of each of these workflows."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_VERSIONS, list(workflow_ids))
        return {row["workflow_id"]: row["version"] for row in rows}

    async def _views(self, records: Iterable[WorkflowRecord]) -> list[views.Workflow]:
        records = list(records)
        running = [job_id for record in records for job_id, job in record.state.jobs.items() if job.slot is not None]
        standings = await self._leases.progress(running) if running else {}
        return [
            present.workflow(record, self._places.waiting_in(record.state.workflow_id), standings) for record in records
        ]
