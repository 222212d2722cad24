"""Uploads under way in Postgres, and how much room a user has left.

Promises: what a user's slides, drawings on them and open uploads take together never exceeds the limit, whichever
processes reserve at the same time (reservations of one user wait for each other); an upload that became a slide counts
once, and so does what was drawn again; all times are the database's. Refuses: to know where the bytes lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import asyncpg

from microtome.errors import MicrotomeError, NotFound
from microtome.eventlog.database import Connection, Database


class QuotaExceeded(MicrotomeError):
    """You have no room left on this server; delete slides that you no longer need."""

    code: ClassVar[str] = "quota-exceeded"

    def __init__(self, *, requested: int, used: int, limit: int) -> None:
        super().__init__(
            f"{requested} bytes more do not fit: your slides, drawings and open uploads take {used} of {limit} bytes. "
            "Delete slides or uploads that you no longer need."
        )
        self.members: Mapping[str, Any] = {"requested_bytes": requested, "used_bytes": used, "limit_bytes": limit}


class TooManyUploads(MicrotomeError):
    """You have begun as many uploads as one user may have under way; finish some or give some up."""

    code: ClassVar[str] = "too-many-uploads"
    transient: ClassVar[bool] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload under way. `problem` is `{code, detail}` of one that was refused when it had come whole."""

    upload_id: str
    user_id: str
    size_bytes: int
    resumable: bool
    metadata: str
    problem: Mapping[str, Any] | None
    finished_at: datetime | None
    created_at: datetime
    expires_at: datetime
    # By the clock of the database, when it was read.
    expired: bool
    age_seconds: float

    @property
    def open(self) -> bool:
        """Whether bytes may still come, or have come and are looked at."""
        return self.problem is None and self.finished_at is None and not self.expired


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes of a user: in slides, promised to open uploads, drawn on slides; and how many slides there are."""

    stored_bytes: int
    reserved_bytes: int
    slides: int
    drawn_bytes: int = 0

    @property
    def used_bytes(self) -> int:
        """What counts against the limit."""
        return self.stored_bytes + self.reserved_bytes + self.drawn_bytes


@dataclass(frozen=True, slots=True)
class Drawing:
    """What was drawn as tissue on a slide, as a file of so many bytes."""

    slide_id: str
    sha256: str
    size_bytes: int


# An upload whose slide is recorded is counted as the slide, also when the slide is deleted.
_USAGE = """
select (select coalesce(sum(size_bytes), 0) from slides where user_id = $1 and deleted_at is null)::bigint as stored,
       (select count(*) from slides where user_id = $1 and deleted_at is null) as slides,
       (select coalesce(sum(size_bytes), 0) from uploads u
        where user_id = $1 and upload_id <> $2 and problem is null and finished_at is null
          and expires_at > clock_timestamp()
          and not exists (select 1 from slides s where s.slide_id = u.upload_id))::bigint as reserved,
       (select coalesce(sum(o.size_bytes), 0) from outlines o join slides s using (slide_id)
        where o.user_id = $1 and s.deleted_at is null)::bigint as drawn
"""
_LOCK = "select pg_advisory_xact_lock(hashtextextended('quota ' || $1, 0))"
_OPEN = """
insert into uploads (upload_id, user_id, size_bytes, resumable, metadata, expires_at)
values ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6))
returning *, false as expired, 0::float8 as age_seconds
"""
_COUNT_OPEN = """
select count(*) from uploads
where user_id = $1 and resumable and problem is null and finished_at is null and expires_at > clock_timestamp()
"""
# Those that are there already take no more room.
_NEW_DRAWINGS = """
select coalesce(sum(size_bytes), 0)::bigint
from unnest($1::text[], $2::text[], $3::bigint[]) as drawn (slide_id, sha256, size_bytes)
where not exists (select from outlines o where (o.slide_id, o.sha256) = (drawn.slide_id, drawn.sha256))
"""
_DRAW = """
insert into outlines (slide_id, sha256, user_id, size_bytes)
select slide_id, sha256, $4, size_bytes
from unnest($1::text[], $2::text[], $3::bigint[]) as drawn (slide_id, sha256, size_bytes)
on conflict do nothing
"""
_FORGET_DRAWINGS = """
delete from outlines o using slides s where s.slide_id = o.slide_id and s.deleted_at is not null
"""
_GROW = "update uploads set size_bytes = $2 where upload_id = $1"
_SELECT = """
select *, expires_at <= clock_timestamp() as expired,
       extract(epoch from clock_timestamp() - created_at)::float8 as age_seconds
