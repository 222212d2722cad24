"""Two schedulers on real servers: the one that leads is killed, or stopped, while work goes on.

Workers are the real frame around bodies that only pass the time; the judge reads nothing but the log.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from microtome.bus.jetstream import JetStreamBus
from microtome.contracts.messages import JobSpec, JobStarted, JobType, SeatGranted, SeatReleased
from microtome.domain.limits import Limits
from microtome.domain.workflow import Submit, decide
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Append, StoredEvent
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.leases.postgres import PostgresLeases
from microtome.readmodels.projection import ReadModels
from microtome.workflows import Workflows, new_event, stream_of
from tests.acceptance import laws
from tests.conftest import PROJECT_ROOT
from tests.simulation import workers
from tests.simulation.wires import Weather

MAX_WORKERS, MAX_ACTIVE_USERS = 3, 2
USERS = ("ada", "ben", "cleo")
DECIDED = (JobStarted, SeatGranted, SeatReleased)
KILLS = 3
# From the death of the one to a decision of the other.
TAKEOVER_S = 3.0
# The server gives up a silent leader after 5 s.
STOPPED_S = 8.0


@dataclass
class Scheduler:
    """A scheduler process of the test's own."""

    process: asyncio.subprocess.Process
    log: Path

    @property
    def leads(self) -> bool:
        """Whether it leads, by what it said last."""
        said = self.log.read_text()
        return said.rfind("this scheduler leads") > said.rfind("not leading")


@dataclass
class Cluster:
    """A database, a broker, some schedulers, and a view of the log."""

    environment: dict[str, str]
    folder: Path
    log: PostgresEventLog
    schedulers: list[Scheduler] = field(default_factory=list)

    async def start(self) -> Scheduler:
        path = self.folder / f"scheduler-{len(self.schedulers)}.log"
        with path.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "services.scheduler",
                cwd=PROJECT_ROOT,
                env=self.environment,
                stdout=output,
                stderr=output,
            )
        self.schedulers.append(Scheduler(process, path))
        return self.schedulers[-1]

    async def leader(self) -> Scheduler:
        """The one that leads, of those that live."""
        alive = [each for each in self.schedulers if each.process.returncode is None]
        return await until(lambda: _first(each for each in alive if each.leads))

    async def events(self) -> list[StoredEvent]:
        found: list[StoredEvent] = []
        while page := await self.log.read_all(found[-1].cursor if found else START):
            found += page
        return found


def _first(found: Any) -> Any:
    async def look() -> Any:
        return next(iter(found), None)

    return look()


async def until(look: Callable[[], Awaitable[Any]], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (seen := await look()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return seen


def jobs(chance: random.Random) -> tuple[JobSpec, ...]:
    """A workflow of two branches, with a dependency from one to the other."""
    ids = [str(uuid.uuid4()) for _ in range(10)]
    return tuple(
        JobSpec(
            job_id=job_id,
            key=f"j{number}",
            type=JobType.TISSUE_MASK,
            slide_id="slide",
            branch="ab"[number % 2],
            depends_on=(ids[0],) if number == 5 else (),
            expected_tiles=chance.randint(1, 2),
        )
        for number, job_id in enumerate(ids)
    )


@pytest.fixture
async def cluster(database_url: str, fresh_nats_url: str, tmp_path: Path) -> AsyncIterator[Cluster]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(("libs", ".")),
        "MICROTOME_DATABASE_URL": database_url,
        "MICROTOME_NATS_URL": fresh_nats_url,
        "MICROTOME_DATA_DIR": str(tmp_path / "data"),
        "TILE_STORE_DIR": str(tmp_path / "tiles"),
        "MAX_WORKERS": str(MAX_WORKERS),
        "MAX_ACTIVE_USERS": str(MAX_ACTIVE_USERS),
        "LEASE_SECONDS": "3",
        "DISPATCH_SECONDS": "3",
        "SEAT_TENURE": "2",
        "SLICE_SECONDS": "1",
    }
    await migrate(database_url)
    async with await Database.connect(database_url) as database:
        cluster = Cluster(environment, tmp_path, PostgresEventLog(database, [ReadModels()]))
        tasks = await _workers(cluster, database, fresh_nats_url)
        yield cluster
        for scheduler in cluster.schedulers:
            if scheduler.process.returncode is None:
                scheduler.process.send_signal(signal.SIGCONT)
                scheduler.process.kill()
            await scheduler.process.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _workers(cluster: Cluster, database: Database, nats_url: str) -> list[asyncio.Task[None]]:
    """A tiler and a merger, in this process."""
    log, known = cluster.log, await _submit(cluster.log)
    leases = PostgresLeases(database, lease_seconds=3, dispatch_seconds=3)
    shop = workers.Shop(Weather(random.Random(7), bad=0.0), {}, transient=0.01, permanent=0.0, pace=0.2)
    tasks = []
    for name, work in (("tiler", workers.tile), ("merger", workers.merge)):
        bus: Any = await JetStreamBus.connect(nats_url, name=name)
        workflows = Workflows(log, Limits())
        framed = workers.frame(name, log, leases, workflows, known)  # type: ignore[arg-type]
        tasks.append(asyncio.create_task(work(framed, workflows, bus, shop)))
    return tasks


async def _submit(log: PostgresEventLog) -> dict[str, tuple[str, str, Any]]:
    known = {}
    chance = random.Random(3)
    for user in USERS:
        for _ in range(2):
            workflow_id, specs = str(uuid.uuid4()), jobs(chance)
            (submitted,) = decide(None, Submit(workflow_id=workflow_id, user_id=user, name="takeover", jobs=specs))
            await log.append(Append(stream_of(workflow_id), 0, (new_event(submitted, user),)))
            known |= {spec.job_id: (workflow_id, user, spec) for spec in specs}
    return known


async def test_whoever_leads_may_be_killed_or_stopped(cluster: Cluster) -> None:
    await asyncio.gather(cluster.start(), cluster.start())
    takeovers = []
    for _ in range(KILLS):
        leader = await cluster.leader()
        assert await _decides(cluster, after=time.time(), within=30)
        killed = time.time()
        leader.process.kill()
        takeovers.append(await _decides(cluster, after=killed, within=30) - killed)
        await leader.process.wait()
        await cluster.start()

    leader = await cluster.leader()
    stopped = time.time()
    leader.process.send_signal(signal.SIGSTOP)
    successor_decided = await _decides(cluster, after=stopped + 1, within=30)
    takeovers_of_stopped = successor_decided - stopped
    leader.process.send_signal(signal.SIGCONT)

    async def judged() -> laws.History | None:
        events = await cluster.events()
        history = laws.check(events, max_workers=MAX_WORKERS, max_active_users=MAX_ACTIVE_USERS)
        return None if history.forgotten else history

    history = await until(judged, 90)
    print(json.dumps({"takeover_s": [round(s, 2) for s in takeovers], "stopped_s": round(takeovers_of_stopped, 2)}))
    assert max(takeovers) < TAKEOVER_S
    assert takeovers_of_stopped < STOPPED_S
    outcomes = {job: run.outcome for run in history.runs for job in (run.job,)}
    assert len(outcomes) == 10 * 2 * len(USERS)


async def _decides(cluster: Cluster, *, after: float, within: float) -> float:
    """When a scheduler first appended something after a time; the servers' clock is this machine's."""

    async def look() -> float | None:
        decided = (event.at.timestamp() for event in await cluster.events() if isinstance(event.message, DECIDED))
        return next((at for at in decided if at > after), None)

    found: float = await until(look, within)
    return found
