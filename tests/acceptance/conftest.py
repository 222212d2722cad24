"""The whole stack, live: five services, NATS and Postgres, started once and driven through the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from microtome.client import ApiClient, ApiProblem, Job, JobIn, Slide, Workflow
from microtome.client.live import FINISHED
from microtome.embedded.supervisor import EmbeddedStack
from microtome.errors import Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.slides.pyramid import write_pyramid
from microtome.slides.synthetic import MPP, paint, write_synthetic_slide
from tests.acceptance import laws
from tests.acceptance.collector import Collector
from tests.conftest import PROJECT_ROOT, ServerThread, open_folder

MAX_WORKERS = 3
MAX_ACTIVE_USERS = 3
# Tiles of 128 pixels and their halo: many small ones, so that a job has a middle.
TILES = {"tile_size": 320, "halo": 96, "batch_size": 1}
# Against a test that hangs, not against a slow machine.
PATIENCE_S = 90.0
# What the services said, kept for whoever wants to know why a test failed.
LOGS = PROJECT_ROOT / "test-results" / "acceptance"

Json = dict[str, Any]


def write_on_glass(path: Path, *, tissue: int, edge: int, seed: int) -> None:
    """Write a slide of `edge` pixels of glass with a small piece of tissue: few tiles, but large previews."""
    picture = np.full((edge, edge, 3), 243, np.uint8)
    picture[256 : 256 + tissue, 256 : 256 + tissue], _ = paint(tissue, seed)
    bands = (picture[y : y + 256] for y in range(0, edge, 256))
    write_pyramid(path, edge, edge, bands, compression="jpeg", mpp=MPP, description="tissue on glass")


async def until(look: Callable[[], Awaitable[Any]], what: str, seconds: float = PATIENCE_S, every: float = 0.03) -> Any:
    """Look until there is something to see, and return it. What is killed meanwhile comes back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if seen := await look():
                return seen
        except Unavailable:
            pass
        except ApiProblem as refused:
            if not refused.problem.transient:
                raise
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        await asyncio.sleep(every)


@dataclass
class Live:
    """The running stack and the means to look at it, and to hurt it."""

    stack: EmbeddedStack
    thread: ServerThread
    collector: Collector
    database: Database
    folder: Path
    clients: list[ApiClient] = field(default_factory=list)

    # -- users ---------------------------------------------------------------------------------

    def user(self, name: str = "user") -> ApiClient:
        """A user whom nobody has seen before."""
        client = ApiClient(self.stack.url, f"{name}-{uuid.uuid4().hex[:8]}")
        self.clients.append(client)
        return client

    async def slide(self, client: ApiClient, *, size: int = 512, seed: int | None = None, glass: int = 0) -> Slide:
        """Upload a synthetic slide, on `glass` pixels of glass; without `seed` one that nobody has seen before."""
        path = self.folder / f"{uuid.uuid4().hex}.tif"
        seed = uuid.uuid4().int % 2**31 if seed is None else seed
        if glass:
            await asyncio.to_thread(write_on_glass, path, tissue=size, edge=glass, seed=seed)
        else:
            await asyncio.to_thread(write_synthetic_slide, path, size=size, seed=seed)
        return await client.upload_slide(path)

    def stored(self, slide: Slide) -> Path:
        """Where the server keeps a slide."""
        return self.stack.data_dir / "slides" / slide["id"] / slide["filename"]

    # -- facts ---------------------------------------------------------------------------------

    async def events(self) -> list[StoredEvent]:
        """The whole log, in its order."""
        log, cursor, found = PostgresEventLog(self.database, []), START, []
        while page := await log.read_all(cursor, 1000):
            found += page
            cursor = page[-1].cursor
        return found

    async def history(self) -> laws.History:
        """What happened, after checking that the law allows it."""
        return laws.check(await self.events(), max_workers=MAX_WORKERS, max_active_users=MAX_ACTIVE_USERS)

    async def finished(self, client: ApiClient, workflow: Workflow, seconds: float = PATIENCE_S) -> Workflow:
        """The workflow once nothing of it runs or can run."""

        async def look() -> Workflow | None:
            seen = await client.workflow(workflow["id"])
            return seen if seen["status"] in FINISHED else None

        return await until(look, f"workflow {workflow['name']!r} finishes", seconds)

    async def job(self, client: ApiClient, job_id: str, condition: Callable[[Job], bool], what: str) -> Job:
        """The job once it is as it should be."""

        async def look() -> Job | None:
            seen = await client.job(job_id)
            return seen if condition(seen) else None

        return await until(look, what)

    def pixels(self, job_id: str) -> list[Path]:
        """What lies in the tile store for a job."""
        return [path for path in _below(self.tile_store / job_id) if path.is_file()]

    def artifacts(self, job_id: str) -> list[Path]:
        """What lies in the artifact store for a job, half-written or not."""
        return _below(self.stack.data_dir / "artifacts" / job_id)

    def drafts(self, job_id: str) -> list[Path]:
        """Artifacts that a merger has not published yet."""
        return [path for path in self.artifacts(job_id) if path.name.startswith(".draft")]

    async def merging(self, job_id: str) -> None:
        """Return the moment that a merger begins to write."""

        async def look() -> list[Path]:
            return self.drafts(job_id)

        await until(look, "a merger writes", every=0.001)

    def logged(self, name: str) -> list[Json]:
        """What a service has logged; the supervisor's own lines are not JSON."""
        lines = self.stack.log(name).read_text().splitlines()
        return [json.loads(line) for line in lines if not line.startswith("[supervisor]")]

    @property
    def tile_store(self) -> Path:
        tile_store = self.stack._tile_store
        assert tile_store is not None
        return tile_store[0]

    # -- violence ------------------------------------------------------------------------------

    async def kill(self, name: str) -> None:
        """kill -9, and wait until the supervisor has started it again."""
        await asyncio.to_thread(self.thread.run, self.stack.kill(name))

    @contextmanager
    def paused(self, name: str) -> Iterator[None]:
        """Hold a service still, so that what waits for it can be looked at in peace."""
        pid = self.stack.pid(name)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture(scope="session")
