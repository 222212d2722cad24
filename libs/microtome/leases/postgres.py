"""Leases in Postgres, fenced by the jobs table.

Promises: what `microtome.leases.lease` promises, each in one statement, all by the clock of the database.
Refuses: to trust a lease of another attempt than the job's current one; it counts as absent.
"""

from __future__ import annotations

from collections.abc import Iterable

from microtome.errors import Busy
from microtome.eventlog.database import Database
from microtome.leases.lease import Expired, Lease, Leases, Progress, Stage, Standing, stale

_TAKE = """
insert into leases as held (job_id, attempt, owner, stage, expires_at)
select job_id, attempt, $3, $4, clock_timestamp() + make_interval(secs => $5)
from jobs where job_id = $1 and attempt = $2 and status = 'RUNNING'
on conflict (job_id) do update set
    attempt = excluded.attempt, owner = excluded.owner, stage = excluded.stage,
    expires_at = excluded.expires_at, updated_at = clock_timestamp(),
    tiles_total = case when held.attempt = excluded.attempt then held.tiles_total end,
    tiles_processed = case when held.attempt = excluded.attempt then held.tiles_processed else 0 end,
    tiles_skipped = case when held.attempt = excluded.attempt then held.tiles_skipped else 0 end,
    cells = case when held.attempt = excluded.attempt then held.cells else 0 end
where held.attempt < excluded.attempt
   or (held.attempt = excluded.attempt
       and (held.owner is null or held.owner = excluded.owner or held.expires_at <= clock_timestamp()))
returning 1
"""
_RUNS = "select 1 from jobs where job_id = $1 and attempt = $2 and status = 'RUNNING'"
_RENEW = """
update leases l set
    expires_at = clock_timestamp() + make_interval(secs => $4), updated_at = clock_timestamp(),
    tiles_total = case when $5 then $6::integer else tiles_total end,
    tiles_processed = case when $5 then $7::integer else tiles_processed end,
    tiles_skipped = case when $5 then $8::integer else tiles_skipped end,
    cells = case when $5 then $9::bigint else cells end
from jobs j
where l.job_id = $1 and l.attempt = $2 and l.owner = $3
  and j.job_id = l.job_id and j.attempt = l.attempt and j.status = 'RUNNING'
returning 1
"""
_HAND_OVER = """
update leases l set owner = null, stage = $4, expires_at = clock_timestamp() + make_interval(secs => $5),
                    updated_at = clock_timestamp()
from jobs j
where l.job_id = $1 and l.attempt = $2 and l.owner = $3
  and j.job_id = l.job_id and j.attempt = l.attempt and j.status = 'RUNNING'
returning 1
"""
_RELEASE = "delete from leases where job_id = $1 and attempt = $2 and owner = $3"
_TOUCH = """
insert into leases as held (job_id, attempt, owner, stage, expires_at)
select job_id, attempt, null, 'queued', clock_timestamp() + make_interval(secs => $3)
from jobs where job_id = $1 and attempt = $2 and status = 'RUNNING'
on conflict (job_id) do update set
    attempt = excluded.attempt, owner = null, expires_at = excluded.expires_at, updated_at = clock_timestamp(),
    stage = case when held.attempt = excluded.attempt then held.stage else excluded.stage end
where held.attempt < excluded.attempt or (held.attempt = excluded.attempt and held.owner is null)
"""
_EXPIRED = """
select j.job_id, j.workflow_id, j.user_id, j.attempt, l.owner, coalesce(l.stage, 'queued') as stage
from jobs j left join leases l on l.job_id = j.job_id and l.attempt = j.attempt
where j.status = 'RUNNING'
  and coalesce(l.expires_at, j.started_at + make_interval(secs => $1)) <= clock_timestamp()
order by j.slot
"""
_PROGRESS = """
select l.* from leases l join jobs j on j.job_id = l.job_id and j.attempt = l.attempt and j.status = 'RUNNING'
where l.job_id = any($1::text[])
"""


class PostgresLeases(Leases):
    """`Leases` on a `Database`.

    `lease_seconds`: how long a lease lasts without renewal. `dispatch_seconds`: how long a
    started job may wait for someone to take it before it counts as expired.
    """

    def __init__(self, database: Database, lease_seconds: float = 10.0, dispatch_seconds: float = 30.0) -> None:
        self._database = database
        self._seconds = float(lease_seconds)
        self._dispatch_seconds = float(dispatch_seconds)

    async def take(self, job_id: str, attempt: int, owner: str, stage: Stage) -> Lease:
        """Begin to work on an attempt; see `Leases.take`."""
        async with self._database.connection() as connection:
            if not await connection.fetchval(_TAKE, job_id, attempt, owner, stage, self._seconds):
                if not await connection.fetchval(_RUNS, job_id, attempt):
                    raise stale(job_id, attempt)
                raise Busy(f"job {job_id} is in other hands")
        return Lease(job_id=job_id, attempt=attempt, owner=owner, stage=stage)

    async def renew(self, lease: Lease, progress: Progress | None = None) -> None:
        """Go on working; see `Leases.renew`."""
        now = progress or Progress()
        await self._own(
            lease,
            _RENEW,
            self._seconds,
            progress is not None,
            now.tiles_total,
            now.tiles_processed,
            now.tiles_skipped,
            now.cells,
        )

    async def hand_over(self, lease: Lease, stage: Stage, seconds: float) -> None:
        """Leave the attempt to whoever takes it next; see `Leases.hand_over`."""
        await self._own(lease, _HAND_OVER, stage, float(seconds))

    async def release(self, lease: Lease) -> None:
        """Stop working; see `Leases.release`."""
        async with self._database.connection() as connection:
            await connection.execute(_RELEASE, lease.job_id, lease.attempt, lease.owner)

    async def touch(self, job_id: str, attempt: int, seconds: float) -> None:
        """Grant an attempt without an owner more time; see `Leases.touch`."""
        async with self._database.connection() as connection:
            await connection.execute(_TOUCH, job_id, attempt, float(seconds))

    async def expired(self) -> tuple[Expired, ...]:
        """Return the running jobs that nobody works on; see `Leases.expired`."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_EXPIRED, self._dispatch_seconds)
        return tuple(Expired(**dict(row)) for row in rows)

    async def progress(self, job_ids: Iterable[str]) -> dict[str, Standing]:
        """Return where running jobs are; see `Leases.progress`."""
        async with self._database.connection() as connection:
            rows = await connection.fetch(_PROGRESS, list(job_ids))
        return {
            row["job_id"]: Standing(
                attempt=row["attempt"],
                stage=row["stage"],
                owner=row["owner"],
                progress=Progress(
                    tiles_total=row["tiles_total"],
                    tiles_processed=row["tiles_processed"],
                    tiles_skipped=row["tiles_skipped"],
                    cells=row["cells"],
                ),
            )
            for row in rows
        }

    async def _own(self, lease: Lease, statement: str, *arguments: object) -> None:
        async with self._database.connection() as connection:
            if not await connection.fetchval(statement, lease.job_id, lease.attempt, lease.owner, *arguments):
                raise stale(lease.job_id, lease.attempt)
