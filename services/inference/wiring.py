"""The inference service's composition root."""

from __future__ import annotations

import asyncio
import logging

from microtome.attempts import Attempts
from microtome.bus import topology
from microtome.bus.queue import Delivery
from microtome.contracts.codec import from_bytes
from microtome.contracts.messages import InferWork
from microtome.errors import MicrotomeError
from microtome.heap import keep_freed_memory
from microtome.process import connected
from microtome.segmentation.engines import open_engine
from microtome.segmentation.model import load_model
from microtome.segmentation.warming import warm_up
from microtome.tilestore import LocalPixelStore, ResultStore
from microtome.tissue.fitting import LARGEST
from services.inference.fence import Fence
from services.inference.metrics import InferenceMetrics
from services.inference.pipeline import Pipeline
from services.inference.settings import InferenceSettings

log = logging.getLogger(__name__)


async def serve(stop: asyncio.Event) -> None:
    """Work on the queue of the configured model until `stop` is set."""
    keep_freed_memory()
    settings = InferenceSettings.from_environment()
    model = load_model(settings.instanseg_model)
    model.require_halo(settings.tile_overlap)
    async with connected("inference", settings, warms_up=True) as process:
        engine = await asyncio.to_thread(
            open_engine, model, settings.engine, settings.inference_threads, lanes=settings.inference_lanes
        )
        if engine.note:
            log.info(engine.note)
        warm_s = await asyncio.to_thread(warm_up, model, engine, min(settings.tile_size, LARGEST))
        log.info(
            "ready",
            extra={
                "engine": engine.name,
                "model": model.name,
                "digest": model.digest,
                "warm_s": round(warm_s, 2),
            },
        )
        metrics = InferenceMetrics(process.registry)
        attempts = Attempts(process)

        async def on_dead(delivery: Delivery, error: MicrotomeError) -> None:
            work = from_bytes(InferWork, delivery.payload)
            metrics.dead("infer")
            await attempts.fail(work.job_id, work.workflow_id, work.attempt, error)

        queue = await process.bus.queue(topology.infer(model.digest, settings.engine), on_dead=on_dead)
        pipeline = Pipeline(
            bus=process.bus,
            queue=queue,
            engine=engine,
            model=model,
            batch_size=settings.batch_size,
            head_workers=settings.head_workers,
            pixels=LocalPixelStore(settings.tile_store_dir),
            results=ResultStore(settings.microtome_data_dir / "results"),
            is_current=Fence(process.leases).is_current,
            on_dead=on_dead,
            metrics=metrics,
        )
        process.ready()
        await pipeline.run(stop)
