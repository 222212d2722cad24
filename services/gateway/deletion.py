"""Deleting what takes room: the pixels of slides, the files of jobs.

Promises: the fact is recorded first and the files go after it, so that what is listed can be opened; what a killed
process left is removed by whoever sweeps next. Results of a deleted slide stay, and a job whose files are deleted
keeps its history and its numbers.
Refuses: a slide that unfinished jobs need (`SlideInUse`). A job that is being submitted at the very moment fails and
says that the slide is gone.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

from microtome.artifacts.store import ArtifactStore
from microtome.contracts.messages import SlideDeleted
from microtome.domain.commands import DeleteArtifacts
from microtome.domain.state import Job, JobStatus
from microtome.errors import MicrotomeError, NotFound
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append, EventLog
from microtome.readmodels.listing import JobFilter
from microtome.readmodels.queries import Queries
from microtome.reservations.uploads import Uploads
from microtome.workflows import Workflows, new_event
from services.gateway.uploads import UploadStore

_UNFINISHED = (JobStatus.DRAFT, JobStatus.PENDING, JobStatus.RUNNING)
_NAMED = 20
# Everything once, when a gateway starts; after that what other gateways may have begun.
_ALWAYS_S = 10 * 365 * 86400.0
_LATELY_S = 86400.0
_SLIDES = "select slide_id from slides where deleted_at > clock_timestamp() - make_interval(secs => $1)"
_ARTIFACTS = """
select job_id, attempt from jobs where artifacts_deleted_at > clock_timestamp() - make_interval(secs => $1)
"""


class SlideInUse(MicrotomeError):
    """Jobs that are not finished need this slide."""

    code: ClassVar[str] = "slide-in-use"

    def __init__(self, jobs: list[tuple[str, str]], *, more: bool) -> None:
        """`jobs`: ids and keys."""
        named = ", ".join(f"{key!r} ({job_id})" for job_id, key in jobs)
        super().__init__(
            f"Jobs that are not finished need this slide: {named}{' and more' if more else ''}. "
            "Cancel them, or wait for them, and delete it then."
        )
        self.members = {"jobs": [job_id for job_id, _ in jobs]}


class ArtifactsDeleted(MicrotomeError):
    """The files of this job were deleted; its history and its numbers are kept."""

    code: ClassVar[str] = "artifacts-deleted"


def check_files(job: Job) -> None:
    """Refuse a job whose files are gone. Raises `ArtifactsDeleted`."""
    if job.artifacts_deleted_at is not None:
        raise ArtifactsDeleted(
            f"The files of this job were deleted on {job.artifacts_deleted_at:%Y-%m-%d at %H:%M} UTC; "
            "its history and its numbers are kept."
        )


class Deletions:
    """Records that things are deleted, and removes them."""

    def __init__(
        self,
        database: Database,
        queries: Queries,
        log: EventLog,
        workflows: Workflows,
        uploads: UploadStore,
        artifacts: ArtifactStore,
    ) -> None:
        self._database = database
        self._queries = queries
        self._log = log
        self._workflows = workflows
        self._uploads = uploads
        self._artifacts = artifacts
        self._swept_once = False

    async def slide(self, user_id: str, slide_id: str) -> None:
        """Delete a slide. Raises `NotFound`, `SlideInUse`, `Unavailable`."""
        await self._queries.slide(user_id, slide_id)
        jobs = await self._queries.find_jobs(user_id, JobFilter(slide_id=slide_id, statuses=_UNFINISHED), _NAMED)
        if jobs.items:
            named = [(record.job.job_id, record.job.key) for record in jobs.items]
            raise SlideInUse(named, more=jobs.next_cursor is not None)
        stored = await self._log.read_stream(f"slide-{slide_id}")
        if any(isinstance(event.message, SlideDeleted) for event in stored):
            raise NotFound(f"There is no slide {slide_id[:80]} of yours.")
        event = new_event(SlideDeleted(slide_id=slide_id), user_id)
        await self._log.append(Append(f"slide-{slide_id}", stored[-1].version, (event,)))
        await asyncio.to_thread(self._uploads.remove, slide_id)

    async def artifacts(self, user_id: str, job_id: str) -> None:
        """Delete the files of a job; nothing happens if they are. Raises `NotFound`, `Conflict`, `Unavailable`."""
        record = await self._queries.job(user_id, job_id)
        await self._delete_artifacts(record.workflow_id, record.job)

    async def artifacts_of_workflow(self, user_id: str, workflow_id: str) -> int:
        """Delete the files of all jobs that have any; return how many those are. Raises `NotFound`, `Unavailable`."""
        record = await self._queries.workflow(user_id, workflow_id)
        jobs = [
            job for job in record.state.jobs.values() if job.result is not None and job.artifacts_deleted_at is None
        ]
        for job in jobs:
            await self._delete_artifacts(workflow_id, job)
        return len(jobs)

    async def _delete_artifacts(self, workflow_id: str, job: Job) -> None:
        await self._workflows.execute(workflow_id, DeleteArtifacts(job.job_id))
        await asyncio.to_thread(self._artifacts.withdraw, job.job_id, job.attempt)

    async def sweep(self) -> None:
        """Remove files of what the log says is deleted. Raises `Unavailable`."""
        seconds = _LATELY_S if self._swept_once else _ALWAYS_S
        async with self._database.connection() as connection:
            slides = [row["slide_id"] for row in await connection.fetch(_SLIDES, seconds)]
            jobs = [(row["job_id"], row["attempt"]) for row in await connection.fetch(_ARTIFACTS, seconds)]
        await asyncio.to_thread(self._remove, slides, jobs)
        await Uploads(self._database).forget_drawings()
        self._swept_once = True

    def _remove(self, slides: list[str], jobs: list[tuple[str, int]]) -> None:
        for slide_id in slides:
            self._uploads.remove(slide_id)
        for job_id, attempt in jobs:
            self._artifacts.withdraw(job_id, attempt)
