"""Jobs: look at, cancel, retry; their results and artifacts."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse

from microtome.domain.commands import Cancel, Command, Retry
from microtome.domain.state import Job
from microtome.errors import Conflict, NotFound
from services.gateway import cells, present, views
from services.gateway.context import Context, Gateway
from services.gateway.etag import NOT_MODIFIED, accepted, answer
from services.gateway.user import LinkUser, User

router = APIRouter(tags=["jobs"])

SUMMARY = "summary.json"
CELLS = "cells.parquet"
# Outlines of a whole slide take a while and some memory; a few at a time.
_reading = asyncio.Semaphore(2)


_SUMMARY: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {"schema": {"type": "object"}}}, "description": "The summary."}
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": _BINARY}, "description": "The file, in its own media type."}
}


@router.get("/jobs/{job_id}", response_model=views.Job, responses=NOT_MODIFIED, summary="One job")
async def job(job_id: str, user: User, gateway: Context, request: Request) -> Response:
    """Show a job, its progress and its result."""
    return answer(request, (await gateway.showing.job(user, job_id)).rendered)


@router.post("/jobs/{job_id}/cancel", response_model=views.Job, status_code=202, summary="Cancel a job")
async def cancel(job_id: str, user: User, gateway: Context) -> Response:
    """Give a job up: a pending one never starts, a running one stops within seconds."""
    return await _commanded(gateway, user, job_id, Cancel(job_id))


@router.post("/jobs/{job_id}/retry", response_model=views.Job, status_code=202, summary="Retry a job")
async def retry(job_id: str, user: User, gateway: Context) -> Response:
    """Ask for a new attempt; tiles that were finished are not done again."""
    return await _commanded(gateway, user, job_id, Retry(job_id))


async def _commanded(gateway: Gateway, user: str, job_id: str, command: Command) -> Response:
    workflow_id = await gateway.showing.workflow_id_of(user, job_id)
    await gateway.workflows.execute(workflow_id, command)
    return accepted((await gateway.showing.job(user, job_id)).rendered)


@router.get(
    "/jobs/{job_id}/result", response_class=Response, responses=_SUMMARY, summary="summary.json of a finished job"
)
async def result(job_id: str, user: LinkUser, gateway: Context, request: Request) -> Response:
    """Return the summary that the job wrote."""
    return await _artifact(gateway, await _succeeded(gateway, user, job_id), SUMMARY, request)


@router.get("/jobs/{job_id}/artifacts", summary="The files of a finished job")
async def artifacts(job_id: str, user: User, gateway: Context) -> list[views.Artifact]:
    """List the job's files; empty until it succeeded."""
    return present.artifacts((await gateway.queries.job(user, job_id)).job)


@router.get(
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
    if record.job.result is None:
        raise Conflict(f"The job is {record.job.status}; it has a result when it has SUCCEEDED.")
    return record.job


def _described(record: Job, name: str) -> views.Artifact:
    """What the result says about a file. Only names that it knows ever reach the disk."""
    for described in present.artifacts(record):
        if described.name == name:
            return described
    raise NotFound(f"This job has no artifact named {name[:80]!r}.")


async def _artifact(gateway: Gateway, record: Job, name: str, request: Request) -> Response:
    described = _described(record, name)
    headers = {
        "ETag": f'"{described.sha256}"',
        "Cache-Control": "private, no-cache",
        "Vary": "X-User-ID",
        "Content-Security-Policy": "sandbox; default-src 'none'; img-src 'self'; style-src 'unsafe-inline'",
    }
    if headers["ETag"] in {tag.strip() for tag in request.headers.get("if-none-match", "").split(",")}:
        return Response(status_code=304, headers=headers)
    path = gateway.artifacts.path(record.job_id, record.attempt, name)
    return FileResponse(path, media_type=described.media_type, headers=headers)
