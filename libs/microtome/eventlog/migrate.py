"""The schema of the database.

Promises: afterwards every table is there; running it again, or in many services at once, changes
nothing; a database made by other SQL than this program's is refused, not half-used, and so is a log
that was restored into another cluster and not rebased, in which services would see nothing.
Refuses: to alter the log. Its schema changes only by new migration files.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import asyncpg

from microtome.errors import ConfigurationError
from microtome.eventlog.database import CONNECT_SECONDS, session_settings, typed_errors

# Applied in this order, each once, each in one transaction with its record.
MIGRATIONS = (
    ("microtome.eventlog", "schema.sql"),
    ("microtome.readmodels", "schema.sql"),
    ("microtome.readmodels", "invariants.sql"),
    ("microtome.leases", "schema.sql"),
    ("microtome.relay", "schema.sql"),
    ("microtome.readmodels", "0002_life_of_a_job.sql"),
    ("microtome.eventlog", "0002_snapshots.sql"),
    ("microtome.eventlog", "0003_events_of_a_user.sql"),
    ("microtome.leases", "0002_rate_buckets.sql"),
    ("microtome.reservations", "schema.sql"),
    ("microtome.eventlog", "0004_rebases.sql"),
    ("microtome.readmodels", "0003_deleted.sql"),
    ("microtome.reservations", "0002_outlines.sql"),
)

# Any constant will do, as long as all services use the same one.
_LOCK = 0x6D6963726F746F6D

# Events whose transaction ids this cluster has yet to hand out; see `rebase`.
FOREIGN = "select count(*) from events where xid >= pg_snapshot_xmax(pg_current_snapshot())"

_RECORD = """
create table if not exists migrations (
    name       text        primary key,
    sha256     text        not null,
    applied_at timestamptz not null default clock_timestamp()
)
"""


def sql(package: str, name: str) -> str:
    """Return a package's SQL file."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


async def migrate(database_url: str) -> tuple[str, ...]:
    """Bring the database to this program's schema; return what was applied now.

    Raises `ConfigurationError` when the database was made by other SQL or its log belongs to another cluster (the
    schema is up to date then, as `rebase` needs it), `Unavailable`.
    """
    async with typed_errors():
        connection = await asyncpg.connect(
            database_url, timeout=CONNECT_SECONDS, server_settings=session_settings("microtome-migrate")
        )
    try:
        async with typed_errors():
            await connection.execute("select pg_advisory_lock($1)", _LOCK)
            applied = await _apply(connection)
            await _check_cluster(connection)
            return applied
    finally:
        # The session's end releases the lock, whatever happened.
        await connection.close(timeout=CONNECT_SECONDS)


async def _apply(connection: asyncpg.Connection[asyncpg.Record]) -> tuple[str, ...]:
    await connection.execute(_RECORD)
    known = {row["name"]: row["sha256"] for row in await connection.fetch("select name, sha256 from migrations")}
    applied = []
    for package, file in MIGRATIONS:
        name = f"{package}/{file}"
        text = sql(package, file)
        digest = hashlib.sha256(text.encode()).hexdigest()
        if name not in known:
            async with connection.transaction():
                await connection.execute(text)
                await connection.execute("insert into migrations (name, sha256) values ($1, $2)", name, digest)
            applied.append(name)
        elif known[name] != digest:
            raise ConfigurationError(f"the database was made by another version of {name}; use its program")
    return tuple(applied)


async def _check_cluster(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    foreign = await connection.fetchval(FOREIGN)
    if foreign:
        raise ConfigurationError(
            f"{foreign} events carry transaction ids that this cluster has yet to hand out: the log was restored from "
            "another one. Stop all services and run `python -m microtome.replay rebase`."
        )
