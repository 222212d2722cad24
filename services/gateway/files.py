"""All files of a job at once: as an archive, or gone.

Promises: only what the result names is given out, and only to its user.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

from fastapi import APIRouter, Request, Response

from microtome.domain.state import Job
from microtome.errors import Conflict
from services.gateway import etag
from services.gateway.archive import Archive, ArchiveResponse
from services.gateway.context import Context
from services.gateway.deletion import check_files
from services.gateway.user import LinkUser, User

router = APIRouter(tags=["jobs"])

# Part of the tag: the same files in another arrangement are another archive.
_ARRANGEMENT = 1
_ZIP: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        "description": "README.txt, every artifact, and masks/<row>-<column>.png for each tile with cells.",
    },
    **etag.NOT_MODIFIED,
}


@router.get("/jobs/{job_id}/artifacts.zip", response_class=Response, responses=_ZIP, summary="All files of a job")
@router.head("/jobs/{job_id}/artifacts.zip", response_class=Response, include_in_schema=False)
async def archive(job_id: str, user: LinkUser, gateway: Context, request: Request) -> Response:
    """Download everything as a ZIP that is written while it is sent; its README.txt says what is in it."""
    job = (await gateway.queries.job(user, job_id)).job
    if job.result is None:
        raise Conflict(f"The job is {job.status}; it has files when it has SUCCEEDED.")
    check_files(job)
    headers = {
        "ETag": _tag(job),
        "Cache-Control": etag.CACHE_CONTROL,
        "Vary": etag.VARY,
        "Content-Disposition": f'attachment; filename="{job.key}-{job.job_id[:8]}.zip"',
    }
    if etag.known(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    opened = await asyncio.to_thread(Archive, gateway.artifacts, job)
    if request.method == "HEAD":
        opened.close()
        return Response(media_type="application/zip", headers=headers)
    return ArchiveResponse(opened, headers)


def _tag(job: Job) -> str:
    assert job.result is not None
    named = "\n".join(f"{artifact.name} {artifact.sha256}" for artifact in job.result.artifacts)
    digest = hashlib.sha256(f"{_ARRANGEMENT}\n{job.job_id}\n{named}".encode()).hexdigest()
    return f'"{digest[:32]}-zip"'


@router.delete(
    "/jobs/{job_id}/artifacts", status_code=204, response_class=Response, summary="Delete the files of a job"
)
async def delete(job_id: str, user: User, gateway: Context) -> Response:
    """Remove what the job wrote; its history and its numbers stay. Doing it again changes nothing."""
    await gateway.deletions.artifacts(user, job_id)
    return Response(status_code=204)
