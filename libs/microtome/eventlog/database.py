"""Connections to Postgres.

Promises: a pool that outlives restarts of the server; every failure to reach it is `Unavailable`,
every clash of writers `ConcurrencyConflict`, every broken invariant `Conflict` with its name.
A transaction left open is ended by the server, because an idle writer holds back all readers of the log.
Refuses: to retry. Only the caller knows whether doing it again is right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import asyncpg
import orjson

from microtome.errors import ConcurrencyConflict, ConfigurationError, Conflict, InvalidRequest, Unavailable

if TYPE_CHECKING:
    from asyncpg.pool import PoolConnectionProxy

    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record] | PoolConnectionProxy[asyncpg.Record]
else:
    Connection = asyncpg.Connection

_LOG = logging.getLogger(__name__)

Isolation = Literal["read_committed", "repeatable_read"]

IDLE_IN_TRANSACTION_SECONDS = 10
MAINTENANCE_IDLE_SECONDS = 60
COMMAND_SECONDS = 30.0
CONNECT_SECONDS = 5.0
_JSONB_VERSION = b"\x01"

_CLASH = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.UniqueViolationError,
    asyncpg.LockNotAvailableError,
)
_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    # asyncpg raises it when the connection died between two statements.
    asyncpg.InterfaceError,
    # The same, when the server's farewell meets our next statement.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)


class AllInUse(Unavailable):
    """All connections of this process to Postgres are in use; try again in a moment."""

    code = "busy"


@asynccontextmanager
async def typed_errors() -> AsyncIterator[None]:
    """Turn what Postgres and the network raise into the errors of Microtome."""
    try:
        yield
    except _CLASH as error:
        raise ConcurrencyConflict(f"another transaction was first ({_name(error)}); read again") from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise Conflict(f"the database refuses: {_name(error)}") from error
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise ConfigurationError(f"Postgres refuses the connection: {error}") from error
    except asyncpg.DataError as error:
        raise InvalidRequest(f"a value cannot be stored: {error}") from error
    except _AWAY as error:
        # The driver's own word for a value that its codec cannot send.
        if isinstance(error, asyncpg.InterfaceError) and isinstance(error, ValueError):
            raise InvalidRequest(f"a value cannot be stored: {error}") from error
        raise Unavailable(f"Postgres does not answer: {error or type(error).__name__}") from error


def _name(error: asyncpg.PostgresError) -> str:
    return str(getattr(error, "constraint_name", None) or error)


def session_settings(name: str, idle_seconds: int | None = None) -> dict[str, str]:
    """Return what every connection of Microtome asks of the server: a name to be found by, and to be cut off when it
    leaves a transaction open.
    """
    seconds = IDLE_IN_TRANSACTION_SECONDS if idle_seconds is None else idle_seconds
    return {"application_name": name, "idle_in_transaction_session_timeout": f"{seconds}s"}


def _write_json(value: object) -> bytes:
    return _JSONB_VERSION + orjson.dumps(value)


def _read_json(data: bytes) -> object:
    return orjson.loads(data[1:])


async def prepare(connection: Connection) -> None:
    """Make a connection speak JSON: jsonb columns read and write plain Python values."""
    await connection.set_type_codec(
        "jsonb",
        schema="pg_catalog",
        encoder=_write_json,
        decoder=_read_json,
        # Binary, because rows are also copied in, and COPY has no other form.
        format="binary",
    )


async def _as_it_was(connection: Connection) -> None:
    """Undo what the borrower left when a connection is given back: a transaction whose end was cut short, by a
    cancellation say. The next borrower would write into it, and nothing would ever commit that.

    Nothing else needs undoing: settings are made and locks are taken for a transaction only. The driver's own reset
    would cost as much as a small query, each time.
    """
    if connection.is_in_transaction():
        await connection.execute("rollback")


class Database:
    """A pool of connections to one Postgres database."""

    def __init__(self, url: str, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.url = url
        self._pool = pool

    @classmethod
    async def connect(cls, url: str, *, connections: int = 8, name: str = "microtome") -> Self:
        """Open a pool of at most `connections`. Raises `Unavailable` or `ConfigurationError`."""
        async with typed_errors():
            pool = await asyncpg.create_pool(
                url,
                min_size=1,
                max_size=connections,
                init=prepare,
                reset=_as_it_was,
                timeout=CONNECT_SECONDS,
                command_timeout=COMMAND_SECONDS,
                server_settings=session_settings(name),
            )
        return cls(url, pool)

    async def close(self) -> None:
        """Give all connections back; those in use are cut off after a few seconds."""
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._pool.close()
        except (TimeoutError, *_AWAY):
            self._pool.terminate()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection outside any transaction. Raises `AllInUse` and the errors of `typed_errors`."""
        async with typed_errors():
            try:
                connection = await self._pool.acquire(timeout=CONNECT_SECONDS)
            except TimeoutError as error:
                if self._pool.get_idle_size() == 0 and self._pool.get_size() == self._pool.get_max_size():
                    raise AllInUse from error
                raise
            try:
                yield connection
            finally:
                await self._pool.release(connection)

    async def now(self) -> datetime:
        """Return the time by the server's clock, which stamps events and judges leases. Raises `Unavailable`."""
        async with self.connection() as connection:
            now: datetime = await connection.fetchval("select clock_timestamp()")
        return now

    @asynccontextmanager
    async def transaction(self, isolation: Isolation = "read_committed") -> AsyncIterator[Connection]:
        """Borrow a connection inside a transaction: committed at the end, rolled back by any exception."""
        async with self.connection() as connection, connection.transaction(isolation=isolation):
            yield connection

    @asynccontextmanager
    async def session(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        """Open a connection of its own for maintenance, whose statements may take as long as they need.

        Raises the errors of `typed_errors`.
        """
        async with typed_errors():
            connection = await asyncpg.connect(
                self.url,
                timeout=CONNECT_SECONDS,
                server_settings=session_settings("microtome-maintenance", MAINTENANCE_IDLE_SECONDS),
            )
            try:
                await prepare(connection)
                yield connection
            finally:
                with suppress(TimeoutError, *_AWAY):
                    await connection.close(timeout=CONNECT_SECONDS)


class Listener:
    """Counts the wake-ups of one NOTIFY channel; reconnects for ever.

    A reconnect counts as a wake-up too, because some may have been missed.
    """

    def __init__(self, url: str, channel: str) -> None:
        self._url = url
        self._channel = channel
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self.count = 0

    def start(self) -> None:
        """Begin to listen in the background."""
        self._task = asyncio.create_task(self._run(), name=f"listen {self._channel}")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def beyond(self, count: int, timeout: float) -> int:  # noqa: ASYNC109 - the timeout is an outcome
        """Wait until the count exceeds `count`, at most `timeout` seconds; return the count."""
        async with self._changed:
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes together with the result.
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._changed.wait_for(lambda: self.count > count)
            return self.count

    async def _wake(self) -> None:
        async with self._changed:
            self.count += 1
            self._changed.notify_all()

    async def _run(self) -> None:
        delay = 0.1
        while True:
            try:
                await self._listen()
                delay = 0.1
            except (*_AWAY, asyncpg.PostgresError) as error:
                _LOG.warning("listening to %s failed: %s", self._channel, error)
            except Exception:  # noqa: BLE001
                _LOG.exception("listening to %s failed", self._channel)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def _listen(self) -> None:
        connection = await asyncpg.connect(
            self._url, timeout=CONNECT_SECONDS, server_settings=session_settings("microtome-listener")
        )
        signals: asyncio.Queue[bool] = asyncio.Queue()
        try:
            connection.add_termination_listener(lambda *_: signals.put_nowait(False))
            await connection.add_listener(self._channel, lambda *_: signals.put_nowait(True))
            await self._wake()
            while await self._next(signals, connection):
                while not signals.empty() and signals.get_nowait():
                    pass  # a burst is one wake-up
                await self._wake()
        finally:
            connection.terminate()

    @staticmethod
    async def _next(signals: asyncio.Queue[bool], connection: asyncpg.Connection[asyncpg.Record]) -> bool:
        """Return True at a notification, False when the connection has ended."""
        while True:
            try:
                async with asyncio.timeout(10.0):
                    return await signals.get()
            except TimeoutError:
                # A half-open connection looks like a quiet one until it is asked something.
                await connection.execute("select 1", timeout=CONNECT_SECONDS)