def stack(collector: Collector) -> Iterator[tuple[EmbeddedStack, ServerThread]]:
    thread = ServerThread()
    home = open_folder()
    running = EmbeddedStack(
        home,
        durable=False,
        env={
            "MAX_WORKERS": str(MAX_WORKERS),
            "MAX_ACTIVE_USERS": str(MAX_ACTIVE_USERS),
            "LEASE_SECONDS": "3",
            "DISPATCH_SECONDS": "3",
            "STALLED_SECONDS": "4",
            "CREDIT": "12",
            # Tests submit as fast as they can.
            "RATE_BURST": "0",
            # A job needs its time, however many cores there are.
            "INFERENCE_THREADS": "1",
            # Held bit for bit against the bare engine.
            "ENGINE": "onnxruntime-cpu-fp32",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "300",
        },
    )
    try:
        thread.run(running.start())
        yield running, thread
    finally:
        thread.run(running.stop())
        thread.close()
        shutil.rmtree(LOGS, ignore_errors=True)
        shutil.copytree(home / "logs", LOGS)
        shutil.rmtree(home)


@pytest.fixture
async def live(stack: tuple[EmbeddedStack, ServerThread], collector: Collector, tmp_path: Path) -> AsyncIterator[Live]:
    """The stack; whatever a test did to it, the scheduling law held."""
    running, thread = stack
    async with await Database.connect(running.database_url) as database:
        live = Live(running, thread, collector, database, tmp_path)
        yield live
        for client in live.clients:
            await _cancel_all(client)
            await client.close()
        await live.history()


def _below(folder: Path) -> list[Path]:
    """All files and folders in a folder that somebody may be removing."""
    return sorted(Path(top, name) for top, folders, files in os.walk(folder) for name in folders + files)


async def _cancel_all(client: ApiClient) -> None:
    """A test that failed must not hold a seat against the next one."""
    for workflow in await client.workflows():
        for job in workflow["jobs"]:
            if job["status"] in ("PENDING", "RUNNING"):
                await client.cancel(job["id"])


def mask(slide: Slide, key: str, branch: str = "main", depends_on: list[str] | None = None) -> JobIn:
    """A quick job."""
    return {
        "key": key,
        "type": "TISSUE_MASK",
        "slide_id": slide["id"],
        "branch": branch,
        "depends_on": depends_on or [],
    }


def cells(slide: Slide, key: str = "cells", branch: str = "main", **parameters: Any) -> JobIn:
    """A job of many tiles."""
    return {
        "key": key,
        "type": "SEGMENT_CELLS",
        "slide_id": slide["id"],
        "branch": branch,
        "parameters": {**TILES, **parameters},
    }


def by_key(workflow: Workflow) -> dict[str, Job]:
    """The jobs of a workflow by key."""
    return {job["key"]: job for job in workflow["jobs"]}
