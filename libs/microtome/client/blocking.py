"""The same client for programs without an event loop.

Promises: the methods of `ApiClient` under the same names, blocking.
Refuses: to be used from within a running event loop; use `ApiClient` there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from microtome.client.api import ApiClient, Progress
from microtome.client.live import LiveMessage
from microtome.client.shapes import Artifact, Job, JobIn, Slide, Workflow


class BlockingApiClient:
    """One user's view of one server; close it, or use it as a context manager."""

    def __init__(self, url: str, user: str, *, timeout_seconds: float = 60.0) -> None:
        self._runner = asyncio.Runner()
        self._api = ApiClient(url, user, timeout_seconds=timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._runner.run(self._api.close())
        self._runner.close()

    def status(self) -> dict[str, Any]:
        """Ask for version, limits, services, engine and model."""
        return self._runner.run(self._api.status())

    def upload_slide(self, path: Path, *, mpp: float | None = None, progress: Progress | None = None) -> Slide:
        """Upload a file."""
        return self._runner.run(self._api.upload_slide(path, mpp=mpp, progress=progress))

    def slides(self) -> list[Slide]:
        """List the user's slides."""
        return self._runner.run(self._api.slides())

    def create_workflow(self, name: str, jobs: Sequence[JobIn]) -> Workflow:
        """Submit a graph of jobs."""
        return self._runner.run(self._api.create_workflow(name, jobs))

    def workflow(self, workflow_id: str) -> Workflow:
        """Get one workflow with its jobs."""
        return self._runner.run(self._api.workflow(workflow_id))

    def job(self, job_id: str) -> Job:
        """Get one job."""
        return self._runner.run(self._api.job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return self._runner.run(self._api.cancel(job_id))

    def retry(self, job_id: str) -> Job:
        """Start a failed or cancelled job again."""
        return self._runner.run(self._api.retry(job_id))

    def artifacts(self, job_id: str) -> list[Artifact]:
        """List a job's files."""
        return self._runner.run(self._api.artifacts(job_id))

    def download(self, job_id: str, name: str, target: Path) -> Path:
        """Stream an artifact into the file `target`."""
        return self._runner.run(self._api.download(job_id, name, target))

    def watch(self, workflow_id: str) -> Iterator[LiveMessage]:
        """Follow a workflow until it is finished."""
        messages = self._api.watch(workflow_id)

        async def following() -> LiveMessage | None:
            return await anext(messages, None)

        while (message := self._runner.run(following())) is not None:
            yield message
