"""One database for all tests of the command line: a story of three users, told once and only read."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from uuid import uuid4

import asyncpg
import pytest

from microtome.domain.limits import Limits
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append, NewEvent, StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import ReadModels
from microtome.replay.__main__ import main
from tests.conftest import PROJECT_ROOT as ROOT
from tests.integration.eventlog.fixtures import run_apart, template, with_name
from tests.unit.replay.recorder import Recorder, spec

__all__ = ["ROOT", "template"]


def told() -> Recorder:
    """Two seats, one worker: ada's two jobs, bob's failing one, cy waits for a seat."""
    story = Recorder(Limits(max_workers=1, max_active_users=2))
    story.submit("cohort", "ada", spec("cohort", "first"), spec("cohort", "second", "side"), title="Monday cohort")
    story.tick()
    story.submit("rush", "bob", spec("rush", "only"))
    story.submit("late", "cy", spec("late", "job"))
    story.tick()
    story.plan("cohort.first", 12, worker="tiler-77")
    story.succeed("cohort.first", worker="merger-78", plan=0.5, infer=3.0, merge=0.25)
    story.tick()
    story.fail("rush.only", worker="tiler-77")
    story.tick()
    return story


async def store(log: PostgresEventLog, events: list[StoredEvent]) -> None:
    """Append a recorded story, each of its transactions as one."""
    for _, transaction in groupby(events, key=lambda event: event.cursor.xid):
        streams: dict[str, list[StoredEvent]] = {}
        for event in transaction:
            streams.setdefault(event.stream, []).append(event)
        await log.append(
            *(
                Append(
                    stream,
                    some[0].version - 1,
                    tuple(
                        NewEvent(event_id=each.event_id, message=each.message, tenant=each.tenant, meta=each.meta)
                        for each in some
                    ),
                )
                for stream, some in streams.items()
            )
        )


async def create(postgres_url: str, template: str) -> str:
    name = f"replay_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"create database {name} template {template}")
    await connection.close()
    return with_name(postgres_url, name)


async def drop(postgres_url: str, url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"drop database {url.rsplit('/', maxsplit=1)[1]} with (force)")
    await connection.close()


@pytest.fixture(scope="module")
def recorded_url(postgres_url: str, template: str) -> Iterator[str]:
    """A database with the story in it, for a module."""
    urls: list[str] = []

    async def make() -> None:
        urls.append(await create(postgres_url, template))
        async with await Database.connect(urls[0]) as database:
            await store(PostgresEventLog(database, [ReadModels()]), told().log)

    run_apart(make())
    yield urls[0]
    run_apart(drop(postgres_url, urls[0]))


@pytest.fixture
def blank_url(postgres_url: str) -> Iterator[str]:
    """A database without anything in it."""
    urls: list[str] = []

    async def make() -> None:
        urls.append(await create(postgres_url, "template0"))

    run_apart(make())
    yield urls[0]
    run_apart(drop(postgres_url, urls[0]))


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MICROTOME_", "MAX_"))}
    return {**kept, "PYTHONPATH": os.pathsep.join((str(ROOT / "libs"), str(ROOT))), **more}


@dataclass(frozen=True)
class Ran:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


Replay = Callable[..., Ran]


@pytest.fixture
def replay(recorded_url: str, monkeypatch: pytest.MonkeyPatch) -> Replay:
    """Runs the command line in this process, on the story unless told otherwise."""

    def run(*arguments: str, **more: str) -> Ran:
        for name in [name for name in os.environ if name.startswith(("MICROTOME_", "MAX_", "SEAT_", "SLICE_"))]:
            monkeypatch.delenv(name)
        for name, value in {"MICROTOME_DATABASE_URL": recorded_url, "COLUMNS": "140", **more}.items():
            monkeypatch.setenv(name, value)
        printed, said = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            try:
                status = main(list(arguments))
            except SystemExit as end:
                status = int(end.code or 0)
        return Ran(status, printed.getvalue(), said.getvalue())

    return run


@pytest.fixture
def spawn(recorded_url: str) -> Replay:
    """Runs the command line as a person does, in a process of its own."""

    def run(*arguments: str, stdin: bytes = b"", **more: str) -> Ran:
        ended = subprocess.run(
            [sys.executable, "-m", "microtome.replay", *arguments],
            env=environment(**{"MICROTOME_DATABASE_URL": recorded_url, **more}),
            cwd=ROOT,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )
        return Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    return run


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    assert process.stdout is not None
    async for line in process.stdout:
        yield line.decode()
