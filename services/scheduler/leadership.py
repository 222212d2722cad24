"""Who of several schedulers decides.

Promises: at most one process at a time believes that it leads, give or take the seconds in which a broken
connection is noticed; even then expected versions and the schema's constraints keep the laws.
Refuses: to renew anything. The lock lives exactly as long as the connection that holds it, so kill -9 frees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import asyncpg

from microtome.errors import Unavailable
from microtome.eventlog.database import CONNECT_SECONDS, typed_errors

log = logging.getLogger(__name__)

# Any constant will do, as long as all schedulers use the same one.
_LOCK = 0x7363686564756C65
_RETRY_S = 1.0
_PROBE_S = 2.0


@contextlib.asynccontextmanager
async def leading(database_url: str) -> AsyncIterator[asyncio.Task[None]]:
    """Wait until this process leads, and lead for the length of the block.

    Gives a task that fails with `Unavailable` when the leadership is lost. Raises `Unavailable` if Postgres cannot
    be reached.
    """
    async with typed_errors():
        connection = await asyncpg.connect(
            database_url, timeout=CONNECT_SECONDS, server_settings={"application_name": "microtome-scheduler-lead"}
        )
    try:
        async with typed_errors():
            while not await connection.fetchval("select pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 - it is in Postgres
                await asyncio.sleep(_RETRY_S)
        log.info("this scheduler leads")
        guard = asyncio.create_task(_guard(connection), name="leadership")
        try:
            yield guard
        finally:
            guard.cancel()
            await asyncio.gather(guard, return_exceptions=True)
    finally:
        connection.terminate()


async def _guard(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Return never; raise `Unavailable` when the connection, and with it the lock, is gone."""
    while True:
        await asyncio.sleep(_PROBE_S)
        try:
            async with typed_errors():
                await connection.execute("select 1", timeout=CONNECT_SECONDS)
        except Unavailable as gone:
            raise Unavailable("The leadership is lost: its connection to Postgres ended.") from gone
