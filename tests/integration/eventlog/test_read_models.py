"""Read models against the fold, the invariants and the rebuild."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime
from typing import Any

import pytest

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobResult,
    JobRetried,
    JobStarted,
    JobSucceeded,
    JobType,
    Message,
    Normalisation,
    SeatGranted,
    SeatReleased,
)
from microtome.domain.workflow import JobStatus, Workflow, evolve
from microtome.errors import ConcurrencyConflict, Conflict, NotFound
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels import rebuild as rebuilding
from microtome.readmodels.queries import Queries
from microtome.readmodels.rebuild import rebuild, verify
from tests.integration.eventlog.facts import fact, slide, store, submitted

LATER = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


@pytest.fixture
def queries(database: Database) -> Queries:
    return Queries(database)


async def fold(log: PostgresEventLog, workflow_id: str) -> Workflow:
    state = None
    for event in await log.read_stream(f"workflow-{workflow_id}"):
        state = evolve(state, event.message, event.at)
    assert state is not None
    return state


async def seat(log: PostgresEventLog, user: str = "ada", number: int = 0) -> None:
    await store(log, "seats", SeatGranted(user_id=user, seat=number), tenant=user)


def planned(job: str, attempt: int) -> JobPlanned:
    return JobPlanned(
        job_id=job,
        attempt=attempt,
        tiles_total=120,
        tiles_skipped=20,
        normalisation=Normalisation(low=(1.0, 2.5, 3.0), high=(250.0, 251.0, 252.0)),
        scale=2.0,
        model="embedded",
        model_digest="cd" * 32,
    )


RESULT = JobResult(tiles_total=120, tiles_processed=100, tiles_cached=3, cells=2**40, engine="cpu", notes=("said",))

LIFE: list[Message] = [
    JobStarted(job_id="w-a", attempt=1, slot=3),
    planned("w-a", 1),
    JobAttemptLost(job_id="w-a", attempt=1, owner="tiler-1", reason="lease expired"),
    JobStarted(job_id="w-a", attempt=2, slot=1),
    JobFailed(job_id="w-a", attempt=2, code="unavailable", detail="gone", transient=True, retry_at=LATER),
    JobStarted(job_id="w-a", attempt=3, slot=0),
    planned("w-a", 3),
    JobFailed(job_id="w-a", attempt=3, code="unreadable-slide", detail="torn"),
    JobRetried(job_id="w-a"),
    JobStarted(job_id="w-a", attempt=4, slot=2),
    JobSucceeded(job_id="w-a", attempt=4, result=RESULT),
    JobStarted(job_id="w-b", attempt=1, slot=2),
    JobCancelled(job_id="w-b"),
    JobRetried(job_id="w-b"),
    JobCancelled(job_id="w-b"),
    JobCancelled(job_id="w-c"),
]


async def test_after_every_event_the_rows_are_the_fold(log: PostgresEventLog, queries: Queries) -> None:
    await seat(log)
    jobs = {"a": ("left", ()), "b": ("left", ()), "c": ("right", ("a", "b"))}
    (event,) = await store(log, "workflow-w", submitted("w", jobs))
    for message in (None, *LIFE):
        if message is not None:
            (event,) = await store(log, "workflow-w", message)
        record = await queries.workflow("ada", "w")
        assert record.state == await fold(log, "w"), message
        assert (record.version, record.cursor) == (event.version, event.cursor)
    assert record.state.jobs["w-a"].result == RESULT


async def test_a_slide_comes_back_as_it_was_registered(log: PostgresEventLog, queries: Queries) -> None:
    (stored,) = await store(log, "slide-slide-1", slide())
    record = await queries.slide("ada", "slide-1")
    assert (record.facts, record.registered_at) == (slide(), stored.at)
    assert (await queries.find_slides("ada")).items == (record,)


async def test_a_foreign_id_is_not_found_and_lists_hold_ones_own(log: PostgresEventLog, queries: Queries) -> None:
    for user in ("ada", "bob"):
        await store(log, f"slide-of-{user}", slide(f"of-{user}", user), tenant=user)
        await store(log, f"workflow-of-{user}", submitted(f"of-{user}", {"a": ("x", ())}, user), tenant=user)
    asked: list[Any] = [
        (queries.slide, "of-bob"),
        (queries.workflow, "of-bob"),
        (queries.workflow_of, "of-bob-a"),
        (queries.job, "of-bob-a"),
    ]
    for question, identity in asked:
        await question("bob", identity)
        with pytest.raises(NotFound):
            await question("ada", identity)
    assert [record.facts.slide_id for record in (await queries.find_slides("ada")).items] == ["of-ada"]
    assert [record.state.workflow_id for record in (await queries.find_workflows("ada")).items] == ["of-ada"]
    assert [record.job.job_id for record in (await queries.find_jobs("ada")).items] == ["of-ada-a"]


async def test_workflows_come_newest_first_up_to_a_limit(log: PostgresEventLog, queries: Queries) -> None:
    for number in range(4):
        await store(log, f"workflow-w{number}", submitted(f"w{number}", {"a": ("x", ()), "b": ("x", ())}))
    records = (await queries.find_workflows("ada", limit=3)).items
    assert [record.state.workflow_id for record in records] == ["w3", "w2", "w1"]
    assert all(list(r.state.jobs) == [f"{r.state.workflow_id}-a", f"{r.state.workflow_id}-b"] for r in records)


async def test_a_worker_gets_all_it_needs_in_one_read(log: PostgresEventLog, queries: Queries) -> None:
    await seat(log)
    await store(log, "slide-slide-1", slide())
    await store(log, "workflow-w", submitted("w", {"a": ("x", ()), "b": ("x", ("a",))}))
    await store(log, "workflow-w", JobStarted(job_id="w-a", attempt=1, slot=0), planned("w-a", 1))
    context = await queries.job_context("w-b")
    assert (context.workflow_id, context.user_id, context.status, context.attempt) == ("w", "ada", "PENDING", 0)
    assert context.slide == slide()
    assert [(d.job_id, d.type, d.status, d.attempt) for d in context.dependencies] == [
        ("w-a", JobType.SEGMENT_CELLS, JobStatus.RUNNING, 1)
    ]
    context = await queries.job_context("w-a")
    assert (context.status, context.attempt, context.planned) == ("RUNNING", 1, planned("w-a", 1))
    assert context.spec.parameters is not None
    assert context.spec.parameters.mpp == 0.25
    assert [(record.job.slot, record.user_id) for record in await queries.running()] == [(0, "ada")]
    assert [(s.seat, s.user_id) for s in await queries.seats()] == [(0, "ada")]
    assert (await queries.jobs_by_status())[JobStatus.RUNNING] == 1
    with pytest.raises(NotFound):
        await queries.job_context("nothing")


@pytest.mark.parametrize(
    ("messages", "error", "says"),
    [
        ([JobStarted(job_id="w-b", attempt=1, slot=1)], ConcurrencyConflict, "jobs_one_running_per_branch"),
        ([JobStarted(job_id="w-c", attempt=1, slot=0)], ConcurrencyConflict, "jobs_one_per_slot"),
        ([JobStarted(job_id="v-a", attempt=1, slot=0)], Conflict, "not there"),
        ([JobStarted(job_id="unknown", attempt=1, slot=5)], Conflict, "not there"),
    ],
)
async def test_the_schema_refuses_what_the_scheduling_law_forbids(
    log: PostgresEventLog, messages: list[Message], error: type[Exception], says: str
) -> None:
    await seat(log)
    await store(log, "workflow-w", submitted("w", {"a": ("x", ()), "b": ("x", ()), "c": ("y", ())}))
    await store(log, "workflow-w", JobStarted(job_id="w-a", attempt=1, slot=0))
    with pytest.raises(error, match=says):
        await store(log, "workflow-w", *messages)
    assert len(await log.read_stream("workflow-w")) == 2


async def test_only_jobs_of_seated_users_run(log: PostgresEventLog, queries: Queries) -> None:
    await store(log, "workflow-w", submitted("w", {"a": ("x", ())}))
    started = JobStarted(job_id="w-a", attempt=1, slot=0)
    with pytest.raises(Conflict, match="jobs_user_holds_seat"):
        await store(log, "workflow-w", started)
    # In one append the order does not matter: the law holds at the commit.
    await log.append(
        Append("workflow-w", 1, (fact(started),)), Append("seats", 0, (fact(SeatGranted(user_id="ada", seat=2)),))
    )
    with pytest.raises(Conflict, match="jobs_user_holds_seat"):
        await store(log, "seats", SeatReleased(user_id="ada", seat=2))
    await log.append(
        Append("seats", 1, (fact(SeatReleased(user_id="ada", seat=2)),)),
        Append("workflow-w", 2, (fact(JobSucceeded(job_id="w-a", attempt=1, result=RESULT)),)),
    )
    assert await queries.seats() == ()
    assert (await queries.job("ada", "w-a")).job.status is JobStatus.SUCCEEDED


async def test_a_seat_has_one_user_and_a_user_one_seat(log: PostgresEventLog) -> None:
    await seat(log, "ada", 0)
    for user, number in (("bob", 0), ("ada", 1)):
        with pytest.raises(ConcurrencyConflict, match="seats_"):
            await seat(log, user, number)
    with pytest.raises(Conflict):
        await store(log, "seats", SeatReleased(user_id="bob", seat=0))


async def _random_history(log: PostgresEventLog, chance: random.Random, workflows: int, steps: int) -> None:
    for number in range(3):
        await seat(log, f"user{number}", number)
    for number in range(workflows):
        user = f"user{number % 3}"
        await store(log, f"slide-s{number}", slide(f"s{number}", user), tenant=user)
        jobs = {f"j{k}": (f"b{k}", ()) for k in range(4)}
        await store(log, f"workflow-w{number}", submitted(f"w{number}", jobs, user), tenant=user)
    for step in range(steps):
        workflow, key = f"w{chance.randrange(workflows)}", f"j{chance.randrange(4)}"
        job = (await fold(log, workflow)).jobs[f"{workflow}-{key}"]
        name, attempt = job.job_id, job.attempt
        message: Message
        if job.status is JobStatus.PENDING:
            message = JobStarted(job_id=name, attempt=attempt + 1, slot=step)
        elif job.status is JobStatus.RUNNING:
            message = chance.choice(
                [
                    planned(name, attempt),
                    JobSucceeded(job_id=name, attempt=attempt, result=RESULT),
                    JobFailed(job_id=name, attempt=attempt, code="x", detail="y", transient=True, retry_at=LATER),
                    JobFailed(job_id=name, attempt=attempt, code="x", detail="y"),
                    JobAttemptLost(job_id=name, attempt=attempt, reason="lost"),
                    JobCancelled(job_id=name),
                ]
            )
        else:
            message = JobRetried(job_id=name)
        await store(log, f"workflow-{workflow}", message)


async def test_a_rebuild_gives_identical_rows(
    log: PostgresEventLog, database: Database, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Small pages, so that the replay pages and stops in the middle of appends.
    monkeypatch.setattr("microtome.readmodels.rebuild.PAGE", 7)
    await _random_history(log, random.Random(5), workflows=5, steps=120)
    # The one stream that spans many pages.
    for _ in range(20):
        await store(log, "seats", SeatGranted(user_id="eve", seat=9), SeatReleased(user_id="eve", seat=9))
    await seat(log, "eve", 9)
    assert await verify(database) == ()
    before = await _rows(database)
    indexes = await _structure(database)
    assert await rebuild(database) == len(await log.read_all())
    assert await _rows(database) == before
    assert await _structure(database) == indexes
    assert await verify(database) == ()
    # Life goes on in the new tables, with their invariants.
    await store(log, "workflow-new", submitted("new", {"a": ("x", ())}, "user0"))
    with pytest.raises(NotFound):
        await queries.workflow("user1", "new")
    with pytest.raises(Conflict, match="jobs_user_holds_seat"):
        await store(log, "seats", *[SeatReleased(user_id=f"user{n}", seat=n) for n in range(3)])


async def test_verify_finds_what_someone_changed_by_hand_and_rebuild_repairs_it(
    log: PostgresEventLog, database: Database
) -> None:
    await _random_history(log, random.Random(6), workflows=2, steps=10)
    async with database.connection() as connection:
        await connection.execute("update jobs set key = 'forged' where job_id = 'w0-j0'")
        await connection.execute("delete from slides where slide_id = 's1'")
    found = {(difference.table, difference.side) for difference in await verify(database)}
    assert found == {("jobs", "table"), ("jobs", "log"), ("slides", "log")}
    await rebuild(database)
    assert await verify(database) == ()


async def test_readers_and_writers_go_on_during_rebuild_and_verify(
    log: PostgresEventLog, database: Database, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is told that what is there is not, no append is lost from the rows, and nothing seems to differ."""
    monkeypatch.setattr("microtome.readmodels.rebuild.PAGE", 5)
    await _random_history(log, random.Random(8), workflows=3, steps=30)
    done = asyncio.Event()
    written = 0

    async def write() -> None:
        nonlocal written
        while not done.is_set():
            number = written
            await store(log, f"workflow-n{number}", submitted(f"n{number}", {"a": ("x", ())}, "user0"))
            slot = 100_000 + number
            await store(log, f"workflow-n{number}", JobStarted(job_id=f"n{number}-a", attempt=1, slot=slot))
            written += 1
            await store(log, f"slide-n{number}", slide(f"n{number}", "user0"))

    async def read() -> None:
        while not done.is_set():
            await queries.workflow("user0", "w0")
            await queries.workflow_of("user1", "w1-j2")

    going = asyncio.gather(write(), read(), read())
    try:
        for _ in range(3):
            assert await verify(database) == ()
            await rebuild(database)
    finally:
        done.set()
        await going
    assert written >= 3
    assert await verify(database) == ()
    assert len((await queries.find_workflows("user0", limit=1000)).items) == written + 1


