"""Calls about slides.

Promises: an upload is streamed; a large one can be resumed where it was interrupted, also by another process.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import httpx

from microtome.client.problem import ApiProblem
from microtome.client.shapes import Slide
from microtome.client.transport import Transport, given, part, read_file
from microtome.errors import Unavailable

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in total."""

# Opening a large file takes the server a while.
_PATIENT = httpx.Timeout(60.0, read=900.0, write=None)
_TUS = {"Tus-Resumable": "1.0.0"}
_TRIES = 5


class SlideCalls(Transport):
    """What can be asked about slides."""

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
        answer = await self.call(
            "POST",
            "slides",
            params=given({"filename": filename or path.name, "mpp": mpp, "assume_mpp": assume_mpp}),
            content=_told(path, 0, size, progress),
            headers={"Content-Length": str(size), "Content-Type": "application/octet-stream"},
            timeout=_PATIENT,
        )
        return cast("Slide", answer)

    async def upload_resumably(
        self,
        path: Path,
        *,
        filename: str | None = None,
        mpp: float | None = None,
        assume_mpp: float | None = None,
        progress: Progress | None = None,
    ) -> Slide:
        """Upload a file by the tus protocol: a broken connection is taken up again where the server has got to.

        Raises ApiProblem when the file is refused, Unavailable when the server stays away.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        metadata = given({"filename": filename or path.name, "mpp": mpp, "assume_mpp": assume_mpp})
        created = await self.send(
            "POST",
            "uploads",
            headers={**_TUS, "Upload-Length": str(size), "Upload-Metadata": _metadata(metadata)},
        )
        place = httpx.URL(self.url).join(created.headers["Location"])
        offset, failures = 0, 0
        while True:
            try:
                answer = await self.send(
                    "PATCH",
                    str(place),
                    content=_told(path, offset, size, progress),
                    headers={
                        **_TUS,
                        "Upload-Offset": str(offset),
                        "Content-Type": "application/offset+octet-stream",
                        "Content-Length": str(size - offset),
                    },
                    timeout=_PATIENT,
                )
            except (Unavailable, ApiProblem) as error:
                failures += 1
                known = isinstance(error, ApiProblem) and not error.problem.transient
                if known or failures >= _TRIES:
                    raise
                await asyncio.sleep(failures)
                offset = int((await self.send("HEAD", str(place), headers=_TUS)).headers["Upload-Offset"])
                continue
            return await self.slide(answer.headers["Microtome-Slide-Id"])

    async def slides(self, *, limit: int | None = None, **filters: Any) -> list[Slide]:  # noqa: ANN401 - as the API has them
        """List the user's slides, newest first."""
        return cast("list[Slide]", await self.pages("slides", filters, limit))

    async def slide(self, slide_id: str) -> Slide:
        """Get one slide."""
        return cast("Slide", await self.call("GET", f"slides/{part(slide_id)}"))

    async def delete_slide(self, slide_id: str) -> None:
        """Delete a slide's pixels; what was found on it stays."""
        await self.call("DELETE", f"slides/{part(slide_id)}")


def _metadata(values: dict[str, Any]) -> str:
    return ",".join(f"{name} {base64.b64encode(str(value).encode()).decode()}" for name, value in values.items())


async def _told(path: Path, start: int, size: int, progress: Progress | None) -> AsyncIterator[bytes]:
    done = start
    async for chunk in read_file(path, start):
        yield chunk
        done += len(chunk)
        if progress is not None:
            progress(done, size)