from uploads
"""
_TOUCH = """
update uploads set expires_at = clock_timestamp() + make_interval(secs => $2) where upload_id = $1
returning expires_at
"""
_FINISH = """
update uploads set finished_at = clock_timestamp(), expires_at = clock_timestamp() + make_interval(secs => $2)
where upload_id = $1
"""
_FAIL = """
update uploads set problem = $3, expires_at = clock_timestamp() + make_interval(secs => $2) where upload_id = $1
"""


class Uploads:
    """The table of uploads. Every method raises `Unavailable` when Postgres does not answer."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def usage(self, user_id: str) -> Usage:
        """Say how much a user has."""
        async with self._database.connection() as connection:
            return await _usage(connection, user_id, "")

    async def open(
        self,
        upload_id: str,
        user_id: str,
        size_bytes: int,
        *,
        limit_bytes: int,
        seconds: float,
        resumable: bool,
        metadata: str = "",
        max_open: int = 0,
    ) -> Upload:
        """Reserve room for an upload; `limit_bytes` and `max_open` 0 are no limit.

        Raises `QuotaExceeded`, `TooManyUploads`.
        """
        async with self._database.transaction() as connection:
            if max_open:
                await connection.execute(_LOCK, user_id)
                if await connection.fetchval(_COUNT_OPEN, user_id) >= max_open:
                    raise TooManyUploads(f"You have {max_open} uploads under way; finish some or give some up.")
            if limit_bytes:
                await _fits(connection, user_id, upload_id, size_bytes, limit_bytes)
            row = await connection.fetchrow(_OPEN, upload_id, user_id, size_bytes, resumable, metadata, seconds)
        assert row is not None
        return _upload(row)

    async def grow(self, upload_id: str, user_id: str, at_least: int, wish: int, *, limit_bytes: int) -> int:
        """Reserve `wish` bytes in all, or what there is if that is `at_least`; return it. Raises `QuotaExceeded`."""
        async with self._database.transaction() as connection:
            left = await _fits(connection, user_id, upload_id, at_least, limit_bytes)
            size = min(wish, left)
            await connection.execute(_GROW, upload_id, size)
        return size

    async def draw(self, user_id: str, drawings: Sequence[Drawing], *, limit_bytes: int) -> None:
        """Reserve room for what was drawn, before its files are written; what is there already needs none.

        `limit_bytes` 0 is no limit. A drawing counts until its slide is deleted. Raises `QuotaExceeded`.
        """
        each = {(drawing.slide_id, drawing.sha256): drawing.size_bytes for drawing in drawings}
        columns = ([slide_id for slide_id, _ in each], [sha256 for _, sha256 in each], list(each.values()))
        async with self._database.transaction() as connection:
            if limit_bytes:
                await connection.execute(_LOCK, user_id)
                if size := await connection.fetchval(_NEW_DRAWINGS, *columns):
                    await _fits(connection, user_id, "", size, limit_bytes)
            await connection.execute(_DRAW, *columns, user_id)

    async def forget_drawings(self) -> None:
        """Forget what was drawn on slides that are deleted; it counts no more since then."""
        async with self._database.connection() as connection:
            await connection.execute(_FORGET_DRAWINGS)

    async def get(self, user_id: str, upload_id: str) -> Upload:
        """Return an upload of the user. Raises `NotFound`."""
        async with self._database.connection() as connection:
            row = await connection.fetchrow(
                f"{_SELECT} where upload_id = $1 and user_id = $2 and resumable", upload_id, user_id
            )
        if row is None:
            raise NotFound(f"There is no upload {upload_id[:80]} of yours.")
        return _upload(row)

    async def of_user(self, user_id: str) -> tuple[Upload, ...]:
        """Return the user's resumable uploads that are open, oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(
                f"{_SELECT} where user_id = $1 and resumable and problem is null and finished_at is null "
                "and expires_at > clock_timestamp() order by created_at, upload_id",
                user_id,
            )
        return tuple(map(_upload, rows))

    async def everything(self) -> tuple[Upload, ...]:
        """Return all uploads of all users, for sweeping; oldest first."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(f"{_SELECT} order by created_at, upload_id")
        return tuple(map(_upload, rows))

    async def touch(self, upload_id: str, seconds: float) -> datetime | None:
        """Put the expiry off; return when it is now, None if the upload is gone."""
        async with self._database.connection() as connection:
            expires_at: datetime | None = await connection.fetchval(_TOUCH, upload_id, seconds)
        return expires_at

    async def finish(self, upload_id: str, seconds: float) -> None:
        """Say that the upload became a slide; it is remembered for `seconds`."""
        async with self._database.connection() as connection:
            await connection.execute(_FINISH, upload_id, seconds)

    async def fail(self, upload_id: str, error: MicrotomeError, seconds: float) -> None:
        """Say why the upload came to nothing; that is remembered for `seconds`."""
        problem = {"code": error.code, "detail": error.detail}
        async with self._database.connection() as connection:
            await connection.execute(_FAIL, upload_id, seconds, problem)

    async def remove(self, upload_id: str) -> None:
        """Forget an upload."""
        async with self._database.connection() as connection:
            await connection.execute("delete from uploads where upload_id = $1", upload_id)


async def _fits(connection: Connection, user_id: str, upload_id: str, size: int, limit: int) -> int:
    """The room that the upload may take, at least `size`; others of the user wait until the transaction ends."""
    await connection.execute(_LOCK, user_id)
    used = (await _usage(connection, user_id, upload_id)).used_bytes
    if used + size > limit:
        raise QuotaExceeded(requested=size, used=used, limit=limit)
    return limit - used


async def _usage(connection: Connection, user_id: str, but: str) -> Usage:
    row = await connection.fetchrow(_USAGE, user_id, but)
    assert row is not None
    return Usage(row["stored"], row["reserved"], row["slides"], row["drawn"])


def _upload(row: asyncpg.Record) -> Upload:
    return Upload(**{name: row[name] for name in Upload.__dataclass_fields__})
