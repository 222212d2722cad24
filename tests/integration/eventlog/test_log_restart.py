"""Postgres goes away and comes back."""

from __future__ import annotations

import asyncio
import time

import asyncpg
import pytest

from microtome.contracts.messages import SeatGranted
from microtome.errors import Unavailable
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from tests.integration.eventlog.facts import fact, slide, store
from tests.integration.eventlog.servers import PostgresProcess


async def test_kill_and_restart_lose_nothing_and_everything_recovers(own_postgres: PostgresProcess) -> None:
    url = await _database(own_postgres, "killed")
    async with await Database.connect(url) as database, PostgresEventLog(database) as log:
        stored = await store(log, "slide-1", slide())
        waiting = asyncio.create_task(_wake_ups(log, 3))
        await asyncio.sleep(0.2)

        own_postgres.kill()
        append = Append("seats", 0, (fact(SeatGranted(user_id="ada", seat=0)),))
        for _ in range(3):
            with pytest.raises(Unavailable):
                await log.append(append)
        with pytest.raises(Unavailable):
            await log.read_all()
        begun = time.monotonic()
        own_postgres.start()
        again = await _until_available(log, append)
        assert time.monotonic() - begun < 20
        # Whether or not an earlier try got through, there is one.
        assert await log.append(append) == again
        assert await log.read_all() == stored + again
        # The listener is back too: one wake-up for the first append, one for its return, one for a new append.
        await asyncio.sleep(2.5)
        await store(log, "slide-2", slide("slide-2"))
        await asyncio.wait_for(waiting, 10)


async def _database(server: PostgresProcess, name: str) -> str:
    connection = await asyncpg.connect(server.postgres.url())
    await connection.execute(f"create database {name}")
    await connection.close()
    await migrate(server.postgres.url(name))
    return server.postgres.url(name)


async def _wake_ups(log: PostgresEventLog, number: int) -> None:
    while number:
        number -= await log.wait(30.0)


async def _until_available(log: PostgresEventLog, append: Append) -> tuple[object, ...]:
    for _ in range(200):
        try:
            return await log.append(append)
        except Unavailable:
            await asyncio.sleep(0.1)
    raise AssertionError("Postgres did not come back")


async def test_an_orderly_restart_under_load_keeps_every_acknowledged_event(own_postgres: PostgresProcess) -> None:
    url = await _database(own_postgres, "restarted")
    async with await Database.connect(url) as database:
        log = PostgresEventLog(database)

        async def write(number: int) -> list[object]:
            stored: list[object] = []
            for version in range(30):
                append = Append(f"w{number}", version, (fact(SeatGranted(user_id="ada", seat=version)),))
                stored += await _until_available(log, append)
            return stored

        writing = asyncio.gather(*[write(number) for number in range(4)])
        await asyncio.sleep(0.05)
        await asyncio.to_thread(own_postgres.stop)
        own_postgres.start()
        written = [event for part in await writing for event in part]
        read = await log.read_all()
        assert sorted(read, key=lambda event: (event.stream, event.version)) == written
        assert len(read) == 120
