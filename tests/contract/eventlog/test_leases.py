"""The laws of leases; every keeper must keep them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobPreempted,
    JobStarted,
    JobSucceeded,
    Message,
    SeatGranted,
)
from microtome.errors import Busy, StaleAttempt, Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import EventLog
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.postgres import PostgresEventLog
from microtome.leases.lease import Lease, Leases, Progress, Standing
from microtome.leases.memory import MemoryLeases
from microtome.leases.postgres import PostgresLeases
from microtome.readmodels.projection import ReadModels
from tests.integration.eventlog.facts import store, submitted

LONG = 600.0
SHORT = 0.02
PAST_SHORT = 0.15


@dataclass
class World:
    """A log in which jobs w-a and w-b are, and keepers with any durations."""

    log: EventLog
    make: Callable[[float, float], Leases]

    async def say(self, *messages: Message) -> None:
        await store(self.log, "workflow-w", *messages)

    async def start(self, attempt: int = 1, job: str = "w-a", slot: int = 0) -> None:
        await self.say(JobStarted(job_id=job, attempt=attempt, slot=slot))


class Settable(MemoryLeases):
    """Keepers of one memory, which differ in their durations only."""

    def like(self, lease_seconds: float, dispatch_seconds: float) -> Leases:
        other = Settable(lease_seconds, dispatch_seconds)
        other._running, other._held = self._running, self._held
        return other


@pytest.fixture(params=["memory", "postgres"])
async def world(request: pytest.FixtureRequest, database: Database) -> World:
    if request.param == "memory":
        memory = Settable()
        world = World(MemoryEventLog([memory]), memory.like)
    else:
        world = World(
            PostgresEventLog(database, [ReadModels()]), lambda lease, wait: PostgresLeases(database, lease, wait)
        )
    await store(world.log, "seats", SeatGranted(user_id="ada", seat=0))
    await world.say(submitted("w", {"a": ("x", ()), "b": ("y", ())}))
    return world


@pytest.fixture
def leases(world: World) -> Leases:
    """A keeper whose leases last."""
    return world.make(LONG, LONG)


async def test_only_the_current_attempt_of_a_running_job_can_be_taken(world: World, leases: Leases) -> None:
    with pytest.raises(StaleAttempt):
        await leases.take("w-a", 1, "o", "plan")
    await world.start()
    lease = await leases.take("w-a", 1, "o", "plan")
    assert lease == Lease(job_id="w-a", attempt=1, owner="o", stage="plan")
    for job, attempt in (("w-a", 2), ("w-a", 0), ("w-b", 1), ("unknown", 1)):
        with pytest.raises(StaleAttempt):
            await leases.take(job, attempt, "o", "plan")


async def test_a_live_owner_keeps_others_out(world: World, leases: Leases) -> None:
    await world.start()
    await leases.take("w-a", 1, "one", "plan")
    with pytest.raises(Busy):
        await leases.take("w-a", 1, "two", "plan")
    await leases.take("w-a", 1, "one", "plan")


async def test_of_many_takers_exactly_one_wins(world: World, leases: Leases) -> None:
    await world.start()
    results = await asyncio.gather(*[leases.take("w-a", 1, f"o{n}", "plan") for n in range(10)], return_exceptions=True)
    assert sum(isinstance(result, Lease) for result in results) == 1
    assert sum(isinstance(result, Busy) for result in results) == 9


async def test_an_expired_lease_can_be_taken_over_and_its_owner_is_fenced(world: World, leases: Leases) -> None:
    await world.start()
    first = await world.make(SHORT, LONG).take("w-a", 1, "one", "plan")
    await asyncio.sleep(PAST_SHORT)
    await leases.take("w-a", 1, "two", "plan")
    for refused in (leases.renew(first), leases.hand_over(first, "merge", LONG)):
        with pytest.raises(StaleAttempt):
            await refused
    await leases.release(first)  # does nothing to the new owner's
    assert (await leases.progress(["w-a"]))["w-a"].owner == "two"


@pytest.mark.parametrize(
    "end",
    [
        JobCancelled(job_id="w-a"),
        JobAttemptLost(job_id="w-a", attempt=1, reason="r"),
        JobPreempted(job_id="w-a", attempt=1),
        JobSucceeded(job_id="w-a", attempt=1),
    ],
    ids=lambda end: type(end).__name__,
)
async def test_the_end_of_an_attempt_makes_its_lease_stale(world: World, leases: Leases, end: Message) -> None:
    await world.start()
    lease = await leases.take("w-a", 1, "o", "plan")
    await leases.renew(lease)
    await world.say(end)
    for refused in (leases.renew(lease), leases.hand_over(lease, "merge", LONG), leases.take("w-a", 1, "o", "plan")):
        with pytest.raises(StaleAttempt):
            await refused
    assert await leases.expired() == ()
    assert await leases.progress(["w-a"]) == {}


async def test_the_next_attempt_takes_no_notice_of_the_old_lease(world: World, leases: Leases) -> None:
    await world.start()
    old = await leases.take("w-a", 1, "one", "infer")
    await leases.renew(old, Progress(tiles_total=9, tiles_processed=5, cells=7))
    await world.say(JobAttemptLost(job_id="w-a", attempt=1, reason="r"))
    await world.start(attempt=2)
    assert await leases.progress(["w-a"]) == {}
    await leases.take("w-a", 2, "two", "plan")
    with pytest.raises(StaleAttempt):
        await leases.renew(old)
    assert await leases.progress(["w-a"]) == {
        "w-a": Standing(attempt=2, stage="plan", owner="two", progress=Progress())
    }


async def test_progress_is_what_the_last_renewal_said(world: World, leases: Leases) -> None:
    await world.start()
    lease = await leases.take("w-a", 1, "o", "infer")
    done = Progress(tiles_total=120, tiles_processed=30, tiles_skipped=20, cells=2**40)
    await leases.renew(lease, done)
    await leases.renew(lease)
    assert await leases.progress(["w-a", "w-b", "unknown"]) == {
        "w-a": Standing(attempt=1, stage="infer", owner="o", progress=done)
    }
    assert await leases.progress([]) == {}


async def test_work_handed_over_waits_for_its_next_owner(world: World, leases: Leases) -> None:
    await world.start()
    lease = await leases.take("w-a", 1, "tiler", "infer")
    await leases.renew(lease, Progress(tiles_total=4, tiles_processed=4))
    await leases.hand_over(lease, "merge", LONG)
    assert await leases.expired() == ()
    with pytest.raises(StaleAttempt):
        await leases.renew(lease)
    merger = await leases.take("w-a", 1, "merger", "merge")
    assert (await leases.progress(["w-a"]))["w-a"].progress.tiles_processed == 4
    await leases.hand_over(merger, "merge", SHORT)
    await asyncio.sleep(PAST_SHORT)
    (expired,) = await leases.expired()
    assert (expired.owner, expired.stage) == (None, "merge")


async def test_expired_tells_dead_owners_from_work_that_nobody_took(world: World, leases: Leases) -> None:
    await world.start(job="w-a", slot=1)
    await world.start(job="w-b", slot=0)
    hasty = world.make(SHORT, SHORT)
    await hasty.take("w-a", 1, "tiler", "plan")
    await asyncio.sleep(PAST_SHORT)
    assert [(e.job_id, e.workflow_id, e.user_id, e.attempt, e.owner, e.stage) for e in await hasty.expired()] == [
        ("w-b", "w", "ada", 1, None, "queued"),
        ("w-a", "w", "ada", 1, "tiler", "plan"),
    ]
    # Who may wait longer for a taker sees only the dead owner.
    assert [expired.job_id for expired in await leases.expired()] == ["w-a"]


async def test_touch_grants_time_to_work_without_an_owner_only(world: World) -> None:
    await world.start(job="w-a", slot=0)
    await world.start(job="w-b", slot=1)
    hasty = world.make(SHORT, SHORT)
    await hasty.take("w-b", 1, "tiler", "plan")
    await asyncio.sleep(PAST_SHORT)
    await hasty.touch("w-a", 1, LONG)
    await hasty.touch("w-b", 1, LONG)
    await hasty.touch("unknown", 1, LONG)
    assert [expired.job_id for expired in await hasty.expired()] == ["w-b"]
    await hasty.touch("w-a", 1, 0.0)
    assert [expired.job_id for expired in await hasty.expired()] == ["w-a", "w-b"]
    await hasty.take("w-a", 1, "late", "plan")


async def test_released_work_is_published_again_at_once(world: World) -> None:
    await world.start()
    leases = world.make(LONG, SHORT)
    lease = await leases.take("w-a", 1, "o", "plan")
    await asyncio.sleep(PAST_SHORT)
    assert await leases.expired() == ()
    await leases.release(lease)
    (expired,) = await leases.expired()
    assert expired.owner is None


async def test_keep_renews_while_the_body_runs(world: World) -> None:
    await world.start()
    leases = world.make(2.0, LONG)
    lease = await leases.take("w-a", 1, "o", "infer")
    tiles = 0

    def progress() -> Progress:
        return Progress(tiles_total=9, tiles_processed=tiles)

    async with leases.keep(lease, 0.05, progress):
        for tiles in range(1, 6):  # noqa: B007 - read by progress
            await asyncio.sleep(0.1)
    assert (await leases.progress(["w-a"]))["w-a"].progress.tiles_processed >= 4
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "renew lease"]


async def test_keep_cancels_the_body_when_the_attempt_is_fenced(world: World, leases: Leases) -> None:
    await world.start()
    lease = await leases.take("w-a", 1, "o", "infer")
    cleaned = False
    begun = time.monotonic()
    with pytest.raises(StaleAttempt):  # noqa: PT012 - the body is what is tested
        async with leases.keep(lease, 0.05):
            await world.say(JobCancelled(job_id="w-a"))
            try:
                await asyncio.sleep(60)
            finally:
                cleaned = True
    assert cleaned
    assert time.monotonic() - begun < 30
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # no cancellation is left over


async def test_keep_leaves_a_cancellation_from_outside_and_errors_of_the_body_alone(
    world: World, leases: Leases
) -> None:
    await world.start()
    lease = await leases.take("w-a", 1, "o", "infer")

    async def work() -> None:
        async with leases.keep(lease, 0.05):
            await asyncio.sleep(60)

    working = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    with pytest.raises(ZeroDivisionError):
        async with leases.keep(lease, 0.05):
            raise ZeroDivisionError


class Flaky(MemoryLeases):
    """A keeper that does not answer for a while."""

    failures = 3
    renewals = 0

    async def renew(self, lease: Lease, progress: Progress | None = None) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise Unavailable
        self.renewals += 1
        await super().renew(lease, progress)


async def test_keep_goes_on_while_the_keeper_does_not_answer() -> None:
    flaky = Flaky()
    log = MemoryEventLog([flaky])
    await store(log, "workflow-w", JobStarted(job_id="w-a", attempt=1))
    lease = await flaky.take("w-a", 1, "o", "infer")
    async with flaky.keep(lease, 0.01):
        while flaky.renewals < 2:
            await asyncio.sleep(0.01)
    assert flaky.failures < 0
