"""The scheduler's composition root."""

from __future__ import annotations

import asyncio
import logging

from microtome.errors import Unavailable
from microtome.leases.lease import Expired
from microtome.process import Process, connected, end, until
from microtome.relay.checkpoint import PostgresCheckpoint
from microtome.relay.relay import Relay
from microtome.workflows import Workflows
from services.scheduler.deciding import Decider
from services.scheduler.leadership import leading
from services.scheduler.observing import SchedulerMetrics
from services.scheduler.recovering import Recovery, start_of
from services.scheduler.settings import SchedulerSettings

log = logging.getLogger(__name__)

_OUTAGE_PAUSE_S = 0.5


async def serve(stop: asyncio.Event) -> None:
    """Lead whenever nobody else does, until `stop` is set."""
    settings = SchedulerSettings.from_environment()
    async with connected("scheduler", settings) as process:
        metrics = SchedulerMetrics(process.registry)
        await until(stop, _lead_for_ever(process, settings, metrics))


async def _lead_for_ever(process: Process, settings: SchedulerSettings, metrics: SchedulerMetrics) -> None:
    while True:
        try:
            async with leading(settings.microtome_database_url) as guard:
                await _lead(process, settings, metrics, guard)
        except Unavailable as outage:
            log.warning("not leading: %s", outage)
            await asyncio.sleep(_OUTAGE_PAUSE_S)


async def _lead(
    process: Process, settings: SchedulerSettings, metrics: SchedulerMetrics, guard: asyncio.Task[None]
) -> None:
    """Decide, relay and recover until one of them fails; each starts from the log, so starting over costs a fold."""
    decider = Decider(process.log, settings.limits, metrics.observe)
    relay = Relay(process.log, process.bus, PostgresCheckpoint(process.database, "relay"), metrics.passed_over)

    async def dispatch(expired: Expired) -> None:
        await relay.dispatch_again(await start_of(process.log, expired))

    workflows = Workflows(process.log, settings.limits)
    recovery = Recovery(process.leases, workflows, dispatch, settings.dispatch_seconds)
    parts = [
        asyncio.create_task(decider.run(), name="decide"),
        asyncio.create_task(relay.run(), name="relay"),
        asyncio.create_task(recovery.run(), name="recover"),
        asyncio.create_task(metrics.ask(process.bus, lambda: decider.cluster, relay.lag), name="ask"),
    ]
    try:
        done, _ = await asyncio.wait({guard, *parts}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await end(*parts)
