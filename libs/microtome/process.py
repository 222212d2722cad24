"""What every worker process stands on: log, read models, leases, bus, telemetry.

Promises: when `connected` gives a `Process`, the schema and the streams are there; from `ready` on, and not before, its
page of metrics answers and others hear that it is there; at the end everything is closed in the reverse order. `run`
turns SIGTERM and SIGINT into a stop that lets work finish.
Refuses: to know what the process works on; that is wired by each service.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry

from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.bus.jetstream import JetStreamBus
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import ServiceAlive
from microtome.domain.limits import Limits
from microtome.errors import MicrotomeError
from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.leases.postgres import PostgresLeases
from microtome.readmodels.projection import ReadModels
from microtome.readmodels.queries import Queries
from microtome.settings import ServiceSettings
from microtome.telemetry import logging as logs
from microtome.telemetry import tracing
from microtome.telemetry.metrics import process_registry, serve_metrics
from microtome.workflows import Workflows

log = logging.getLogger(__name__)

# Time for a cancelled task to clear up, before it is cancelled again.
CANCEL_AGAIN_S = 3.0
# Between two announcements that a process is there.
ALIVE_EVERY_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """The adapters of one running process."""

    name: str
    # Names this process in leases: nobody else ever has the same.
    owner: str
    database: Database
    log: PostgresEventLog
    queries: Queries
    leases: PostgresLeases
    bus: Bus
    workflows: Workflows
    registry: CollectorRegistry
    # Where slides, results, artifacts and logs lie.
    data_dir: Path
    ready: Callable[[], None]
    """Called once, when everything that a first job needs is warm; see `connected`."""


@contextlib.asynccontextmanager
async def connected(name: str, settings: ServiceSettings, *, warms_up: bool = False) -> AsyncIterator[Process]:
    """Connect everything. Raises `Unavailable` or `ConfigurationError`.

    A process that `warms_up` calls `Process.ready` when it has; any other is ready as soon as it is connected.
    """
    logs.setup(name, settings.log_level)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(tracing.setup(name).shutdown)
        registry = process_registry()
        await migrate(settings.microtome_database_url)
        database = await stack.enter_async_context(await Database.connect(settings.microtome_database_url, name=name))
        event_log = await stack.enter_async_context(PostgresEventLog(database, [ReadModels()]))
        bus = await JetStreamBus.connect(settings.microtome_nats_url, name=name)
        stack.push_async_callback(bus.close)
        host = socket.gethostname()
        owner = f"{name}@{host}:{os.getpid()}"

        def ready() -> None:
            stack.callback(serve_metrics(settings.metrics_port, registry, settings.metrics_host).close)
            stack.push_async_callback(end, asyncio.create_task(_say_alive(bus, name, owner), name="say alive"))

        log.info("connected")
        if not warms_up:
            ready()
        yield Process(
            name=name,
            owner=owner,
            database=database,
            log=event_log,
            queries=Queries(database),
            leases=PostgresLeases(
                database, lease_seconds=settings.lease_seconds, dispatch_seconds=settings.dispatch_seconds
            ),
            bus=bus,
            workflows=Workflows(
                event_log, Limits(max_attempts=settings.max_attempts), meta={"worker": owner, "host": host}
            ),
            registry=registry,
            data_dir=settings.microtome_data_dir,
            ready=ready,
        )


async def _say_alive(bus: Bus, name: str, owner: str) -> None:
    """Tell whoever shows the installation that this process is there. No fact depends on it."""
    while True:
        try:
            await bus.announce(subjects.service(name), to_bytes(ServiceAlive(name=name, owner=owner)))
        except MicrotomeError as error:
            log.warning("nobody heard that this process is alive: %s", error)
        except Exception:
            log.exception("nobody heard that this process is alive")
        await asyncio.sleep(ALIVE_EVERY_S)


async def until(stop: asyncio.Event, *ending: Awaitable[None]) -> None:
    """Return when `stop` is set, or when one of `ending` ends; raise what that one raised."""
    stopped = asyncio.ensure_future(stop.wait())
    others = [asyncio.ensure_future(awaitable) for awaitable in ending]
    try:
        done, _ = await asyncio.wait({stopped, *others}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(stopped, *others)
    for task in done:
        task.result()


async def end(*tasks: asyncio.Future[Any]) -> None:
    """Cancel `tasks` and return when all are done, however they ended.

    Cancels again after a while: libraries may swallow a cancellation (`asyncio.wait_for` does until Python 3.12).
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)


def run(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run `serve(stop)` until it returns; `stop` is set by SIGTERM and SIGINT.

    Exits with status 1 and one clear line on a `MicrotomeError`.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await serve(stop)

    try:
        uvloop.run(main())
    except MicrotomeError as error:
        log.error("cannot go on: %s", error)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
