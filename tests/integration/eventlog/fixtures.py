"""One Postgres per session, one migrated database per test (copied from a template)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from uuid import uuid4

import asyncpg
import pytest
from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import ReadModels

from tests.integration.eventlog.servers import PostgresProcess, home_folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of the server's own database; make databases of your own beside it."""
    with home_folder() as home:
        server = PostgresProcess(home)
        server.start()
        try:
            asyncio.run(server.postgres.wait_ready())
            asyncio.run(_make_template(server.postgres.url()))
            yield server.postgres.url()
        finally:
            server.stop()


async def _make_template(url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute("create database template_microtome")
    await connection.close()
    await migrate(_with_name(url, "template_microtome"))


def _with_name(url: str, name: str) -> str:
    return url.rsplit("/", 1)[0] + "/" + name


@pytest.fixture
async def database_url(postgres_url: str) -> AsyncIterator[str]:
    """A database of the test's own, with the schema in it."""
    name = f"test_{uuid4().hex}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(f"create database {name} template template_microtome")
    try:
        yield _with_name(postgres_url, name)
    finally:
        await connection.execute(f"drop database {name} with (force)")
        await connection.close()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with await Database.connect(database_url, connections=20) as database:
        yield database


@pytest.fixture
async def log(database: Database) -> AsyncIterator[PostgresEventLog]:
    async with PostgresEventLog(database, [ReadModels()]) as log:
        yield log


@pytest.fixture
def own_postgres() -> Iterator[PostgresProcess]:
    """A server that the test may stop and kill."""
    with home_folder() as home:
        server = PostgresProcess(home)
        server.start()
        try:
            asyncio.run(server.postgres.wait_ready())
            yield server
        finally:
            server.stop()
