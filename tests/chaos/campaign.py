"""Hurting a working stack, again and again, and measuring how soon work goes on.

Promises: a harm waits until jobs run (they may end before it is done: its `running` says so); the next one comes when
all that ran at the last one went on, or after a minute. Refuses: to judge; `checker` does, from what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from microtome.client import ApiClient, ApiProblem, JobIn, Slide
from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPreempted,
    JobStarted,
    JobSucceeded,
)
from microtome.crashpoint import MARK, POINT
from microtome.embedded.supervisor import EmbeddedStack
from microtome.errors import Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.slides.synthetic import write_synthetic_slide
from tests.acceptance.bare import Cells, bare_cells
from tests.chaos import progress
from tests.chaos.checker import Acknowledged
from tests.chaos.kills import Harm

MAX_WORKERS = 3
MAX_ACTIVE_USERS = 3
USERS = 4
SLIDE_PX = 640
# A zombie sleeps for longer than its lease (10 s).
ZOMBIE_S = 14.0
# What a rolled back NATS has forgotten, where the campaign is old enough.
ROLLBACK_S = 120.0
BACKUP_EVERY_S = 30.0
# How long a harm may go unanswered before the next one.
PATIENCE_S = 60.0
# How long an armed crash point is waited for.
POINT_S = 45.0
TILE_SIZES = tuple(range(336, 656, 16))
HALOS = (96, 112, 128, 144)
# Smaller ones, which the gateway takes too, make jobs of a hundred tiles: they take their time, and show no more.
MIN_CORE = 128
CANCELLED_SHARE = 0.1
_ENDS = (JobSucceeded, JobFailed, JobAttemptLost, JobCancelled, JobPreempted)


@dataclass
class Blow:
    """A harm that was done."""

    harm: Harm
    at: float
    """Wall clock, as the database's."""
    running: frozenset[str] = frozenset()
    """Jobs that ran then."""
    recovered_s: float | None = None
    """Until all of them had gone on; None when one had not within `PATIENCE_S`. Says nothing when none ran."""
    reached: bool = True
    """False for a crash point that nothing came to in time."""


