"""The merger's composition root."""

from __future__ import annotations

import asyncio

from microtome.artifacts import making
from microtome.artifacts.formats import formats_named
from microtome.artifacts.store import ArtifactStore
from microtome.bus.queue import Delivery
from microtome.bus.topology import MERGE
from microtome.errors import MicrotomeError
from microtome.heap import keep_freed_memory
from microtome.process import connected, until
from microtome.slides import resample
from microtome.telemetry.metrics import WorkerMetrics
from services.merger.clearing import clear_artifacts
from services.merger.handler import MergeHandler
from services.merger.settings import MergerSettings

# Jobs taken for each that one user may have merged at once.
AT_HAND = 8


async def serve(stop: asyncio.Event) -> None:
    """Work on `work.merge` until `stop` is set."""
    keep_freed_memory()
    settings = MergerSettings.from_environment()
    async with connected("merger", settings, warms_up=True) as process:
        await asyncio.to_thread(resample.warm_up)
        await asyncio.to_thread(making.warm_up)
        metrics = WorkerMetrics(process.registry)
        await clear_artifacts(process.queries, ArtifactStore(settings.microtome_data_dir / "artifacts"))
        formats = formats_named(settings.formats)
        handler = MergeHandler(process, settings.microtome_data_dir, settings.merger_jobs, formats)

        async def handle(delivery: Delivery) -> None:
            with metrics.active_jobs.track_inprogress():
                await handler(delivery)

        async def on_dead(delivery: Delivery, error: MicrotomeError) -> None:
            metrics.dead_letters.labels(MERGE.name).inc()
            await handler.on_dead(delivery, error)

        # More than are merged: whoever waits for a turn must not keep another user's jobs in the queue.
        at_hand = AT_HAND * settings.merger_jobs
        worker = await process.bus.consume(MERGE, handle, concurrency=at_hand, on_dead=on_dead)
        process.ready()
        try:
            await until(stop, worker.wait())
        finally:
            await worker.stop(grace_s=5.0)
