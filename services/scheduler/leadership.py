"""Who of several schedulers decides.

Promises: at most one process at a time believes that it leads, give or take the seconds in which a broken
connection is noticed; even then expected versions and the schema's constraints keep the laws.
Refuses: to renew anything. The lock lives exactly as long as the connection that holds it, so kill -9 frees it at
once. A leader that stops without dying (SIGSTOP, a host that vanishes, a loop that hangs) is given up by the server
after about `_SERVER_PATIENCE_S`; one that lives on without a network gives up leading by itself sooner than that.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Protocol

import asyncpg

from microtome.errors import Unavailable
from microtome.eventlog.database import CONNECT_SECONDS, typed_errors

# Any constant will do, as long as all schedulers use the same one.
_LOCK = 0x7363686564756C65
_PROBE_S = 1.0
_PROBE_PATIENCE_S = 2.0
_SERVER_PATIENCE_S = 5
# Of the server, for this connection only. Those of TCP mean nothing over a Unix socket.
_SERVER_SETTINGS = {
    "application_name": "microtome-scheduler-lead",
    # Keepalives: 2 s of silence, then one a second, three unanswered.
    "tcp_keepalives_idle": "2",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    # What the server sends is acknowledged within this time (milliseconds), or the connection is dead.
    "tcp_user_timeout": str(_SERVER_PATIENCE_S * 1000),
    # Whoever leads or wants to asks every second; a session that does not ask is nobody's any more.
    "idle_session_timeout": str(_SERVER_PATIENCE_S * 1000),
}


class Campaign(Protocol):
    """One process's try to lead."""

    async def won(self) -> bool:
        """Try to become the leader; say whether this process is. Raises `Unavailable`."""
        ...

    async def guard(self) -> None:
        """Return never; raise `Unavailable` when the leadership is lost."""
        ...


class Leadership(Protocol):
    """Where schedulers agree on who leads."""

    def campaign(self) -> contextlib.AbstractAsyncContextManager[Campaign]:
        """Stand for leadership, and hold what was won, for the length of the block. Raises `Unavailable`."""
        ...


class PostgresLeadership:
    """An advisory lock of a connection of its own."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url

    @contextlib.asynccontextmanager
    async def campaign(self) -> AsyncIterator[Campaign]:
        """Stand for leadership; see `Leadership.campaign`."""
        async with typed_errors():
            connection = await asyncpg.connect(self._url, timeout=CONNECT_SECONDS, server_settings=_SERVER_SETTINGS)
        try:
            yield _PostgresCampaign(connection)
        finally:
            connection.terminate()


class _PostgresCampaign:
    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def won(self) -> bool:
        # Not the waiting kind of lock: a statement that waits for hours keeps vacuum from its work for as long.
        async with typed_errors():
            return bool(await self._connection.fetchval("select pg_try_advisory_lock($1)", _LOCK))

    async def guard(self) -> None:
        while True:
            await asyncio.sleep(_PROBE_S)
            try:
                async with typed_errors():
                    await self._connection.execute("select 1", timeout=_PROBE_PATIENCE_S)
            except Unavailable as gone:
                raise Unavailable("The leadership is lost: its connection to Postgres ended.") from gone
