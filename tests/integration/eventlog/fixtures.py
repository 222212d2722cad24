"""A migrated database per test, copied from one template; a Postgres of a test's own to kill."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import ReadModels
from tests.integration.eventlog.servers import PostgresProcess, home_folder


def run_apart(work: Coroutine[None, None, None]) -> None:
    """Run in a loop of its own; the test's may be running already."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


def with_name(url: str, name: str) -> str:
    return urlsplit(url)._replace(path=f"/{name}").geturl()


@pytest.fixture(scope="session")
def template(postgres_url: str) -> str:
    """Name of a database with the schema and nothing else."""
    name = f"template_{uuid4().hex}"

    async def make() -> None:
        connection = await asyncpg.connect(postgres_url)
        await connection.execute(f"create database {name} template template0")
        await connection.close()
        await migrate(with_name(postgres_url, name))

    run_apart(make())
    return name


@pytest.fixture
async def database_url(postgres_url: str, template: str) -> AsyncIterator[str]:
    """A database of the test's own, with the schema in it."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"create database {name} template {template}")
        yield with_name(postgres_url, name)
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    """A database of the test's own without anything in it."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute(f"create database {name} template template0")
        yield with_name(postgres_url, name)
        await connection.execute(f"drop database {name} with (force)")
    finally:
        await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with await Database.connect(database_url, connections=20) as database:
        yield database


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(database, [ReadModels()]) as log:
        yield log


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresProcess]:
    """A server that the tests of a module may stop and kill."""
    with home_folder() as home:
        server = PostgresProcess(home)
        server.start()
        try:
            run_apart(server.postgres.wait_ready())
            yield server
        finally:
            server.stop()
