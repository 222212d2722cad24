"""The control plane without pixels: `make bench-control`.

Real NATS, Postgres, scheduler and gateway, and an engine that does nothing. First a backlog of jobs is scheduled to its
end: how fast, and whether the law held at every position of the log. Then the gateway is asked for workflows and jobs,
each of them many times, so that most answers come from documents that it has at hand, and is given work, while live
clients listen; rates and latencies are those of 2xx answers, `get_others` and `post_others` count what else came. Last,
the read models are held against the log, emptied, rebuilt from it and held against it again; `replay_*` is that rebuild
from nothing, of which `make bench-replay` tells more. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from microtome.contracts.messages import (
    JobSpec,
    JobType,
    MppSource,
    SlideLevel,
    SlideRegistered,
    Stain,
)
from microtome.domain.commands import Submit
from microtome.domain.workflow import decide
from microtome.embedded.supervisor import EmbeddedStack
from microtome.eventlog.database import Database
from microtome.eventlog.log import START, Append, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import TABLES, ReadModels
from microtome.readmodels.rebuild import rebuild, verify
from microtome.workflows import new_event, stream_of
from tests.bench import dispatch, machine
from tests.bench.load import percentile

ROOT = Path(__file__).resolve().parents[2]
MAX_ACTIVE_USERS = 3
BRANCHES_PER_USER = 4
WATCHED_PER_USER = 10


def ms(value: float) -> float:
    return round(value * 1000, 2)


class Engine:
    """The engine that does nothing, as a process; knows when it was given which job."""

    def __init__(self, stack: EmbeddedStack) -> None:
        self._stack = stack
        self.taken: dict[str, float] = {}

    async def __aenter__(self) -> Engine:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "libs"), str(ROOT))),
            "MICROTOME_DATABASE_URL": self._stack.database_url,
            "MICROTOME_NATS_URL": self._stack.nats_url,
            "MICROTOME_DATA_DIR": str(self._stack.data_dir),
            "TILE_STORE_DIR": str(self._stack.home / "tiles"),
            "LOG_LEVEL": "WARNING",
        }
        self._child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.noop_engine", cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE
        )
        assert self._child.stdout is not None
        await self._child.stdout.readline()
        self._reading = asyncio.create_task(self._read(self._child.stdout))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._child.terminate()
        await self._child.wait()
        await self._reading

    async def _read(self, lines: asyncio.StreamReader) -> None:
        while line := await lines.readline():
            job_id, _, taken = line.decode().split()
            self.taken.setdefault(job_id, float(taken))


def slide_of(user: str) -> SlideRegistered:
    """A slide that nobody will ever open."""
    return SlideRegistered(
        slide_id=str(uuid.uuid5(uuid.NAMESPACE_OID, user)),
        user_id=user,
        filename="bench.svs",
        size_bytes=1,
        sha256="0" * 64,
        vendor="bench",
        width=1024,
        height=1024,
        mpp=0.5,
        mpp_source=MppSource.USER,
        stain=Stain.BRIGHTFIELD,
        levels=(SlideLevel(width=1024, height=1024, downsample=1.0),),
        path="slides/none",
    )


def backlog(user: str, jobs: int) -> Submit:
    """One workflow of `jobs` jobs in four branches."""
    workflow_id = str(uuid.uuid4())
    specs = tuple(
        JobSpec(
            job_id=str(uuid.uuid4()),
            key=f"job-{number}",
            type=JobType.TISSUE_MASK,
            slide_id=slide_of(user).slide_id,
            branch=f"branch-{number % BRANCHES_PER_USER}",
            expected_tiles=1,
        )
        for number in range(jobs)
    )
    return Submit(workflow_id, user, f"backlog of {user}", specs)


async def submit(log: PostgresEventLog, command: Submit) -> None:
    """Record a workflow as the gateway does."""
    events = tuple(new_event(event, command.user_id) for event in decide(None, command))
    await log.append(Append(stream_of(command.workflow_id), 0, events))


async def everything(log: PostgresEventLog) -> AsyncIterator[StoredEvent]:
    cursor = START
    while page := await log.read_all(cursor, 2000):
        for event in page:
            yield event
        cursor = page[-1].cursor


async def schedule_backlog(
    stack: EmbeddedStack, log: PostgresEventLog, users: list[str], jobs: int, max_workers: int
) -> dict[str, Any]:
    """Submit everything, have it run to its end, and read off the log how that went."""
    for user in users:
        slide = slide_of(user)
        await log.append(Append(f"slide-{slide.slide_id}", 0, (new_event(slide, user),)))
    pid = stack.pid("scheduler")
    assert pid is not None
    cpu = machine.cpu_seconds([pid])
    async with Engine(stack) as engine:
        began = time.perf_counter()
        for user in users:
            command = backlog(user, jobs // len(users))
            await submit(log, command)
        while len(engine.taken) < jobs:
            await asyncio.sleep(0.2)
        spent = time.perf_counter() - began
        cpu = machine.cpu_seconds([pid]) - cpu
        await asyncio.sleep(0.5)
    ledger = dispatch.read([event async for event in everything(log)])
    decided = [(started - eligible).total_seconds() for eligible, started in ledger.starts.values()]
    taken = [engine.taken[job] - eligible.timestamp() for job, (eligible, _) in ledger.starts.items()]
    if ledger.most_running > max_workers:
        raise SystemExit(f"{ledger.most_running} jobs ran at once, of {max_workers}")
    return {
        "jobs": len(ledger.starts),
        "fifo_violations": ledger.fifo_violations,
        "max_active_users": ledger.most_active,
        "max_running": ledger.most_running,
        "dispatch_p50_ms": ms(percentile(taken, 0.5)),
        "dispatch_p99_ms": ms(percentile(taken, 0.99)),
        "decide_p50_ms": ms(percentile(decided, 0.5)),
        "decide_p99_ms": ms(percentile(decided, 0.99)),
        "jobs_per_s": round(jobs / spent, 1),
        "scheduler_cpu_share": round(cpu / spent, 3),
        "scheduler_peak_rss_mb": round(machine.peak_rss_mb(machine.family(pid)[0]), 1),
    }


@contextlib.asynccontextmanager
async def loading(what: str, port: int, plan: list[Any], folder: Path, **options: object) -> AsyncIterator[Any]:
    """Run one load process; gives it."""
    file = folder / f"{uuid.uuid4()}.json"
    file.write_text(json.dumps(plan))
    arguments = [f"--{name}={value}" for name, value in options.items()]
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.bench.load", what, f"--port={port}", f"--plan={file}", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.terminate()
            await child.wait()


async def result_of(child: asyncio.subprocess.Process) -> dict[str, Any]:
    assert child.stdout is not None
    lines = (await child.stdout.read()).splitlines()
    await child.wait()
    found: dict[str, Any] = json.loads(lines[-1])
    return found


async def ask_gateway(
    stack: EmbeddedStack, log: PostgresEventLog, users: list[str], folder: Path, clients: int, seconds: float
) -> dict[str, Any]:
    """GETs, then POSTs, then events, all while `clients` live clients listen."""
    watched: list[tuple[str, str]] = []
    gets: list[list[Any]] = []
    commands = []
    for user in users:
        for _ in range(WATCHED_PER_USER):
            command = backlog(user, 4)
            await submit(log, command)
            commands.append(command)
            watched.append((user, f"/api/v1/workflows/{command.workflow_id}/live"))
            gets.append(["GET", f"/api/v1/workflows/{command.workflow_id}", user, None])
            gets.append(["GET", f"/api/v1/jobs/{command.jobs[0].job_id}", user, None])
    posts = [["POST", "/api/v1/workflows", user, {"name": "posted", "jobs": [_job(user)]}] for user in users]
    port = stack.ports.gateway
    async with loading("listen", port, watched, folder, connections=clients) as listeners:
        assert listeners.stdout is not None
        await listeners.stdout.readline()
        async with loading("requests", port, gets, folder, connections=16, seconds=seconds) as child:
            got = await result_of(child)
        async with loading("requests", port, posts, folder, connections=16, seconds=seconds) as child:
            posted = await result_of(child)
        # Now everything that was submitted runs, and the listeners hear of it.
        async with Engine(stack) as engine:
            mine = {job.job_id for command in commands for job in command.jobs}
            async with asyncio.timeout(600):
                while not mine <= engine.taken.keys():
                    await asyncio.sleep(0.2)
            await asyncio.sleep(1.0)
        listeners.terminate()
        heard = await result_of(listeners)
    return {
        "live_clients": clients,
        "get_per_s": got["per_s"],
        "get_p50_ms": got["p50_ms"],
        "get_p99_ms": got["p99_ms"],
        "get_others": got["others"],
        "post_per_s": posted["per_s"],
        "post_p50_ms": posted["p50_ms"],
        "post_p99_ms": posted["p99_ms"],
        "post_others": posted["others"],
        "commit_to_client_p50_ms": heard["p50_ms"],
        "commit_to_client_p99_ms": heard["p99_ms"],
        "live_events": heard["events"],
    }


def _job(user: str) -> dict[str, Any]:
    return {"key": "tissue", "type": "TISSUE_MASK", "slide_id": slide_of(user).slide_id}


async def replay(database: Database) -> dict[str, Any]:
    """Rebuild the read models from nothing; they must come out as they were."""
    await agree(database)
    async with database.connection() as connection:
        await connection.execute(f"truncate {', '.join(TABLES)}")
    began = time.perf_counter()
    events = await rebuild(database)
    spent = time.perf_counter() - began
    await agree(database)
    return {"replay_events": events, "replay_events_per_s": round(events / spent, 1)}


async def agree(database: Database) -> None:
    """Stop when a row is not what the log says."""
    if differences := await verify(database):
        raise SystemExit(f"the read models differ from the log in {len(differences)} rows")


async def measure(home: Path, options: argparse.Namespace) -> dict[str, Any]:
    users = [f"user-{number:02}" for number in range(options.users)]
    env = {
        "MAX_WORKERS": str(options.workers),
        "MAX_ACTIVE_USERS": str(MAX_ACTIVE_USERS),
        # The bucket would answer most of the load with 429, which is another thing to measure.
        "RATE_BURST": "0",
        "LOG_LEVEL": "WARNING",
    }
    async with EmbeddedStack(home / "stack", services=("gateway", "scheduler"), env=env) as stack:
        database = await Database.connect(stack.database_url, name="bench")
        async with database, PostgresEventLog(database, [ReadModels()]) as log:
            scheduled = await schedule_backlog(stack, log, users, options.jobs, options.workers)
            print("scheduled", json.dumps(scheduled), flush=True)
            asked = await ask_gateway(stack, log, users, home, options.clients, options.seconds)
            print("asked", json.dumps(asked), flush=True)
            replayed = await replay(database)
    return {**scheduled, **asked, **replayed, "machine": machine.facts()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=50)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    home.chmod(0o755)  # Postgres enters it as another user where this runs as root.
    try:
        print(json.dumps(asyncio.run(measure(home, options))))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
