"""What the database itself enforces, and how it comes to be."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from microtome.contracts.messages import JobStarted
from microtome.errors import ConfigurationError, InvalidRequest, Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.migrate import MIGRATIONS, migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.upcast import Upcasters
from tests.integration.eventlog.facts import slide, store


@pytest.mark.parametrize(
    "statement",
    [
        "update events set tenant = 'eve'",
        "update events set data = data where false",
        "delete from events",
        "truncate events",
        "truncate events cascade",
        "set session_replication_role = replica; delete from events",
        (
            "insert into events (stream, version, event_id, tenant, type, schema_version, data) values ('s', 1, "
            "gen_random_uuid(), 'eve', 'X', 1, '{}') on conflict (stream, version) do update set tenant = 'eve'"
        ),
    ],
)
async def test_even_a_superuser_cannot_change_the_log(log: PostgresEventLog, database_url: str, statement: str) -> None:
    (stored,) = await store(log, "slide-1", slide())
    connection = await asyncpg.connect(database_url)
    try:
        assert await connection.fetchval("select rolsuper from pg_roles where rolname = current_user")
        with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
            await connection.execute(statement)
    finally:
        await connection.close()
    assert await log.read_all() == (stored,)


async def test_nobody_slips_an_event_in_behind_the_readers(database: Database) -> None:
    connection = await asyncpg.connect(database.url)
    try:
        with pytest.raises(asyncpg.RestrictViolationError, match="xid"):
            await connection.execute(
                "insert into events (xid, stream, version, event_id, tenant, type, schema_version, data) "
                "values ('3', 's', 1, gen_random_uuid(), 'eve', 'X', 1, '{}')"
            )
    finally:
        await connection.close()


async def test_every_constraint_and_table_says_what_it_is_for(database: Database) -> None:
    async with database.connection() as connection:
        silent = await connection.fetch(
            """
            select indexrelid::regclass::text as name from pg_index
            where indisunique and indpred is not null and obj_description(indexrelid) is null
            union all
            select relname from pg_class
            where relkind = 'r' and relnamespace = 'public'::regnamespace and obj_description(oid) is null
              and relname <> 'migrations'
            union all
            select conname from pg_constraint
            where connamespace = 'public'::regnamespace and conrelid = 'jobs'::regclass and contype = 'c'
              and obj_description(oid) is null
            """
        )
    assert [row["name"] for row in silent] == []


async def test_five_services_migrate_at_once(empty_url: str) -> None:
    applied = await asyncio.gather(*[migrate(empty_url) for _ in range(5)])
    assert sorted(map(len, applied)) == [0, 0, 0, 0, len(MIGRATIONS)]
    assert await migrate(empty_url) == ()
    async with await Database.connect(empty_url) as database:
        assert await PostgresEventLog(database).read_all() == ()


async def test_a_database_of_another_version_is_refused(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute("update migrations set sha256 = 'other' where name = 'microtome.eventlog/schema.sql'")
    await connection.close()
    with pytest.raises(ConfigurationError, match=r"eventlog/schema\.sql"):
        await migrate(database_url)


async def test_where_no_postgres_is_everything_says_unavailable(free_port: int) -> None:
    url = f"postgresql://microtome@127.0.0.1:{free_port}/microtome"
    for attempt in (migrate(url), Database.connect(url)):
        with pytest.raises(Unavailable):
            await attempt


async def test_text_that_postgres_cannot_store_is_an_invalid_request(log: PostgresEventLog) -> None:
    with pytest.raises(InvalidRequest):
        await log.read_stream("nul\x00byte")
    with pytest.raises(InvalidRequest):
        await store(log, "slide-1", slide(slide_id="a\x00b"))


async def test_old_events_are_read_in_todays_shape(database: Database) -> None:
    """A day in the life: `JobStarted` once called its slot `worker`, and before that counted attempts from 0."""
    changes = Upcasters(
        {
            ("JobStarted", 1): lambda data: {**data, "attempt": data.get("attempt", 0) + 1},
            ("JobStarted", 2): lambda data: {
                "slot": data["worker"],
                **{name: value for name, value in data.items() if name != "worker"},
            },
        }
    )
    async with database.connection() as connection:
        for version, (schema, data) in enumerate(
            [(1, {"jobId": "x", "worker": 2}), (2, {"jobId": "x", "attempt": 2, "worker": 3})], start=1
        ):
            await connection.execute(
                "insert into events (stream, version, event_id, tenant, type, schema_version, data) "
                "values ('s', $1, $2, 'ada', 'JobStarted', $3, $4)",
                version,
                uuid4(),
                schema,
                data,
            )
    log = PostgresEventLog(database, upcasters=changes)
    await store(log, "s", JobStarted(job_id="x", attempt=3, slot=1))
    assert [event.message for event in await log.read_stream("s")] == [
        JobStarted(job_id="x", attempt=1, slot=2),
        JobStarted(job_id="x", attempt=2, slot=3),
        JobStarted(job_id="x", attempt=3, slot=1),
    ]
    async with database.connection() as connection:
        # What is stored stays as it was; what is new says that it is.
        rows = await connection.fetch("select schema_version, data from events order by position")
    assert [(row["schema_version"], row["data"].get("worker")) for row in rows] == [(1, 2), (2, 3), (3, None)]
    with pytest.raises(ConfigurationError, match="upgrade"):
        await PostgresEventLog(database).read_stream("s")


def test_an_upcast_chain_has_no_gaps_and_leaves_its_argument_alone() -> None:
    with pytest.raises(ConfigurationError, match="version 1"):
        Upcasters({("JobStarted", 2): lambda data: data})
    changes = Upcasters({("JobStarted", 1): lambda data: (data.pop("a"), data)[1]})
    old = {"a": 1, "b": 2}
    assert changes.upcast("JobStarted", 1, old) == {"b": 2}
    assert old == {"a": 1, "b": 2}
    assert changes.upcast("JobPlanned", 1, old) == old
