"""The asynchronous API client.

Promises: uploads and downloads are streamed; a download appears under its name only when complete.
Refuses: to retry what changes something.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.parse import quote

import httpx

from microtome.client.live import watch_workflow
from microtome.client.problem import raise_for_problem
from microtome.client.shapes import Artifact, Job, JobRequest, LiveMessage, Slide, Workflow
from microtome.errors import Unavailable

CHUNK_BYTES = 1024 * 1024

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in total."""


class ApiClient:
    """One user's view of one server.

    `url` is the server's address without `/api/v1`. Every method raises `ApiProblem` when the
    server refuses and `Unavailable` when it cannot be reached.
    """

    def __init__(self, url: str, user: str, *, timeout_seconds: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self.user = user
        # Without the environment's proxies: the server is an address that was asked for.
        self._http = httpx.AsyncClient(
            base_url=f"{self.url}/api/v1/", headers={"X-User-ID": user}, timeout=timeout_seconds, trust_env=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def health(self) -> dict[str, Any]:
        """Ask whether the server and what it needs are well."""
        return cast("dict[str, Any]", await self._call("GET", "health"))

    async def status(self) -> dict[str, Any]:
        """Ask for version, limits, services, engine and model."""
        return cast("dict[str, Any]", await self._call("GET", "status"))

    async def upload_slide(
        self,
        path: Path,
        *,
        filename: str | None = None,
        mpp: float | None = None,
        assume_mpp: float | None = None,
        progress: Progress | None = None,
    ) -> Slide:
        """Upload a file; `mpp` overrides what it says, `assume_mpp` stands in if it says nothing (µm per pixel)."""
        size = (await asyncio.to_thread(path.stat)).st_size
        parameters = {"filename": filename or path.name, "mpp": mpp, "assume_mpp": assume_mpp}
        answer = await self._call(
            "POST",
            "slides",
            params={name: value for name, value in parameters.items() if value is not None},
            content=_read(path, size, progress),
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            timeout=httpx.Timeout(60.0, read=900.0, write=None),
        )
        return cast("Slide", answer)

    async def slides(self) -> list[Slide]:
        """List the user's slides."""
        return cast("list[Slide]", _items(await self._call("GET", "slides")))

    async def slide(self, slide_id: str) -> Slide:
        """Get one slide."""
        return cast("Slide", await self._call("GET", f"slides/{_part(slide_id)}"))

    async def create_workflow(self, name: str, jobs: Sequence[JobRequest]) -> Workflow:
        """Submit a graph of jobs; it is accepted or refused as a whole."""
        return cast("Workflow", await self._call("POST", "workflows", json={"name": name, "jobs": list(jobs)}))

    async def workflows(self) -> list[Workflow]:
        """List the user's workflows, newest first."""
        return cast("list[Workflow]", _items(await self._call("GET", "workflows")))

    async def workflow(self, workflow_id: str) -> Workflow:
        """Get one workflow with its jobs."""
        return cast("Workflow", await self._call("GET", f"workflows/{_part(workflow_id)}"))

    async def job(self, job_id: str) -> Job:
        """Get one job."""
        return cast("Job", await self._call("GET", f"jobs/{_part(job_id)}"))

    async def cancel(self, job_id: str) -> Job:
        """Cancel a job."""
        return cast("Job", await self._call("POST", f"jobs/{_part(job_id)}/cancel"))

    async def retry(self, job_id: str) -> Job:
        """Start a failed or cancelled job again."""
        return cast("Job", await self._call("POST", f"jobs/{_part(job_id)}/retry"))

    async def result(self, job_id: str) -> dict[str, Any]:
        """Get a job's summary.json."""
        return cast("dict[str, Any]", await self._call("GET", f"jobs/{_part(job_id)}/result"))

    async def artifacts(self, job_id: str) -> list[Artifact]:
        """List a job's files."""
        return cast("list[Artifact]", _items(await self._call("GET", f"jobs/{_part(job_id)}/artifacts")))

    async def cells(self, job_id: str, bbox: tuple[float, float, float, float]) -> dict[str, Any]:
        """Get outlines within a rectangle (x0, y0, x1, y1) of level-0 pixels."""
        parameters = {"bbox": ",".join(f"{edge:g}" for edge in bbox)}
        return cast("dict[str, Any]", await self._call("GET", f"jobs/{_part(job_id)}/cells", params=parameters))

    async def download(self, job_id: str, name: str, target: Path) -> Path:
        """Stream an artifact into the file `target`, which appears when it is complete."""
        partial = target.with_name(f".{target.name}.partial")
        try:
            async with self._http.stream("GET", f"jobs/{_part(job_id)}/artifacts/{_part(name)}") as response:
                if response.is_error:
                    await response.aread()
                raise_for_problem(response)
                with partial.open("wb") as file:
                    async for chunk in response.aiter_bytes(CHUNK_BYTES):
                        await asyncio.to_thread(file.write, chunk)
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error
        else:
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        return target

    def watch(self, workflow_id: str, *, patience_seconds: float = 60.0) -> AsyncIterator[LiveMessage]:
        """Follow a workflow until it is finished; see `microtome.client.live.watch_workflow`."""
        return watch_workflow(self, workflow_id, patience_seconds=patience_seconds)

    async def _call(self, method: str, path: str, **request: Any) -> Any:  # noqa: ANN401 - JSON
        try:
            response = await self._http.request(method, path, **request)
        except httpx.TransportError as error:
            raise _unreachable(self.url, error) from error
        raise_for_problem(response)
        return response.json()


async def _read(path: Path, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
            done += len(chunk)
            if progress is not None:
                progress(done, size)


def _items(answer: Any) -> Any:  # noqa: ANN401 - JSON
    """Unwrap a list, bare or paged as `{"items": [...]}`."""
    return answer["items"] if isinstance(answer, dict) else answer


def _part(text: str) -> str:
    return quote(text, safe="")


def _unreachable(url: str, error: httpx.TransportError) -> Unavailable:
    return Unavailable(f"{url} does not answer: {error or type(error).__name__}")
