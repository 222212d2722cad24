"""Lists: filters, paging, what a user takes up, and that all of it stays fast."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import orjson
import pytest

from microtome.contracts.messages import (
    Artifact,
    ArtifactsDeleted,
    JobCancelled,
    JobResult,
    JobStarted,
    JobSucceeded,
    SeatGranted,
    SlideDeleted,
)
from microtome.domain import eligibility
from microtome.domain.state import JobStatus, WorkflowStatus
from microtome.errors import InvalidRequest, NotFound
from microtome.eventlog.database import Database
from microtome.eventlog.log import Cursor
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels import listing
from microtome.readmodels.listing import (
    ANY_JOB,
    ANY_WORKFLOW,
    JobFilter,
    Page,
    SlideFilter,
    WorkflowFilter,
    decode,
    encode,
)
from microtome.readmodels.queries import Queries, WorkflowRecord
from tests.integration.eventlog.facts import slide, store, submitted

T = TypeVar("T")
RESULT = JobResult(artifacts=(Artifact(name="a", size_bytes=2**33), Artifact(name="b", size_bytes=7)))


@pytest.fixture
def queries(database: Database) -> Queries:
    return Queries(database)


async def life(log: PostgresEventLog) -> None:
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    for number in range(9):
        jobs = {"cells_1": ("left", ()), "cells%2": ("right", ())}
        await store(log, f"workflow-w{number}", submitted(f"w{number}", jobs))
    await store(log, "workflow-bobs", submitted("bobs", {"a": ("left", ())}, "bob"), tenant="bob")
    await store(log, "workflow-w1", JobStarted(job_id="w1-cells_1", attempt=1, slot=0))
    await store(log, "workflow-w2", JobStarted(job_id="w2-cells_1", attempt=1, slot=1))
    await store(log, "workflow-w2", JobSucceeded(job_id="w2-cells_1", attempt=1, result=RESULT))
    for job in ("w3-cells_1", "w3-cells%2"):
        await store(log, "workflow-w3", JobCancelled(job_id=job))


def workflow_id(record: WorkflowRecord) -> str:
    return record.state.workflow_id


async def every_page(find: Callable[[str | None], Awaitable[Page[T]]], identity: Callable[[T], str]) -> list[list[str]]:
    pages, cursor = [], None
    while True:
        page = await find(cursor)
        pages.append([identity(item) for item in page.items])
        cursor = page.next_cursor
        if cursor is None:
            return pages


async def test_pages_follow_each_other_without_gap_or_repeat(log: PostgresEventLog, queries: Queries) -> None:
    await life(log)
    assert await every_page(partial(queries.find_workflows, "ada", ANY_WORKFLOW, 4), workflow_id) == [
        ["w8", "w7", "w6", "w5"],
        ["w4", "w3", "w2", "w1"],
        ["w0"],
    ]
    # A page that is just full is the last one.
    assert [
        len(page) for page in await every_page(partial(queries.find_workflows, "ada", ANY_WORKFLOW, 9), workflow_id)
    ] == [9]
    jobs = await every_page(partial(queries.find_jobs, "ada", ANY_JOB, 5), lambda record: record.job.job_id)
    flat = [job_id for page in jobs for job_id in page]
    assert flat == [f"w{n}-{key}" for n in range(8, -1, -1) for key in ("cells%2", "cells_1")]
    # What comes meanwhile is not in the way.
    first = await queries.find_workflows("ada", limit=2)
    await store(log, "workflow-new", submitted("new", {"a": ("x", ())}))
    second = await queries.find_workflows("ada", limit=2, cursor=first.next_cursor)
    assert [record.state.workflow_id for record in (*first.items, *second.items)] == ["w8", "w7", "w6", "w5"]


async def ids(queries: Queries, **wanted: object) -> list[str]:
    page = await queries.find_workflows("ada", WorkflowFilter(**wanted))  # type: ignore[arg-type]
    return [record.state.workflow_id for record in page.items]


async def keys(queries: Queries, **wanted: object) -> list[str]:
    page = await queries.find_jobs("ada", JobFilter(**wanted))  # type: ignore[arg-type]
    return [record.job.job_id for record in page.items]


async def test_every_filter_does_what_it_says(log: PostgresEventLog, queries: Queries) -> None:
    await life(log)
    assert await ids(queries, statuses=(WorkflowStatus.RUNNING,)) == ["w2", "w1"]
    assert await ids(queries, statuses=(WorkflowStatus.RUNNING, WorkflowStatus.CANCELLED)) == ["w3", "w2", "w1"]
    assert await ids(queries, name="OF W7") == ["w7"]
    # Characters that mean something to LIKE mean themselves.
    assert await ids(queries, name="%") == []
    assert await ids(queries, name="\\") == []
    assert len(await ids(queries, slide_id="slide-1")) == 9
    assert await ids(queries, slide_id="other") == []
    assert len(await ids(queries, branch="left", name="w1")) == 1
    assert await keys(queries, statuses=(JobStatus.SUCCEEDED,)) == ["w2-cells_1"]
    assert await keys(queries, statuses=(JobStatus.SUCCEEDED, JobStatus.RUNNING)) == ["w2-cells_1", "w1-cells_1"]
    assert await keys(queries, workflow_id="w4") == ["w4-cells%2", "w4-cells_1"]
    assert await keys(queries, workflow_id="bobs") == []
    assert await keys(queries, workflow_id="w4", branch="left") == ["w4-cells_1"]
    assert await keys(queries, workflow_id="w4", name="S%") == ["w4-cells%2"]
    assert await keys(queries, workflow_id="w4", name="s_1") == ["w4-cells_1"]
    assert len(await keys(queries, slide_id="slide-1")) == 18


async def test_the_status_of_a_workflow_is_listed_as_it_is_shown(log: PostgresEventLog, queries: Queries) -> None:
    await life(log)
    for status in WorkflowStatus:
        for record in (await queries.find_workflows("ada", WorkflowFilter(statuses=(status,)))).items:
            assert eligibility.status(record.state) is status


async def test_deleted_slides_are_not_listed_but_known(log: PostgresEventLog, queries: Queries) -> None:
    for number in range(3):
        await store(log, f"slide-s{number}", slide(f"s{number}"))
    (deleted,) = await store(log, "slide-s1", SlideDeleted(slide_id="s1"))
    assert [record.facts.slide_id for record in (await queries.find_slides("ada")).items] == ["s2", "s0"]
    page = await queries.find_slides("ada", SlideFilter(deleted=True, name="cmu"), limit=2)
    assert [record.facts.slide_id for record in page.items] == ["s2", "s1"]
    page = await queries.find_slides("ada", SlideFilter(deleted=True), limit=2, cursor=page.next_cursor)
    assert [record.facts.slide_id for record in page.items] == ["s0"]
    with pytest.raises(NotFound):
        await queries.slide("ada", "s1")
    assert (await queries.slide("ada", "s1", deleted=True)).deleted_at == deleted.at


async def test_usage_counts_what_is_there(log: PostgresEventLog, queries: Queries) -> None:
    await life(log)
    await store(log, "slide-s1", slide("s1"))
    await store(log, "slide-s2", slide("s2"))
    usage = await queries.usage("ada")
    assert (usage.slides, usage.slide_bytes, usage.workflows) == (2, 10_000_000_000, 9)
    assert usage.artifact_bytes == 2**33 + 7
    assert usage.bytes_stored == 10_000_000_000 + 2**33 + 7
    assert usage.jobs[JobStatus.PENDING] == 14
    assert (usage.jobs[JobStatus.RUNNING], usage.jobs[JobStatus.CANCELLED], usage.jobs[JobStatus.DRAFT]) == (1, 2, 0)
    await store(log, "slide-s1", SlideDeleted(slide_id="s1"))
    await store(log, "workflow-w2", ArtifactsDeleted(job_id="w2-cells_1", attempt=1))
    usage = await queries.usage("ada")
    assert (usage.slides, usage.slide_bytes, usage.artifact_bytes) == (1, 5_000_000_000, 0)
    nobody = await queries.usage("nobody")
    assert (nobody.bytes_stored, sum(nobody.jobs.values())) == (0, 0)


async def test_the_events_of_a_workflow_are_its_users_alone(log: PostgresEventLog, queries: Queries) -> None:
    await life(log)
    stream = await log.read_stream("workflow-w2")
    assert await queries.events("ada", "w2") == stream
    assert await queries.events("ada", "w2", stream[0].cursor, limit=1) == stream[1:2]
    assert await queries.events("ada", "w2", stream[-1].cursor) == ()
    assert await queries.events("ada", "w2", Cursor(2**63, 1)) == ()
    for user, workflow in (("bob", "w2"), ("ada", "bobs"), ("ada", "none")):
        with pytest.raises(NotFound):
            await queries.events(user, workflow)


def test_a_cursor_names_a_place_and_nothing_else() -> None:
    at = datetime(2026, 11, 22, 10, 19, 0, 123456, tzinfo=UTC)
    assert decode(encode(at, "w1"), 2) == (at, "w1")
    assert decode(encode(at, "w1", 7), 3) == (at, "w1", 7)
    for cursor, length in (
        ("", 2),
        ("x", 2),
        ("%%%", 2),
        ("ünïcode", 2),
        (encode(at, "w1", 7), 2),
        (encode(at, "w1"), 3),
        (encode(at, "nul\0"), 2),
        (encode(at, "w1", 2**31), 3),
        (encode(at, "w1", -1), 3),
        (encode(datetime(1, 1, 1, tzinfo=UTC), "w1"), 2),
        ("e30", 2),
        ("WzEsInciLHRydWVd", 3),
    ):
        with pytest.raises(InvalidRequest):
            decode(cursor, length)


async def test_pages_have_a_size(queries: Queries) -> None:
    for limit in (0, -1, listing.MAX_LIMIT + 1):
        with pytest.raises(InvalidRequest, match="page"):
            await queries.find_jobs("ada", limit=limit)
    with pytest.raises(InvalidRequest, match="cursor"):
        await queries.find_jobs("ada", cursor="nonsense")


MANY = """
insert into workflows (workflow_id, user_id, name, created_at, version, xid, position, submitted, next_turn, status)
select 'w' || n, 'user' || n % 4, 'name ' || n, timestamptz '2026-01-01' + n * interval '1 minute', 1, '3', n, 4, 4,
       case when n % 100 = 0 then 'FAILED' else 'SUCCEEDED' end
