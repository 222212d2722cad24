"""Calls about jobs, their results and their files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from microtome.client.shapes import Artifact, Job
from microtome.client.transport import Transport, given, part

# Files of a job that are fetched at once.
DOWNLOADS = 4


class JobCalls(Transport):
    """What can be asked about jobs."""

    async def jobs(self, *, limit: int | None = None, **filters: Any) -> list[Job]:  # noqa: ANN401 - as the API has them
        """List the user's jobs, newest first."""
        return cast("list[Job]", await self.pages("jobs", filters, limit))

    async def job(self, job_id: str) -> Job:
        """Get one job."""
        return cast("Job", await self.call("GET", f"jobs/{part(job_id)}"))

    async def start(self, job_id: str) -> Job:
        """Start a draft."""
        return cast("Job", await self.call("POST", f"jobs/{part(job_id)}/start"))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return cast("Job", await self.call("POST", f"jobs/{part(job_id)}/cancel"))

    async def retry(self, job_id: str) -> Job:
        """Start a failed or cancelled job again."""
        return cast("Job", await self.call("POST", f"jobs/{part(job_id)}/retry"))

    async def result(self, job_id: str) -> dict[str, Any]:
        """Get a finished job's manifest: what it found, its summary, and the files it made."""
        return cast("dict[str, Any]", await self.call("GET", f"jobs/{part(job_id)}/result"))

    async def timeline(self, job_id: str) -> dict[str, Any]:
        """Get what a job waited for, where it ran and how long each stage took."""
        return cast("dict[str, Any]", await self.call("GET", f"jobs/{part(job_id)}/timeline"))

    async def logs(self, job_id: str, **filters: Any) -> dict[str, Any]:  # noqa: ANN401 - as the API has them
        """Get what the workers wrote about a job."""
        return cast("dict[str, Any]", await self.call("GET", f"jobs/{part(job_id)}/logs", params=given(filters)))

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """List a job's files."""
        answer = await self.call("GET", f"jobs/{part(job_id)}/artifacts")
        return cast("list[Artifact]", answer["items"] if isinstance(answer, dict) else answer)

    async def cells(self, job_id: str, bbox: tuple[float, float, float, float]) -> dict[str, Any]:
        """Get outlines within a rectangle (x0, y0, x1, y1) of level-0 pixels."""
        parameters = {"bbox": ",".join(f"{edge:g}" for edge in bbox)}
        return cast("dict[str, Any]", await self.call("GET", f"jobs/{part(job_id)}/cells", params=parameters))

    async def download(self, job_id: str, name: str, target: Path) -> Path:
        """Stream an artifact into the file `target`, which appears when it is complete."""
        return await self.stream_to(f"jobs/{part(job_id)}/artifacts/{part(name)}", target)

    async def download_files(self, job_id: str, names: Iterable[str], folder: Path) -> list[Path]:
        """Stream some of a job's files into `folder`, a few at a time; return where they lie, in the order of `names`.

        When one cannot be fetched, the others are given up.
        """
        wanted = [(f"jobs/{part(job_id)}/artifacts/{part(name)}", folder / name) for name in names]
        await self.stream_files(wanted, DOWNLOADS)
        return [target for _, target in wanted]

    async def download_all(self, job_id: str, target: Path) -> Path:
        """Stream all of a job's files as one zip into the file `target`."""
        return await self.stream_to(f"jobs/{part(job_id)}/artifacts.zip", target)

    async def delete_artifacts(self, job_id: str) -> None:
        """Delete a job's files; what it found stays known."""
        await self.call("DELETE", f"jobs/{part(job_id)}/artifacts")
