"""A log carried into another cluster by pg_dump and pg_restore."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest

from microtome.contracts.messages import JobStarted, JobSucceeded, SeatGranted
from microtome.errors import Busy, ConfigurationError, Conflict
from microtome.eventlog.database import Database
from microtome.eventlog.log import StoredEvent
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.rebase import FIRST_XID, foreign_events, rebase
from microtome.eventlog.snapshots import PostgresSnapshots
from microtome.readmodels.projection import ReadModels
from microtome.readmodels.queries import Queries
from microtome.readmodels.rebuild import rebuild, verify
from microtome.relay.checkpoint import PostgresCheckpoint
from tests.integration.eventlog.facts import slide, store, submitted
from tests.integration.eventlog.fixtures import run_apart, with_name
from tests.integration.eventlog.servers import PostgresProcess, home_folder


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[PostgresProcess]:
    """A cluster of its own, which has handed out few transaction ids yet."""
    with home_folder() as home:
        server = PostgresProcess(home)
        server.start()
        try:
            run_apart(server.postgres.wait_ready())
            yield server
        finally:
            server.stop()


def binary(server: PostgresProcess, name: str) -> str:
    return str(Path(server.postgres.spec().argv[0]).with_name(name))


def carry(server: PostgresProcess, source: str, target: str, folder: Path) -> None:
    """Dump one database and restore it into another."""
    file = folder / f"{uuid4().hex}.dump"
    environment = {**os.environ, "LC_ALL": "C"}
    for command in (
        [binary(server, "pg_dump"), "--format=custom", "--no-owner", f"--file={file}", source],
        [binary(server, "pg_restore"), "--no-owner", "--exit-on-error", f"--dbname={target}", str(file)],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


async def empty_database(url: str) -> str:
    name = f"restored_{uuid4().hex}"
    connection = await asyncpg.connect(url)
    await connection.execute(f"create database {name} template template0")
    await connection.close()
    return with_name(url, name)


async def live(log: PostgresEventLog, database: Database) -> list[StoredEvent]:
    """Some life, in which transactions overlap: the one that began first gets its position last."""
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "slide-slide-1", slide())
    for number in range(5):
        await store(log, f"workflow-w{number}", submitted(f"w{number}", {"a": ("x", ())}))
        early = await asyncpg.connect(database.url)
        transaction = early.transaction()
        await transaction.start()
        await early.execute("select pg_current_xact_id()")
        await store(log, f"workflow-w{number}", JobStarted(job_id=f"w{number}-a", attempt=1, slot=number))
        await early.execute(
            "insert into events (stream, version, event_id, tenant, type, schema_version, data) values "
            "($1, 1, gen_random_uuid(), 'ada', 'SlideRegistered', 1, (select data || "
            "jsonb_build_object('slideId', $2::text) from events where type = 'SlideRegistered' limit 1))",
            f"slide-early{number}",
            f"early{number}",
        )
        await transaction.commit()
        await early.close()
    # The rows of the slides that were written past the projection.
    await rebuild(database)
    return list(await log.read_all())


def content(events: list[StoredEvent]) -> list[tuple[object, ...]]:
    return [(e.cursor.position, e.stream, e.version, e.event_id, e.message, e.at) for e in events]


async def test_a_log_restored_elsewhere_is_blind_until_it_is_rebased(
    log: PostgresEventLog, database: Database, elsewhere: PostgresProcess, tmp_path: Path
) -> None:
    # A cluster that has seen much.
    async with database.session() as connection:
        await connection.execute(
            "do $$ begin for n in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$"
        )
    events = await live(log, database)
    falls = sum(one.cursor.position > other.cursor.position for one, other in pairwise(events))
    assert falls >= 5
    await PostgresCheckpoint(database, "relay").store(events[9].cursor)
    await PostgresSnapshots(database, "cluster", 1).store(events[9].cursor, b"state")
    target = await empty_database(elsewhere.postgres.url())
    carry(elsewhere, database.url, target, tmp_path)

    # Services refuse to start on it, rather than to see nothing.
    with pytest.raises(ConfigurationError, match="rebase"):
        await migrate(target)
    async with await Database.connect(target) as restored:
        there = PostgresEventLog(restored, [ReadModels()])
        # The harm: all facts are there, and a reader sees none of them.
        assert await there.read_all() == ()
        assert await foreign_events(restored) == len(events)
        # What is appended now would come before everything; the relay, which is ahead, would never see it.
        (new,) = await store(there, "workflow-w0", JobSucceeded(job_id="w0-a", attempt=1))
        checkpoint = PostgresCheckpoint(restored, "relay")
        assert await there.read_all() == (new,)
        assert await there.read_all(await checkpoint.load()) == ()

        done = await rebase(restored)
        assert (done.events, done.greatest) == (len(events) + 1, events[-1].cursor.xid)
        read = list(await there.read_all())
        assert content(read) == [*content(events), *content([new])]
        assert read == sorted(read, key=lambda event: event.cursor)
        assert read[-1].cursor.xid == done.became == FIRST_XID + falls
        # The relay goes on where it was.
        assert await there.read_all(await checkpoint.load()) == tuple(read[10:])
        assert await PostgresSnapshots(restored, "cluster", 1).load() is None
        record = await Queries(restored).workflow("ada", "w3")
        assert record.cursor == next(e.cursor for e in reversed(read) if e.stream == "workflow-w3")
        # Life goes on, behind all that was.
        assert await migrate(target) == ()
        (later,) = await store(there, "workflow-w1", JobSucceeded(job_id="w1-a", attempt=1))
        assert (await there.read_all(read[-1].cursor)) == (later,)
        assert later.cursor.position > max(event.cursor.position for event in read)
        assert await foreign_events(restored) == 0
        # Nothing else may change the log, now as before, and there is nothing left to do.
        async with restored.connection() as connection:
            assert await connection.fetchval("select events from rebases") == len(events) + 1
            with pytest.raises(asyncpg.RestrictViolationError):
                await connection.execute("update events set xid = '3'")
        with pytest.raises(Conflict, match="nothing to rebase"):
            await rebase(restored)


async def test_a_rebase_waits_for_nobody_and_changes_nothing_while_somebody_is_at_work(
    log: PostgresEventLog,
    database: Database,
    elsewhere: PostgresProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("microtome.eventlog.rebase.LOCK_SECONDS", 1)
    await live(log, database)
    target = await empty_database(elsewhere.postgres.url())
    carry(elsewhere, database.url, target, tmp_path)
    async with await Database.connect(target) as restored:
        if not await foreign_events(restored):
            pytest.skip("the other cluster has come as far as this one")
        async with restored.transaction() as connection:
            await connection.execute("lock table events in row exclusive mode")
            with pytest.raises(Busy):
                await rebase(restored)
        assert await foreign_events(restored)
        await rebase(restored)
        assert await verify(restored) == ()


async def test_a_log_at_home_is_left_alone(log: PostgresEventLog, database: Database) -> None:
    await store(log, "slide-slide-1", slide())
    before = await log.read_all()
    with pytest.raises(Conflict):
        await rebase(database)
    assert await log.read_all() == before
