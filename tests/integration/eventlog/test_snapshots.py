"""Snapshots: a cache that may be lost at any time."""

from __future__ import annotations

import pytest

from microtome.contracts.messages import JobStarted
from microtome.eventlog.database import Database
from microtome.eventlog.log import Cursor
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.snapshots import PostgresSnapshots
from tests.integration.eventlog.facts import store


@pytest.fixture
def log(database: Database) -> PostgresEventLog:
    return PostgresEventLog(database)


async def test_the_newest_snapshot_is_kept_whoever_stores_it(log: PostgresEventLog, database: Database) -> None:
    snapshots = PostgresSnapshots(database, "cluster", 3)
    assert await snapshots.load() is None
    first, second, third = await store(log, "s", *[JobStarted(job_id="a", attempt=n) for n in (1, 2, 3)])
    await snapshots.store(second.cursor, b"\x00two")
    await PostgresSnapshots(database, "cluster", 3).store(first.cursor, b"late and old")
    found = await snapshots.load()
    assert found is not None
    assert (found.cursor, found.data) == (second.cursor, b"\x00two")
    assert found.stored_at >= second.at
    await snapshots.store(third.cursor, b"three")
    other = PostgresSnapshots(database, "other", 3)
    assert await other.load() is None
    await other.store(first.cursor, b"one")
    await snapshots.discard()
    assert await snapshots.load() is None
    assert await other.load() is not None


async def test_a_snapshot_of_another_format_is_none_and_gives_way(log: PostgresEventLog, database: Database) -> None:
    first, second = await store(log, "s", *[JobStarted(job_id="a", attempt=n) for n in (1, 2)])
    await PostgresSnapshots(database, "cluster", 1).store(second.cursor, b"of old")
    new = PostgresSnapshots(database, "cluster", 2)
    assert await new.load() is None
    # Also where the old program had come further.
    await new.store(first.cursor, b"of today")
    found = await new.load()
    assert found is not None
    assert found.data == b"of today"


async def test_a_snapshot_of_another_log_is_none(log: PostgresEventLog, database: Database) -> None:
    """Its cursor names no event here: the log was restored from an older dump."""
    (event,) = await store(log, "s", JobStarted(job_id="a", attempt=1))
    snapshots = PostgresSnapshots(database, "cluster", 1)
    await snapshots.store(Cursor(event.cursor.xid + 5, event.cursor.position + 5), b"of a future that was lost")
    assert await snapshots.load() is None
