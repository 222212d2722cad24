"""Jobs: add, list, look at, start, cancel, retry; their results and artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any, cast

import orjson
from fastapi import APIRouter, Query, Request, Response

from microtome.domain.commands import Cancel, Command, Release, Retry
from microtome.domain.state import Job, JobStatus
from microtome.errors import Conflict, NotFound
from microtome.readmodels.listing import JobFilter
from services.gateway import cells, present, views
from services.gateway.context import Context, Gateway
from services.gateway.deletion import check_files
from services.gateway.documents import JobsIn, WorkflowJobIn
from services.gateway.etag import NOT_MODIFIED, Rendered, accepted, answer, known
from services.gateway.paging import Limit, PageCursor, page
from services.gateway.quick import QuickRead
from services.gateway.stored_file import StoredFile
from services.gateway.user import LinkUser, User
from services.gateway.workflows import IdempotencyKey, add

router = APIRouter(tags=["jobs"])
reads = APIRouter(tags=["jobs"], route_class=QuickRead)

SUMMARY = "summary.json"
CELLS = "cells.parquet"
PREVIEW = "overlay.jpg"
# Outlines of a whole slide take a while and some memory; a few at a time.
_reading = asyncio.Semaphore(2)


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": _BINARY}, "description": "The file, in its own media type."},
    206: {"content": {"application/octet-stream": _BINARY}, "description": "The part that `Range` asks for."},
    416: {"description": "The file has no such part."},
    **NOT_MODIFIED,
}
_PREVIEW: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": _BINARY}, "description": "A picture."},
    **NOT_MODIFIED,
}


@router.get("/jobs", response_model=views.JobPage, responses=NOT_MODIFIED, summary="Your jobs")
async def jobs(
    request: Request,
    user: User,
    gateway: Context,
    status: Annotated[
        list[views.StatusName] | None, Query(description="Only these; may be given more than once.")
    ] = None,
    workflow_id: Annotated[str, Query(max_length=64, description="Of this workflow.")] = "",
    slide_id: Annotated[str, Query(max_length=64, description="On this slide.")] = "",
    branch: Annotated[str, Query(max_length=64, description="In this branch.")] = "",
    name: Annotated[str, Query(max_length=200, description="Part of the key, in any case.")] = "",
    limit: Limit = 50,
    cursor: PageCursor = None,
) -> Response:
    """List the user's jobs, newest first; of one workflow the last first."""
    wanted = JobFilter(
        statuses=tuple(map(JobStatus, status or ())),
        name=name,
        workflow_id=workflow_id,
        slide_id=slide_id,
        branch=branch,
    )
    found = await gateway.queries.find_jobs(user, wanted, limit, cursor)
    return page(request, await gateway.showing.job_documents(found.items), found.next_cursor)


@router.post("/jobs", response_model=views.Job, status_code=202, summary="Add a job to a workflow")
async def create(
    wanted: WorkflowJobIn, request: Request, user: User, gateway: Context, idempotency_key: IdempotencyKey = None
) -> Response:
    """Record one more job of a workflow that is there; it comes last in its branch."""
    (job_id,) = await add(gateway, request, user, wanted.workflow_id, JobsIn(jobs=[wanted.job()]), idempotency_key)
    shown = await gateway.showing.job(user, job_id)
    return accepted(shown.rendered, {"Location": f"/api/v1/jobs/{job_id}"})


@reads.get("/jobs/{job_id}", response_model=views.Job, responses=NOT_MODIFIED, summary="One job")
async def job(job_id: str, user: User, gateway: Context, request: Request) -> Response:
    """Show a job, its progress and its result."""
    return answer(request, (await gateway.showing.job(user, job_id)).rendered)


@router.post("/jobs/{job_id}/start", response_model=views.Job, status_code=202, summary="Start a draft")
async def start(job_id: str, user: User, gateway: Context) -> Response:
    """Start a draft: it becomes the last of its branch."""
    return await _commanded(gateway, user, job_id, Release(job_id))


@router.post("/jobs/{job_id}/cancel", response_model=views.Job, status_code=202, summary="Cancel a job")
async def cancel(job_id: str, user: User, gateway: Context) -> Response:
    """Give a job up: a pending one never starts, a running one stops within seconds."""
    return await _commanded(gateway, user, job_id, Cancel(job_id))


@router.post("/jobs/{job_id}/retry", response_model=views.Job, status_code=202, summary="Retry a job")
async def retry(job_id: str, user: User, gateway: Context) -> Response:
    """Ask for a new attempt at a failed, cancelled or skipped job, and at what was skipped because of it.

    Tiles that were finished are not done again.
    """
    return await _commanded(gateway, user, job_id, Retry(job_id))


