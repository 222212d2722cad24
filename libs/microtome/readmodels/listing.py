"""Lists of what is a user's: filtered, newest first, page by page.

Promises: paging by place, not by number: what is added meanwhile neither repeats nor hides a row. A page costs the
same at the beginning of a list as at its end.
Refuses: cursors that no list gave out (`InvalidRequest`).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import asyncpg
import orjson

from microtome.domain.state import JobStatus, WorkflowStatus
from microtome.errors import InvalidRequest
from microtome.eventlog.database import Connection

T = TypeVar("T")
MAX_LIMIT = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# The year 9999, in microseconds.
_END = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """A part of a list, and the cursor of the next part; None at the end."""

    items: tuple[T, ...]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowFilter:
    """Which workflows are wanted; what is empty does not matter."""

    statuses: tuple[WorkflowStatus, ...] = ()
    # Part of the name, in any case.
    name: str = ""
    # With a job on this slide.
    slide_id: str = ""
    # With a job in this branch.
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs are wanted; what is empty does not matter."""

    statuses: tuple[JobStatus, ...] = ()
    # Part of the key, in any case.
    name: str = ""
    workflow_id: str = ""
    slide_id: str = ""
    branch: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideFilter:
    """Which slides are wanted; what is empty does not matter."""

    # Part of the file's name, in any case.
    name: str = ""
    # Also those whose pixels are gone.
    deleted: bool = False


ANY_WORKFLOW = WorkflowFilter()
ANY_JOB = JobFilter()
ANY_SLIDE = SlideFilter()


@dataclass(slots=True)
class _Search:
    """A query in the making. Conditions are fixed texts; what users say goes into arguments only."""

    columns: str
    table: str
    order: tuple[str, ...]
    conditions: list[str] = field(default_factory=list)
    arguments: list[object] = field(default_factory=list)

    def where(self, condition: str, *arguments: object) -> None:
        """Add a condition; `{}` stands for an argument."""
        first = len(self.arguments) + 1
        places = [f"${first + number}" for number in range(len(arguments))]
        self.conditions.append(condition.format(*places))
        self.arguments.extend(arguments)

    def sql(self, limit: int) -> str:
        """Return the query for one row more than a page."""
        order = ", ".join(f"{column} desc" for column in self.order)
        return (
            f"select {self.columns} from {self.table} "  # noqa: S608 - fixed texts
            f"where {' and '.join(self.conditions)} order by {order} limit {limit + 1}"
        )


def pattern(part: str) -> str:
    """Return the LIKE pattern for texts that hold `part`, whatever characters it has."""
    escaped = part.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def workflows(user_id: str, wanted: WorkflowFilter) -> _Search:
    """Return the search for workflows."""
    search = _Search("w.*", "workflows w", ("w.created_at", "w.workflow_id"))
    search.where("w.user_id = {}", user_id)
    # One status is a range of an index in the order of the list; several are not.
    if len(wanted.statuses) == 1:
        search.where("w.status = {}", wanted.statuses[0].value)
    elif wanted.statuses:
        search.where("w.status = any({}::text[])", [status.value for status in wanted.statuses])
    if wanted.name:
        search.where("w.name ilike {}", pattern(wanted.name))
    if wanted.slide_id:
        search.where("w.workflow_id in (select j.workflow_id from jobs j where j.slide_id = {})", wanted.slide_id)
    if wanted.branch:
        search.where("exists (select from jobs j where j.workflow_id = w.workflow_id and j.branch = {})", wanted.branch)
    return search


def jobs(user_id: str, wanted: JobFilter) -> _Search:
    """Return the search for jobs."""
    search = _Search("j.*", "jobs j", ("j.created_at", "j.workflow_id", "j.ordinal"))
    search.where("j.user_id = {}", user_id)
    if len(wanted.statuses) == 1:
        search.where("j.status = {}", wanted.statuses[0].value)
    elif wanted.statuses:
        search.where("j.status = any({}::text[])", [status.value for status in wanted.statuses])
    if wanted.name:
        search.where("j.key ilike {}", pattern(wanted.name))
    if wanted.workflow_id:
        search.where("j.workflow_id = {}", wanted.workflow_id)
    if wanted.slide_id:
        search.where("j.slide_id = {}", wanted.slide_id)
    if wanted.branch:
        search.where("j.branch = {}", wanted.branch)
    return search


def slides(user_id: str, wanted: SlideFilter) -> _Search:
    """Return the search for slides."""
    search = _Search("s.*", "slides s", ("s.registered_at", "s.slide_id"))
    search.where("s.user_id = {}", user_id)
    if wanted.name:
        search.where("s.filename ilike {}", pattern(wanted.name))
    if not wanted.deleted:
        search.where("s.deleted_at is null")
    return search


async def page(
    connection: Connection, search: _Search, limit: int, cursor: str | None
) -> tuple[list[asyncpg.Record], str | None]:
    """Return the rows after the cursor, at most `limit`, and the cursor after them.

    Raises `InvalidRequest` for a cursor that is none of this list's, or a limit out of range.
    """
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"A page has 1 to {MAX_LIMIT} entries, not {limit}.")
    if cursor:
        place = decode(cursor, len(search.order))
        search.where(f"({', '.join(search.order)}) < ({', '.join('{}' for _ in place)})", *place)
    rows = await connection.fetch(search.sql(limit), *search.arguments)
    if len(rows) <= limit:
        return rows, None
    rows = rows[:limit]
    return rows, encode(*(rows[-1][column.partition(".")[2]] for column in search.order))


def shortened(found: list[asyncpg.Record], following: str | None, jobs: int) -> tuple[list[asyncpg.Record], str | None]:
    """Return as many of these workflows as have about `jobs` jobs together, at least one, and the cursor after them."""
    taken = 0
    for number, row in enumerate(found):
        # No workflow has more jobs than it gave turns.
        taken += row["next_turn"]
        if number and taken > jobs:
            last = found[number - 1]
            return found[:number], encode(last["created_at"], last["workflow_id"])
    return found, following


def encode(at: datetime, *rest: str | int) -> str:
    """Return the cursor of a row: opaque to clients, fit for a query string."""
    return base64.urlsafe_b64encode(orjson.dumps([(at - _EPOCH) // _MICROSECOND, *rest])).decode().rstrip("=")


def decode(cursor: str, length: int) -> tuple[object, ...]:
    """Return the place that a cursor names: a time, an id, and a third number where the order has one.

    Raises `InvalidRequest`.
    """
    kinds = (int, str, int)[:length]
    try:
        place = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if not isinstance(place, list) or tuple(type(value) for value in place) != kinds or "\0" in place[1]:
            raise ValueError(cursor)
        if not 0 <= place[0] < _END or not all(0 <= number < 2**31 for number in place[2:]):
            raise ValueError(cursor)
    except ValueError as error:
        raise InvalidRequest(f"{cursor[:80]!r} is no cursor of this list.") from error
    return (_EPOCH + place[0] * _MICROSECOND, *place[1:])
