"""Calls about workflows.

Promises: a submission carries a key of its own, so that repeating it after a refusal cannot submit twice.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

from microtome.client.live import LiveMessage, watch_workflow
from microtome.client.shapes import JobIn, Workflow
from microtome.client.transport import Transport, given, part


class WorkflowCalls(Transport):
    """What can be asked about workflows."""

    async def create_workflow(
        self,
        name: str,
        jobs: Sequence[JobIn],
        *,
        branches: Sequence[Mapping[str, str]] = (),
        draft: bool = False,
        idempotency_key: str | None = None,
    ) -> Workflow:
        """Submit a graph of jobs; it is accepted or refused as a whole.

        `branches`: `{"name", "policy"}` (halt, skip or continue) of those that shall not halt. The same
        `idempotency_key` gives the same workflow.
        """
        body: dict[str, Any] = {"name": name, "jobs": list(jobs)}
        if branches:
            body["branches"] = list(branches)
        if draft:
            body["draft"] = True
        return cast("Workflow", await self._create("workflows", body, idempotency_key))

    async def add_jobs(
        self, workflow_id: str, jobs: Sequence[JobIn], *, idempotency_key: str | None = None
    ) -> Workflow:
        """Add jobs to a workflow; in their branches they come last."""
        path = f"workflows/{part(workflow_id)}/jobs"
        return cast("Workflow", await self._create(path, {"jobs": list(jobs)}, idempotency_key))

    async def workflows(self, *, limit: int | None = None, **filters: Any) -> list[Workflow]:  # noqa: ANN401 - as the API has them
        """List the user's workflows, newest first."""
        return cast("list[Workflow]", await self.pages("workflows", filters, limit))

    async def workflow(self, workflow_id: str, *, at: str | None = None) -> Workflow:
        """Get one workflow with its jobs, as it is or as it was `at` a log position or a time (RFC 3339)."""
        return cast("Workflow", await self.call("GET", f"workflows/{part(workflow_id)}", params=given({"at": at})))

    async def start_workflow(self, workflow_id: str) -> Workflow:
        """Start every draft of a workflow."""
        return cast("Workflow", await self.call("POST", f"workflows/{part(workflow_id)}/start"))

    async def cancel_workflow(self, workflow_id: str) -> Workflow:
        """Cancel everything in a workflow that has not ended."""
        return cast("Workflow", await self.call("POST", f"workflows/{part(workflow_id)}/cancel"))

    async def retry_failed(self, workflow_id: str) -> Workflow:
        """Start every failed job of a workflow again."""
        return cast("Workflow", await self.call("POST", f"workflows/{part(workflow_id)}/retry-failed"))

    def watch(self, workflow_id: str, *, patience_seconds: float = 60.0) -> AsyncIterator[LiveMessage]:
        """Follow a workflow until it is finished; see `microtome.client.live.watch_workflow`."""
        return watch_workflow(self, workflow_id, patience_seconds=patience_seconds)

    async def _create(self, path: str, body: Mapping[str, Any], key: str | None) -> Any:  # noqa: ANN401 - JSON
        return await self.call("POST", path, json=body, headers={"Idempotency-Key": key or uuid.uuid4().hex})
