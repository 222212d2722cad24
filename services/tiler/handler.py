"""Working on `work.plan`: from a started job to tiles that all have a result.

Promises: the same plan for every attempt; progress is told while tiles finish; at the end the merger is told, and the
lease is handed over. Refuses: slides without a pixel size and slides of another kind than the model knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from microtome.attempts import Attempt, Attempts, HandOver, tell_progress
from microtome.bus import subjects
from microtome.bus.queue import Delivery
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import (
    InferWork,
    JobPlanned,
    JobType,
    MergeWork,
    MppSource,
    Normalisation,
    PlanWork,
    StageSeconds,
    Stain,
    TileRef,
)
from microtome.domain.workflow import ReportPlanned
from microtome.errors import UnknownModel, UnknownMpp, UnsuitableSlide, WorkerLost
from microtome.leases.lease import Progress
from microtome.process import Process
from microtome.readmodels.queries import JobContext
from microtome.segmentation.model import Model, load_model
from microtome.tilestore import LocalPixelStore, ResultStore, attempt_prefix
from services.tiler.decoders import Decoders
from services.tiler.feeding import Address, Feeder
from services.tiler.planning import SlideSource, TilePlan, TissuePlan, decode_tiles, plan_tiles, plan_tissue
from services.tiler.settings import TilerSettings

# Tiles on which the slide's normalisation is measured.
SAMPLES = {JobType.SEGMENT_CELLS: 64, JobType.INSTANSEG_WSI: 200}
TELL_S = 0.25


class PlanHandler:
    """Handles messages of `work.plan`."""

    def __init__(self, process: Process, settings: TilerSettings, decoders: Decoders) -> None:
        self._process = process
        self._settings = settings
        self._decoders = decoders
        self._attempts = Attempts(process)
        self._results_root = settings.microtome_data_dir / "results"
        self._results = ResultStore(self._results_root)
        self._pixels = LocalPixelStore(settings.tile_store_dir)

    async def __call__(self, delivery: Delivery) -> None:
        """Work on one started job."""
        work = from_bytes(PlanWork, delivery.payload)
        await self._attempts.work(work.job_id, work.attempt, "plan", self._plan)

    async def on_dead(self, delivery: Delivery, error: Exception) -> None:
        """Fail the job of a message that could not be worked on."""
        work = from_bytes(PlanWork, delivery.payload)
        known = error if isinstance(error, WorkerLost) else WorkerLost(str(error))
        await self._attempts.fail(work.job_id, work.workflow_id, work.attempt, known)

    async def _plan(self, attempt: Attempt) -> HandOver:
        context = attempt.context
        source, mpp_source = self._source(context)
        await tell_progress(self._process.bus, attempt, "plan")
        tissue = await self._decoders.call(plan_tissue, source, self._results_root)
        work = MergeWork(
            job_id=attempt.job_id,
            workflow_id=context.workflow_id,
            user_id=context.user_id,
            attempt=attempt.attempt,
            tissue_key=tissue.tissue_key,
            mpp=source.mpp,
            mpp_source=mpp_source,
            stage_seconds=(_stage("tissue", tissue.seconds),),
        )
        if context.spec.type != JobType.TISSUE_MASK:
            work = await self._segment(attempt, source, tissue, work)
        message_id = f"{attempt.handling}:merge"
        return HandOver(
            "merge", lambda: self._process.bus.publish(subjects.WORK_MERGE, to_bytes(work), message_id=message_id)
        )

    async def _segment(self, attempt: Attempt, source: SlideSource, tissue: TissuePlan, work: MergeWork) -> MergeWork:
        context, parameters = attempt.context, attempt.context.spec.parameters
        if context.slide.stain == Stain.FLUORESCENCE:
            raise UnsuitableSlide("This is a fluorescence slide; the model knows brightfield H&E only.")
        if source.mpp is None:
            raise UnknownMpp
        model_name = self._settings.instanseg_model
        if parameters is not None and parameters.model not in (None, model_name):
            raise UnknownModel(f"This server runs the model '{model_name}'; choose it, or leave `model` out.")
        model = await asyncio.to_thread(load_model, model_name)
        plan = await self._decoders.call(
            plan_tiles,
            source,
            tissue.tissue_key,
            model_name,
            (parameters and parameters.tile_size) or self._settings.tile_size,
            self._settings.tile_overlap if parameters is None or parameters.halo is None else parameters.halo,
            SAMPLES[context.spec.type],
            self._results_root,
        )
        normalisation = Normalisation(low=plan.low, high=plan.high)
        planned = JobPlanned(
            job_id=attempt.job_id,
            attempt=attempt.attempt,
            tiles_total=plan.tiles_total,
            tiles_skipped=plan.tiles_skipped,
            normalisation=normalisation,
            scale=plan.scale,
            model=model.name,
            model_digest=model.digest,
        )
        await self._process.workflows.execute(context.workflow_id, ReportPlanned(planned))
        cached, decode_s, engine = await self._infer(attempt, source, plan, model, normalisation)
        return replace(
            work,
            content_key=plan.content_key,
            grid_width=plan.width,
            grid_height=plan.height,
            tile_size=plan.tile_size,
            halo=plan.halo,
            scale=plan.scale,
            tiles_total=plan.tiles_total,
            tiles_skipped=plan.tiles_skipped,
            tiles_cached=cached,
            model=model.name,
            model_digest=model.digest,
            normalisation=normalisation,
            stage_seconds=(*work.stage_seconds, _stage("plan", plan.seconds), _stage("decode", decode_s)),
            notes=(*context.slide.notes, *plan.notes),
            engine=engine,
        )

    async def _infer(
        self, attempt: Attempt, source: SlideSource, plan: TilePlan, model: Model, normalisation: Normalisation
    ) -> tuple[int, float, str]:
        """Bring every wanted tile through inference; return cached tiles, seconds of decoding, engine."""
        context, bus = attempt.context, self._process.bus
        parameters = context.spec.parameters
        decode_s = 0.0

        def progress(done: int, cells: int) -> None:
            attempt.progress = Progress(
                tiles_total=plan.tiles_total, tiles_processed=done, tiles_skipped=plan.tiles_skipped, cells=cells
            )

        async def decode(addresses: Sequence[Address]) -> InferWork:
            nonlocal decode_s
            # Pixels that come late would lie in the tile store for ever.
            keys, seconds = await self._decoders.call_whole(
                decode_tiles,
                source,
                model.mpp,
                plan,
                tuple(addresses),
                attempt.job_id,
                attempt.attempt,
                self._pixel_root,
            )
            decode_s += seconds
            refs = zip(addresses, keys, strict=True)
            return InferWork(
                job_id=attempt.job_id,
                workflow_id=context.workflow_id,
                user_id=context.user_id,
                attempt=attempt.attempt,
                model=model.name,
                model_digest=model.digest,
                content_key=plan.content_key,
                grid_width=plan.width,
                grid_height=plan.height,
                tile_size=plan.tile_size,
                halo=plan.halo,
                normalisation=normalisation,
                batch_size=(parameters and parameters.batch_size) or 0,
                tiles=tuple(TileRef(row=row, column=column, pixels=key) for (row, column), key in refs),
            )

        feeder = Feeder(
            bus,
            subjects.work_infer(model.digest),
            attempt.job_id,
            attempt.attempt,
            handling=attempt.handling,
            credit=self._settings.credit,
            batch_size=(parameters and parameters.batch_size) or self._settings.batch_size,
            stalled_s=self._settings.stalled_seconds,
            progress=progress,
        )

        def finished(addresses: Sequence[Address]) -> frozenset[Address]:
            return frozenset(address for address in addresses if self._results.has(plan.content_key, *address))

        # An attempt that was killed could not clear up after itself.
        for earlier in range(1, attempt.attempt):
            await asyncio.to_thread(self._pixels.discard_prefix, attempt_prefix(attempt.job_id, earlier))
        telling = asyncio.create_task(self._tell(attempt))
        try:
            cached = await feeder.feed(
                plan.wanted,
                decode,
                lambda: asyncio.to_thread(self._results.known, plan.content_key),
                lambda addresses: asyncio.to_thread(finished, addresses),
            )
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            # Whatever is still there belongs to this attempt alone.
            await asyncio.to_thread(self._pixels.discard_prefix, attempt_prefix(attempt.job_id, attempt.attempt))
        await tell_progress(bus, attempt, "infer")
        return cached, decode_s, feeder.engine or "none: every tile had a result"

    async def _tell(self, attempt: Attempt) -> None:
        told: Progress | None = None
        while True:
            if attempt.progress != told:
                told = attempt.progress
                await tell_progress(self._process.bus, attempt, "infer")
            await asyncio.sleep(TELL_S)

    @property
    def _pixel_root(self) -> Path:
        return self._settings.tile_store_dir

    def _source(self, context: JobContext) -> tuple[SlideSource, MppSource]:
        """The slide as this job reads it: what the job's parameters say of its pixels comes first."""
        slide, parameters = context.slide, context.spec.parameters
        mpp, mpp_source = slide.mpp, slide.mpp_source
        if parameters is not None and parameters.mpp is not None:
            mpp, mpp_source = parameters.mpp, MppSource.USER
        elif parameters is not None and parameters.assume_mpp is not None and mpp is None:
            mpp, mpp_source = parameters.assume_mpp, MppSource.ASSUMED
        path = self._settings.microtome_data_dir / slide.path
        return SlideSource(tenant=context.user_id, path=path, sha256=slide.sha256, mpp=mpp), mpp_source


def _stage(stage: str, seconds: float) -> StageSeconds:
    return StageSeconds(stage=stage, seconds=round(seconds, 4))