@dataclass
class Campaign:
    """A stack, users who keep it busy, and what was done to it."""

    stack: EmbeddedStack
    folder: Path
    seed: int
    blows: list[Blow] = field(default_factory=list)
    undisturbed: dict[str, Cells] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._workflows: dict[str, str] = {}
        self._cancelled: set[str] = set()
        self._slides: list[tuple[ApiClient, Slide]] = []
        self._parameters = [
            {"tile_size": size, "halo": halo} for size in TILE_SIZES for halo in HALOS if size - 2 * halo >= MIN_CORE
        ]
        self._chance.shuffle(self._parameters)
        self._submitted = 0
        self._read: list[StoredEvent] = []
        self._backups: list[tuple[float, Path]] = []

    @property
    def acknowledged(self) -> Acknowledged:
        """What the API said yes to."""
        return Acknowledged(dict(self._workflows), frozenset(self._cancelled))

    # -- users -----------------------------------------------------------------------------------

    async def prepare(self) -> None:
        """Upload a slide for each user, and find out what an undisturbed run finds on it."""
        for number in range(USERS):
            path = self.folder / f"{number}.tif"
            await asyncio.to_thread(write_synthetic_slide, path, size=SLIDE_PX, seed=self.seed + number % 2)
            client = ApiClient(self.stack.url, f"user-{number}", patience_seconds=30, timeout_seconds=10)
            slide = await client.upload_slide(path)
            self._slides.append((client, slide))
            alike = [
                known
                for known, (_, other) in zip(self.undisturbed, self._slides, strict=False)
                if other["sha256"] == slide["sha256"]
            ]
            self.undisturbed[slide["id"]] = (
                self.undisturbed[alike[0]]
                if alike
                else await asyncio.to_thread(bare_cells, path, tile_size=512, halo=96)
            )

    async def close(self) -> None:
        """Close the users' connections."""
        for client, _ in self._slides:
            await client.close()

    async def submit(self) -> None:
        """Have the next user submit a workflow of two branches, and sometimes cancel one of its jobs."""
        client, slide = self._slides[self._submitted % len(self._slides)]
        # Each user goes through all of them, so that no job finds its tiles done.
        parameters = self._parameters[self._submitted // len(self._slides) % len(self._parameters)]
        self._submitted += 1
        tissue: JobIn = {"key": "tissue", "type": "TISSUE_MASK", "slide_id": slide["id"], "branch": "a"}
        cells: JobIn = {"key": "cells", "type": "SEGMENT_CELLS", "slide_id": slide["id"], "branch": "a"}
        other: JobIn = {"key": "other", "type": "INSTANSEG_WSI", "slide_id": slide["id"], "branch": "b"}
        cells["parameters"] = other["parameters"] = parameters  # type: ignore[typeddict-item]
        key = uuid.uuid4().hex

        async def create() -> None:
            workflow = await client.create_workflow("chaos", [tissue, cells, other], idempotency_key=key)
            self._workflows[workflow["id"]] = client.user
            if self._chance.random() < CANCELLED_SHARE:
                job = self._chance.choice(workflow["jobs"])["id"]
                await _insist(lambda: self._cancel(client, job))

        await _insist(create)

    async def _cancel(self, client: ApiClient, job_id: str) -> None:
        try:
            await client.cancel(job_id)
        except ApiProblem as problem:
            # It was cancelled by a request whose answer was lost, or had succeeded.
            if problem.problem.status != 409 or (await client.job(job_id))["status"] != "CANCELLED":
                return
        self._cancelled.add(job_id)

    # -- facts -----------------------------------------------------------------------------------

    async def events(self) -> list[StoredEvent]:
        """The whole log, of which only the news are read; waits for Postgres."""

        async def read() -> None:
            async with await Database.connect(self.stack.database_url, name="checker") as database:
                log = PostgresEventLog(database, [])
                while page := await log.read_all(self._read[-1].cursor if self._read else START, 2000):
                    self._read.extend(page)

        await _insist(read)
        return list(self._read)

    async def _until(self, holds: Callable[[list[StoredEvent]], bool], seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while not holds(await self.events()):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(0.25)
        return True

    # -- harm ------------------------------------------------------------------------------------

    async def strike(self, harm: Harm) -> Blow:
        """Do one harm while jobs run, and wait until they went on."""
        while len(open_jobs(await self.events())) < 4:
            await self.submit()
        await self._until(lambda events: bool(running_jobs(events)), PATIENCE_S)
        await self._back_up()
        await asyncio.sleep(harm.delay_s)
        blow = await self._do(harm)
        before = [event for event in await self.events() if event.at.timestamp() <= blow.at]
        blow.running = frozenset(running_jobs(before))
        results = self.stack.data_dir / "results"
        await self._until(lambda events: went_on(events, blow, results) is not None, PATIENCE_S)
        blow.recovered_s = went_on(await self.events(), blow, results)
        self.blows.append(blow)
        return blow

    async def _do(self, harm: Harm) -> Blow:
        match harm.how:
            case "kill":
                at = time.time()
                await self.stack.kill(harm.target)
                return Blow(harm, at)
            case "zombie":
                return await self._zombie(harm)
            case "wipe" | "rollback":
                return await self._replace_store(harm)
            case "point":
                return await self._crash(harm)

    async def _zombie(self, harm: Harm) -> Blow:
        pid = self.stack.pid(harm.target)
        at = time.time()
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(ZOMBIE_S)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return Blow(harm, at)

    async def _replace_store(self, harm: Harm) -> Blow:
        """Let NATS wake up with nothing, or with what it had some time ago."""
        with self._stopped("nats"):
            at = time.time()
            await asyncio.to_thread(shutil.rmtree, self._store, ignore_errors=True)
            if harm.how == "rollback":
                old = [path for made, path in self._backups if made <= time.monotonic() - ROLLBACK_S]
                await asyncio.to_thread(shutil.copytree, old[-1] if old else self._backups[0][1], self._store)
            await self.stack.kill("nats")
        return Blow(harm, at)

    async def _back_up(self) -> None:
        """Keep a copy of what NATS stores now, for a later rollback."""
        now = time.monotonic()
        if self._backups and now - self._backups[-1][0] < BACKUP_EVERY_S:
            return
        copy = self.folder / f"jetstream-{len(self._backups)}"
        with self._stopped("nats"):
            await asyncio.to_thread(shutil.copytree, self._store, copy)
        self._backups.append((now, copy))

    @property
    def _store(self) -> Path:
        return self.stack.home / "nats" / "jetstream"

    @contextlib.contextmanager
    def _stopped(self, name: str) -> Iterator[None]:
        """Have a process stand still; it may be killed meanwhile."""
        pid = self.stack.pid(name)
        if pid is not None:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    async def _crash(self, harm: Harm) -> Blow:
        """Start the process anew, armed, and wait for its end at the named point."""
        assert harm.point is not None
        mark = self.folder / f"mark-{uuid.uuid4().hex}"
        # Of two schedulers only the one that leads comes to its points: arm both.
        targets = ("scheduler", "scheduler:2") if harm.target == "scheduler" else (harm.target,)
        for target in targets:
            self.stack.set_environment(target, {POINT: str(harm.point), MARK: str(mark)})
            await self.stack.kill(target)
        deadline = time.monotonic() + POINT_S
        while not mark.exists() and time.monotonic() < deadline:
            if harm.target == "gateway" or len(open_jobs(await self.events())) < 4:
                await self.submit()
            await asyncio.sleep(0.5)
        at = mark.stat().st_mtime if mark.exists() else time.time()
        for target in targets:
            self.stack.set_environment(target, {})
        return Blow(harm, at, reached=mark.exists())


async def _insist(act: Callable[[], Awaitable[None]], seconds: float = 90.0) -> None:
    """Do it, again and again while what is needed is away."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            await act()
        except Unavailable:
            if time.monotonic() > deadline:
                raise
        except ApiProblem as problem:
            if not problem.problem.transient or time.monotonic() > deadline:
                raise
        else:
            return
        await asyncio.sleep(0.2)


def open_jobs(events: list[StoredEvent]) -> set[str]:
    """Jobs that have not come to their end."""
    found: set[str] = set()
    for event in events:
        found |= {spec.job_id for spec in getattr(event.message, "jobs", ())}
        if isinstance(event.message, (JobSucceeded, JobCancelled)):
            found.discard(event.message.job_id)
    return found


def running_jobs(events: list[StoredEvent]) -> set[str]:
    """Jobs that run at the end of these events."""
    found: set[str] = set()
    for event in events:
        if isinstance(event.message, JobStarted):
            found.add(event.message.job_id)
        elif isinstance(event.message, _ENDS):
            found.discard(event.message.job_id)
    return found


def went_on(events: list[StoredEvent], blow: Blow, results: Path) -> float | None:
    """Seconds from a blow until each job that ran then had ended, begun anew or got a tile; None while one has not."""
    news: dict[str, float] = {}
    for event in events:
        message, at = event.message, event.at.timestamp()
        if at > blow.at and isinstance(message, (JobStarted, JobSucceeded, JobFailed, JobCancelled)):
            news.setdefault(message.job_id, at)
    for job, folder in progress.folders(events, blow.running, results).items():
        tile = progress.first_tile(folder, blow.at)
        if tile is not None:
            news[job] = min(tile, news.get(job, tile))
    if not blow.running <= news.keys():
        return None
    return max((news[job] - blow.at for job in blow.running), default=0.0)
