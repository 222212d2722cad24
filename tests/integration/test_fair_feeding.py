"""One user's large jobs and another's small one on a real queue: how many tiles are served before the small job ends.

What serves the queue counts tiles instead of computing them, so the bound is about order, not about time.
"""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from microtome.bus import subjects
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.topology import infer
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import InferWork, TileRef, TilesInferred
from microtome.leases.lease import Progress, Standing
from services.tiler.feeding import Address, Feeder
from services.tiler.sharing import Shares

CREDIT, BATCH = 4, 2
SMALL = 20
# More than is served in any of these tests.
LARGE = 3_000


@dataclass
class Floor:
    """Tilers that share one queue, and the order in which its tiles are served."""

    bus: JetStreamBus
    digest: str = field(default_factory=lambda: uuid.uuid4().hex + uuid.uuid4().hex)
    served: list[str] = field(default_factory=list)

    async def feed(self, job: str, tiles: int, share: Callable[[], int]) -> None:
        wanted = [(number, 0) for number in range(tiles)]

        async def decode(addresses: Sequence[Address]) -> InferWork:
            refs = tuple(TileRef(row=row, column=column, pixels="") for row, column in addresses)
            return InferWork(job_id=job, attempt=1, model_digest=self.digest, tiles=refs)

        async def nothing(_addresses: Sequence[Address] = ()) -> frozenset[Address]:
            return frozenset()

        feeder = Feeder(
            self.bus,
            subjects.work_infer(self.digest, "auto"),
            job,
            1,
            handling=f"{self.digest}:{job}",
            share=share,
            batch_size=BATCH,
            stalled_s=60,
            progress=lambda _done, _cells: None,
        )
        await feeder.feed(wanted, decode, nothing, nothing)

    async def serve(self) -> None:
        queue = await self.bus.queue(infer(self.digest, "auto"))
        try:
            while True:
                for delivery in await queue.fetch(BATCH):
                    work = from_bytes(InferWork, delivery.payload)
                    await asyncio.sleep(0.002)
                    self.served += [work.job_id] * len(work.tiles)
                    await delivery.ack()
                    told = TilesInferred(job_id=work.job_id, attempt=1, tiles=work.tiles)
                    await self.bus.announce(subjects.tiles(work.job_id, 1), to_bytes(told))
        finally:
            await queue.close()


@pytest.fixture
async def floor(nats_url: str) -> AsyncIterator[Floor]:
    bus = await JetStreamBus.connect(nats_url, name="test fairness")
    floor = Floor(bus)
    serving = asyncio.create_task(floor.serve())
    yield floor
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    await bus.close()


@contextlib.asynccontextmanager
async def large_jobs(floor: Floor, shares: list[Callable[[], int]]) -> AsyncIterator[None]:
    """Jobs of user A that nobody sees the end of, all of them running."""
    feeding = [asyncio.create_task(floor.feed(f"a{n}", LARGE, share)) for n, share in enumerate(shares)]
    try:
        async with asyncio.timeout(20):
            # Long enough for every job to have as much outstanding as it may.
            while len(set(floor.served)) < len(shares) or len(floor.served) < 40 * len(shares):
                await asyncio.sleep(0.005)
        yield
    finally:
        for task in feeding:
            task.cancel()
        await asyncio.gather(*feeding, return_exceptions=True)


async def served_for_the_small_one(floor: Floor, share: Callable[[], int]) -> int:
    """How many tiles of anybody are served from B's first wish to B's last tile."""
    before = len(floor.served)
    async with asyncio.timeout(30):
        await floor.feed("b", SMALL, share)
    last = len(floor.served) - floor.served[::-1].index("b")
    return last - before


@pytest.mark.parametrize("jobs", [1, 4, 6])
async def test_however_much_one_user_runs_another_one_gets_half(floor: Floor, jobs: int) -> None:
    shares = Shares(CREDIT, _Elsewhere(), _Elsewhere())
    with contextlib.ExitStack() as fed:
        for n in range(jobs):
            fed.enter_context(shares.feeding(f"a{n}", "ada"))
        async with large_jobs(floor, [lambda n=n: shares.of(f"a{n}") for n in range(jobs)]):
            fed.enter_context(shares.feeding("b", "bob"))
            served = await served_for_the_small_one(floor, lambda: shares.of("b"))
    # Half of the network is B's, after what A had in the queue, and give or take a batch on its way.
    assert SMALL <= served <= 2 * SMALL + 2 * CREDIT * BATCH


async def test_what_it_was_like_when_every_job_had_its_own_credit(floor: Floor) -> None:
    """The negative control: the bound above can be broken."""
    async with large_jobs(floor, 6 * [lambda: CREDIT]):
        assert await served_for_the_small_one(floor, lambda: CREDIT) > 2 * SMALL + 2 * CREDIT * BATCH


async def test_jobs_of_the_same_user_at_another_tiler_count_too() -> None:
    """A second or two after they began: from their leases."""
    here = Shares(CREDIT, _Elsewhere("far", "queued", "done"), _Elsewhere("far", "queued", "done"))
    looking = asyncio.create_task(here.look_for_ever())
    with here.feeding("near", "ada"):
        async with asyncio.timeout(10):
            while here.of("near") != CREDIT // 2:
                await asyncio.sleep(0.05)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)


@dataclass(frozen=True)
class _Job:
    job_id: str


@dataclass(frozen=True)
class _Record:
    job: _Job
    user_id: str = "ada"


class _Elsewhere:
    """What runs at other tilers, all of it ada's; by its name a job is in the middle, or not yet or no longer fed."""

    def __init__(self, *jobs: str) -> None:
        self._jobs = jobs

    async def running(self) -> tuple[_Record, ...]:
        return tuple(_Record(_Job(job)) for job in self._jobs)

    async def progress(self, job_ids: object) -> dict[str, Standing]:
        progress = {
            "far": Progress(tiles_total=10, tiles_processed=3, tiles_skipped=2),
            "queued": Progress(),
            "done": Progress(tiles_total=10, tiles_processed=8, tiles_skipped=2),
        }
        return {
            job: Standing(attempt=1, stage="plan", owner="tiler@far:1/x", progress=progress[job]) for job in self._jobs
        }
