"""The tiler's composition root."""

from __future__ import annotations

import asyncio

from microtome.bus.queue import Delivery
from microtome.bus.topology import PLAN
from microtome.errors import MicrotomeError
from microtome.process import connected, until
from microtome.segmentation.model import load_model
from microtome.telemetry.metrics import WorkerMetrics
from microtome.tilestore import BoundedResults
from services.tiler import semaphores
from services.tiler.clearing import clear_tile_store
from services.tiler.decoders import Decoders
from services.tiler.evicting import evict_for_ever
from services.tiler.handler import PlanHandler
from services.tiler.settings import TilerSettings
from services.tiler.sharing import Shares


async def serve(stop: asyncio.Event) -> None:
    """Work on `work.plan` until `stop` is set."""
    settings = TilerSettings.from_environment()
    # Better no tiler than one that fails every job.
    load_model(settings.instanseg_model).require_halo(settings.tile_overlap)
    async with connected("tiler", settings, warms_up=True) as process:
        metrics = WorkerMetrics(process.registry)
        semaphores.clear()
        semaphores.name_own()
        decoders = Decoders(settings.decoders)
        await decoders.start()
        shares = Shares(settings.credit, process.queries, process.leases)
        handler = PlanHandler(process, settings, decoders, shares)
        await clear_tile_store(process.queries, settings.tile_store_dir)
        bounded = BoundedResults(settings.microtome_data_dir / "results")

        async def handle(delivery: Delivery) -> None:
            with metrics.active_jobs.track_inprogress():
                await handler(delivery)

        async def on_dead(delivery: Delivery, error: MicrotomeError) -> None:
            metrics.dead_letters.labels(PLAN.name).inc()
            await handler.on_dead(delivery, error)

        worker = await process.bus.consume(PLAN, handle, concurrency=settings.tiler_jobs, on_dead=on_dead)
        process.ready()
        try:
            evicting = evict_for_ever(process.queries, bounded, settings.result_cache_bytes)
            await until(stop, worker.wait(), shares.look_for_ever(), evicting)
        finally:
            # Jobs last longer than any grace; the next attempt resumes them.
            await worker.stop(grace_s=1.0)
            decoders.close()
