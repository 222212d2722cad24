"""The scheduler's composition root."""

from __future__ import annotations

import asyncio

from microtome.eventlog.snapshots import PostgresSnapshots
from microtome.garbage import settled
from microtome.leases.lease import Expired
from microtome.process import connected, until
from microtome.relay.checkpoint import PostgresCheckpoint
from microtome.relay.relay import Relay
from microtome.workflows import Workflows
from services.scheduler import folding
from services.scheduler.deciding import Decider
from services.scheduler.dispatching import Dispatching
from services.scheduler.folding import Keeping, State
from services.scheduler.leadership import PostgresLeadership
from services.scheduler.observing import SchedulerMetrics
from services.scheduler.recovering import Recovery, start_of, waiting_to_be_merged
from services.scheduler.settings import SchedulerSettings
from services.scheduler.standing import Scheduler


async def serve(stop: asyncio.Event) -> None:
    """Lead whenever nobody else does, until `stop` is set."""
    settings = SchedulerSettings.from_environment()
    async with connected("scheduler", settings) as process:
        metrics = SchedulerMetrics(process.registry)
        snapshots = PostgresSnapshots(process.database, folding.NAME, folding.FORMAT)
        state = State()
        await folding.restore(state, snapshots)
        relay = Relay(process.log, process.bus, PostgresCheckpoint(process.database, "relay"), metrics.passed_over)
        decider = Decider(process.log, settings.limits, metrics.observe, state, Dispatching(relay.dispatch))

        async def dispatch(expired: Expired) -> None:
            await relay.dispatch_again(await start_of(process.log, expired))

        waits = waiting_to_be_merged(process.leases, process.bus, lambda: decider.cluster.running)
        workflows = Workflows(process.log, settings.limits)
        recovery = Recovery(process.leases, workflows, dispatch, settings.dispatch_seconds, waits)

        async def ask() -> None:
            await metrics.ask(process.bus, lambda: decider.cluster, relay.lag, process.log.oldest_writer)

        leadership = PostgresLeadership(settings.microtome_database_url)
        parts = (relay.run, recovery.run, Keeping(state, snapshots).run, ask)
        with settled():
            await until(stop, Scheduler(process.log, decider, leadership, parts, metrics.led).run())