@router.get(
    "/jobs/{job_id}/result", response_model=views.Manifest, responses=NOT_MODIFIED, summary="What a finished job made"
)
async def result(job_id: str, user: LinkUser, gateway: Context, request: Request) -> Response:
    """Return the job's summary, its numbers and its files with their checksums."""
    record = await gateway.queries.job(user, job_id)
    _finished(record.job)
    summary = None
    if record.job.artifacts_deleted_at is None:
        summary = await asyncio.to_thread(_summary, gateway.artifacts.path(job_id, record.job.attempt, SUMMARY))
    return answer(request, Rendered.of(present.manifest(record, summary)))


def _summary(path: Path) -> dict[str, Any] | None:
    """What the job wrote; None if it is being deleted at the moment."""
    try:
        return cast("dict[str, Any]", orjson.loads(path.read_bytes()))
    except FileNotFoundError:
        return None


@router.get("/jobs/{job_id}/preview", response_class=Response, responses=_PREVIEW, summary="A finished job in small")
async def preview(job_id: str, user: LinkUser, gateway: Context, request: Request) -> Response:
    """Show the slide in small with what the job found on it."""
    return await _artifact(gateway, await _succeeded(gateway, user, job_id), PREVIEW, request)


async def _commanded(gateway: Gateway, user: str, job_id: str, command: Command) -> Response:
    workflow_id = await gateway.showing.workflow_id_of(user, job_id)
    await gateway.workflows.execute(workflow_id, command)
    return accepted((await gateway.showing.job(user, job_id)).rendered)


@router.get(
    "/jobs/{job_id}/artifacts",
    response_model=list[views.Artifact],
    responses=NOT_MODIFIED,
    summary="The files of a finished job",
)
async def artifacts(job_id: str, user: User, gateway: Context, request: Request) -> Response:
    """List the job's files; empty until it succeeded, and again once they were deleted."""
    record = await gateway.queries.job(user, job_id)
    gone = record.job.artifacts_deleted_at is not None
    return answer(request, Rendered.of([] if gone else present.artifacts(record.job)))


@reads.get(
    "/jobs/{job_id}/artifacts/{name}", response_class=Response, responses=_FILE, summary="One file of a finished job"
)
async def artifact(job_id: str, name: str, user: LinkUser, gateway: Context, request: Request) -> Response:
    """Download a file; ranges and conditional requests work."""
    return await _artifact(gateway, await _succeeded(gateway, user, job_id), name, request)


@router.get("/jobs/{job_id}/cells", response_model=views.Cells, summary="Outlines of cells in a rectangle")
async def outlines(
    job_id: str,
    user: User,
    gateway: Context,
    bbox: Annotated[str, Query(max_length=200, description="x0,y0,x1,y1 in level-0 pixels.")],
) -> Response:
    """Return the outlines that meet the rectangle, an even sample when there are more than 20,000."""
    rectangle = cells.Rectangle.parse(bbox)
    record = await _succeeded(gateway, user, job_id)
    _described(record, CELLS)
    path = gateway.artifacts.path(job_id, record.attempt, CELLS)
    async with _reading:
        document = await asyncio.to_thread(_outlines, path, rectangle)
    # Written in the thread: checking a million numbers against the schema would hold up everybody else.
    return Response(document, media_type="application/json", headers={"Cache-Control": "private, no-cache"})


def _outlines(path: Path, rectangle: cells.Rectangle) -> bytes:
    found = cells.find(path, rectangle)
    counts = {"count": found.count, "returned": len(found.outlines), "sampled": found.sampled}
    return orjson.dumps({**counts, "outlines": found.outlines})


async def _succeeded(gateway: Gateway, user: str, job_id: str) -> Job:
    record = await gateway.queries.job(user, job_id)
    _finished(record.job)
    check_files(record.job)
    return record.job


def _finished(record: Job) -> None:
    if record.result is None:
        raise Conflict(f"The job is {record.status}; it has a result when it has SUCCEEDED.")


def _described(record: Job, name: str) -> dict[str, Any]:
    """What the result says about a file. Only names that it knows ever reach the disk."""
    for described in present.artifacts(record):
        if described["name"] == name:
            return described
    raise NotFound(f"This job has no artifact named {name[:80]!r}.")


async def _artifact(gateway: Gateway, record: Job, name: str, request: Request) -> Response:
    described = _described(record, name)
    headers = {
        "ETag": f'"{described["sha256"]}"',
        "Cache-Control": "private, no-cache",
        "Vary": "X-User-ID",
        "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
    }
    if known(request.headers.get("if-none-match"), headers["ETag"]):
        return Response(status_code=304, headers=headers)
    path = gateway.artifacts.path(record.job_id, record.attempt, name)
    return StoredFile(path, described["size_bytes"], media_type=described["media_type"], headers=headers)
