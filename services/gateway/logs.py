"""What happened to a job, line by line, as its workers wrote it down.

Promises: a line's id never changes, so that whoever asks for what came after a line gets exactly that, also while the
job runs and while a late attempt still writes. Refuses: lines of other users' jobs, as `NotFound`.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from microtome.errors import InvalidRequest
from microtome.joblog import JobLog
from services.gateway import views
from services.gateway.context import Context
from services.gateway.etag import NOT_MODIFIED, Rendered, answer
from services.gateway.user import LinkUser

router = APIRouter(tags=["jobs"])

MAX_LINES = 10_000
_ID = re.compile(r"(\d{1,9}):(\d{1,9})")
_NAMED = ("time", "level", "service", "message")
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The lines."},
    **NOT_MODIFIED,
}


@dataclass(frozen=True, slots=True, order=True)
class LineId:
    """Which line of which attempt, both from 1."""

    attempt: int
    number: int

    @classmethod
    def parse(cls, text: str) -> LineId:
        """Read `attempt:number`. Raises `InvalidRequest`."""
        match = _ID.fullmatch(text)
        if match is None:
            raise InvalidRequest("after is the id of a line, attempt:number.")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}:{self.number}"


class LogLine(views.View):
    """One line."""

    id: str = Field(description="attempt:number; ask for what came `after` it.", examples=["1:7"])
    attempt: int
    time: str
    level: str = Field(examples=["info"])
    service: str = Field(examples=["tiler"])
    message: str = Field(examples=["found tissue"])
    about: dict[str, Any] = Field(description="Whatever else the line is about.", examples=[{"tiles": 12}])


class Log(views.View):
    """Lines, oldest first."""

    items: list[LogLine]
    next_cursor: str | None = Field(description="There are more lines after this one; null at the end.")


@router.get("/jobs/{job_id}/logs", response_model=Log, responses=_ANSWERS, summary="The log of a job")
async def logs(
    job_id: str,
    user: LinkUser,
    gateway: Context,
    request: Request,
    attempt: Annotated[int | None, Query(ge=1, description="Only this attempt.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LINES, description="How many lines at most.")] = 1000,
    after: Annotated[str | None, Query(max_length=20, description="Only lines after the one with this id.")] = None,
) -> Response:
    """Show what the services did for this job, as JSON, or as text for `Accept: text/plain`."""
    await gateway.queries.job(user, job_id)
    start = LineId(0, 0) if after is None else LineId.parse(after)
    found = await asyncio.to_thread(
        _read, JobLog(gateway.settings.microtome_data_dir), job_id, attempt, start, limit + 1
    )
    lines, more = found[:limit], len(found) > limit
    if _wants_text(request):
        headers = {"Cache-Control": "private, no-cache", "Vary": "X-User-ID, Accept"}
        return Response("".join(map(_text, lines)), media_type="text/plain", headers=headers)
    shown = Log(items=lines, next_cursor=lines[-1].id if more else None)
    return answer(request, Rendered.of(shown.model_dump()), {"Vary": "X-User-ID, Accept"})


def _read(log: JobLog, job_id: str, attempt: int | None, after: LineId, limit: int) -> list[LogLine]:
    found: list[LogLine] = []
    place = LineId(0, 0)
    for line in log.read(job_id):
        place = LineId(line.attempt, place.number + 1 if line.attempt == place.attempt else 1)
        if place <= after or attempt not in (None, line.attempt):
            continue
        content = dict(line.content)
        named = {name: str(content.pop(name, "")) for name in _NAMED}
        found.append(LogLine(id=str(place), attempt=line.attempt, about=content, **named))
        if len(found) == limit:
            break
    return found


def _text(line: LogLine) -> str:
    about = "".join(f" {key}={value}" for key, value in line.about.items())
    return f"{line.time} {line.level.upper():7} {line.service} attempt {line.attempt}: {line.message}{about}\n"


def _wants_text(request: Request) -> bool:
    accepted = request.headers.get("accept", "")
    return "text/plain" in accepted and "application/json" not in accepted