async def test_what_is_appended_while_verify_compares_is_seen_at_once_and_is_no_difference(
    log: PostgresEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is made to wait at a row that differs; the log's readers must not wait with it."""
    await _random_history(log, random.Random(9), workflows=2, steps=10)
    original = rebuilding._differing
    monkeypatch.setattr(
        rebuilding,
        "_differing",
        lambda table: original(table).replace("select ", "select pg_advisory_lock_shared(4711), ", 1),
    )
    catch_up = rebuilding._Shadow.catch_up

    async def then_more(shadow: Any) -> None:
        await catch_up(shadow)
        # One that is new to the transaction which compares.
        number = len(await log.read_all())
        await store(log, f"slide-late{number}", slide(f"late{number}", "user0"))

    monkeypatch.setattr(rebuilding._Shadow, "catch_up", then_more)
    async with database.connection() as connection, database.session() as holder:
        await connection.execute("update slides set filename = 'forged' where slide_id = 's1'")
        await holder.execute("select pg_advisory_lock(4711)")
        verifying = asyncio.create_task(verify(database))
        async with asyncio.timeout(10):
            while not await connection.fetchval("select count(*) from pg_locks where not granted"):
                await asyncio.sleep(0.01)
        before = await log.read_all()
        await store(log, "slide-new", slide("new", "user0"))
        assert len(await log.read_all()) == len(before) + 1
        assert await log.oldest_writer() == 0
        await holder.execute("select pg_advisory_unlock(4711)")
        found = {(difference.table, difference.side) for difference in await verifying}
    assert found == {("slides", "table"), ("slides", "log")}


async def test_streams_that_move_before_the_comparison_are_compared_as_of_its_snapshot(
    log: PostgresEventLog, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the shadow's last fold and the snapshot: one workflow and the seats move, and one row is forged."""
    await _random_history(log, random.Random(10), workflows=2, steps=10)
    original = rebuilding._Shadow.catch_up

    async def then_more(shadow: Any) -> None:
        await original(shadow)
        await store(log, "workflow-moved", submitted("moved", {"a": ("x", ()), "b": ("x", ())}, "user0"))
        await store(log, "seats", SeatGranted(user_id="eve", seat=9))
        await store(log, "slide-moved", slide("moved", "user0"))
        await shadow.writer.execute("update jobs set key = 'forged' where job_id = 'moved-b'")

    monkeypatch.setattr(rebuilding._Shadow, "catch_up", then_more)
    found = [(difference.table, difference.side) for difference in await verify(database)]
    assert found == [("jobs", "table"), ("jobs", "log")]


async def _rows(database: Database) -> dict[str, list[str]]:
    async with database.connection() as connection:
        return {
            table: [row[0] for row in await connection.fetch(f"select to_jsonb(t)::text from {table} t order by 1")]
            for table in ("slides", "workflows", "jobs", "seats")
        }


async def _structure(database: Database) -> list[str]:
    """Every index and constraint of the read models, as text."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "select indexdef as text from pg_indexes where schemaname = 'public' "
            "and tablename in ('slides', 'workflows', 'jobs', 'seats') union all "
            "select conrelid::regclass || conname || pg_get_constraintdef(oid) from pg_constraint "
            "where connamespace = 'public'::regnamespace order by 1"
        )
    return [row["text"] for row in rows]