from generate_series(1, 25000) n;
insert into jobs (job_id, workflow_id, user_id, ordinal, key, type, slide_id, branch, depends_on, status, attempt,
                  failures, created_at, turn, finished_at)
select 'w' || n || '-' || k, 'w' || n, 'user' || n % 4, k, 'k' || k, 2, 'slide' || n % 500, 'b', '{}',
       case when n % 100 = 0 then 'FAILED' else 'SUCCEEDED' end, 1, 0,
       timestamptz '2026-01-01' + n * interval '1 minute', k, now()
from generate_series(1, 25000) n, generate_series(0, 3) k;
"""


async def test_lists_of_many_are_read_from_an_index_in_their_order(database: Database, queries: Queries) -> None:
    """100,000 jobs: a page in the middle costs what it shows, not what lies before or around it."""
    async with database.session() as connection:
        await connection.execute(MANY)
        await connection.execute("vacuum analyze jobs, workflows")
    middle = datetime(2026, 1, 9, tzinfo=UTC)
    failed = (WorkflowStatus.FAILED,)
    searches = {
        "workflows": listing.workflows("user1", WorkflowFilter()),
        "workflows of a status": listing.workflows("user1", WorkflowFilter(statuses=failed)),
        "jobs": listing.jobs("user1", JobFilter()),
        "jobs of a status": listing.jobs("user0", JobFilter(statuses=(JobStatus.FAILED,))),
        "jobs of a workflow": listing.jobs("user1", JobFilter(workflow_id="w101")),
    }
    for what, search in searches.items():
        place = decode(encode(middle, "w11520", 1), 3) if "jobs" in what else decode(encode(middle, "w11520"), 2)
        search.where(f"({', '.join(search.order)}) < ({', '.join('{}' for _ in place)})", *place)
        async with database.connection() as connection:
            plan = await connection.fetchval(
                f"explain (analyze, buffers, format json) {search.sql(50)}", *search.arguments
            )
        top = orjson.loads(plan)[0]["Plan"]
        touched = top["Shared Hit Blocks"] + top["Shared Read Blocks"]
        assert "Seq Scan" not in plan, (what, plan)
        assert touched < 400, (what, touched, plan)
    chance = random.Random(3)
    for _ in range(5):
        user = f"user{chance.randrange(4)}"
        by_slide = await queries.find_workflows(
            user, WorkflowFilter(slide_id=f"slide{chance.randrange(500)}"), limit=20
        )
        assert all(record.state.user_id == user for record in by_slide.items)
    assert (await queries.usage("user1")).jobs[JobStatus.SUCCEEDED] == 25_000
