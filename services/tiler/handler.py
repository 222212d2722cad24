"""Working on `work.plan`: from a started job to tiles that all have a result.

Promises: the same plan for every attempt; progress is told while tiles finish; at the end the merger is told, and the
lease is handed over. Refuses: slides without a pixel size and slides of another kind than the model knows.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace

from microtome.attempts import Attempt, Attempts, HandOver, tell_progress
from microtome.bus import subjects
from microtome.bus.queue import Delivery
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import (
    InferWork,
    JobParameters,
    JobPlanned,
    JobType,
    MergeWork,
    MppSource,
    PlanWork,
    StageSeconds,
    Stain,
    Staining,
    TileRef,
)
from microtome.crashpoint import CrashPoint, crash_point
from microtome.domain.workflow import ReportPlanned
from microtome.errors import UnknownModel, UnknownMpp, UnsuitableSlide, WorkerLost
from microtome.leases.lease import Progress
from microtome.process import Process, end
from microtome.readmodels.queries import JobContext
from microtome.segmentation.model import Model, load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.patches import packed
from microtome.segmentation.sampling import MAX_BLOCKS
from microtome.tilestore import BoundedResults, LocalPixelStore, ResultStore, attempt_prefix
from microtome.tissue.ground import Ground
from microtome.tissue.region import Region
from services.tiler.decoders import Decoders
from services.tiler.feeding import Address, Feeder
from services.tiler.milestones import Milestones
from services.tiler.planning import (
    SlideSource,
    TilePlan,
    TissuePlan,
    decode_tiles,
    lay_out,
    plan_tissue,
    results_key,
    sample_tiles,
    tissue_key,
)
from services.tiler.settings import TilerSettings
from services.tiler.sharing import Shares, batch_limit, message_limit
from services.tiler.wishes import GIVEN_NORMALISATION, given_normalisation

# Blocks of the sampling lattice that are measured in one call of a decoder.
SAMPLED_AT_ONCE = 64
TELL_S = 0.25
# Edge of the tiles that credit is meant in: of larger ones a job has fewer outstanding, or others would wait longer.
USUAL_TILE = 1024


class PlanHandler:
    """Handles messages of `work.plan`."""

    def __init__(self, process: Process, settings: TilerSettings, decoders: Decoders, shares: Shares) -> None:
        self._process = process
        self._shares = shares
        self._settings = settings
        self._decoders = decoders
        self._attempts = Attempts(process)
        self._results_root = settings.microtome_data_dir / "results"
        self._results = ResultStore(self._results_root)
        self._bounded = BoundedResults(self._results_root)
        self._pixels = LocalPixelStore(settings.tile_store_dir)
        # As inference, which serves the one that it has loaded.
        self._loaded = load_model(settings.instanseg_model)

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
        crash_point(CrashPoint.TILER_AFTER_LEASE)
        context = attempt.context
        source, mpp_source = self._source(context)
        await tell_progress(self._process.bus, attempt, "plan")
        work = await self._work(attempt, source, mpp_source)
        crash_point(CrashPoint.TILER_BEFORE_HAND_OVER)

        async def tell() -> None:
            crash_point(CrashPoint.TILER_AFTER_HAND_OVER_BEFORE_PUBLISH)
            await self._process.bus.publish(subjects.WORK_MERGE, to_bytes(work), message_id=f"{attempt.handling}:merge")

        return HandOver("merge", tell)

    async def _work(self, attempt: Attempt, source: SlideSource, mpp_source: MppSource) -> MergeWork:
        context = attempt.context
        region = Region.like((context.spec.parameters or JobParameters()).region)
        if region is not None:
            region.check_on(context.slide.width, context.slide.height)
        tissue = await self._tissue(attempt, source)
        work = MergeWork(
            job_id=attempt.job_id,
            workflow_id=context.workflow_id,
            user_id=context.user_id,
            attempt=attempt.attempt,
            tissue_key=tissue.tissue_key,
            mpp=source.mpp,
            mpp_source=mpp_source,
            stage_seconds=(_stage("tissue", tissue.seconds),),
            staining=_staining(context),
        )
        if context.spec.type == JobType.TISSUE_MASK:
            return work
        return await self._segment(attempt, source, tissue, work)

    async def _tissue(self, attempt: Attempt, source: SlideSource) -> TissuePlan:
        """Find the tissue, or what was found before, and keep it until the job is over."""
        # First of all: what is found from here on is not evicted.
        await asyncio.to_thread(self._bounded.hold, attempt.job_id, tissue_key=tissue_key(source))
        alone = attempt.context.spec.type == JobType.TISSUE_MASK
        return await self._decoders.call(plan_tissue, source, self._results_root, alone)

    async def _segment(self, attempt: Attempt, source: SlideSource, tissue: TissuePlan, work: MergeWork) -> MergeWork:
        context = attempt.context
        model = self._model(context, source)
        plan = await self._tile_plan(attempt, source, tissue, model)
        layout = plan.layout
        planned = JobPlanned(
            job_id=attempt.job_id,
            attempt=attempt.attempt,
            tiles_total=layout.tiles_total,
            tiles_skipped=layout.tiles_skipped,
            normalisation=plan.message,
            scale=layout.scale,
            model=model.name,
            model_digest=model.digest,
        )
        # The first tiles are decoded meanwhile; none is sent before it is a fact.
        appended = asyncio.create_task(self._append(attempt, planned))
        try:
            ground = None
            if layout.on_ground:
                ground = Ground(await asyncio.to_thread(self._results.mask, tissue.tissue_key), layout.scale)
            decode_s, notes = await self._infer(attempt, source, plan, model, ground, appended)
        finally:
            await end(appended)
        return replace(
            work,
            content_key=plan.content_key,
            grid_width=layout.grid.width,
            grid_height=layout.grid.height,
            tile_size=layout.grid.tile_size,
            halo=layout.grid.halo,
            scale=layout.scale,
            tiles_total=layout.tiles_total,
            tiles_skipped=layout.tiles_skipped,
            model=model.name,
            model_digest=model.digest,
            normalisation=plan.message,
            stage_seconds=(*work.stage_seconds, _stage("plan", plan.seconds), _stage("decode", decode_s)),
            notes=(*context.slide.notes, *layout.notes, *plan.notes, *notes),
        )

    async def _append(self, attempt: Attempt, planned: JobPlanned) -> None:
        await self._process.workflows.execute(attempt.context.workflow_id, ReportPlanned(planned))
        crash_point(CrashPoint.TILER_AFTER_PLAN_APPEND)
        attempt.note("planned", tiles_total=planned.tiles_total, tiles_without_tissue=planned.tiles_skipped)

    def _model(self, context: JobContext, source: SlideSource) -> Model:
        """The model for this job; raises for slides and wishes that it does not fit."""
        parameters = context.spec.parameters
        if context.slide.stain == Stain.FLUORESCENCE:
            raise UnsuitableSlide("This is a fluorescence slide; the model knows brightfield H&E only.")
        if source.mpp is None:
            raise UnknownMpp
        model_name = self._settings.instanseg_model
        if parameters is not None and parameters.model not in (None, model_name):
            raise UnknownModel(f"This server runs the model '{model_name}'; choose it, or leave `model` out.")
        return self._loaded

    async def _tile_plan(self, attempt: Attempt, source: SlideSource, tissue: TissuePlan, model: Model) -> TilePlan:
        context = attempt.context
        parameters = context.spec.parameters or JobParameters()
        given = parameters.normalisation
        layout = await self._decoders.call(
            lay_out,
            source,
            tissue.tissue_key,
            model,
            parameters.tile_size or self._settings.tile_size,
            parameters.tile_size is None,
            self._settings.tile_overlap if parameters.halo is None else parameters.halo,
            0 if given else MAX_BLOCKS,
            Region.like(parameters.region),
            None if parameters.tissue is None else parameters.tissue.sha256,
            self._results_root,
            SAMPLED_AT_ONCE,
        )
        seconds = layout.seconds
        notes: tuple[str, ...] = ()
        if given is not None:
            normalisation, notes = given_normalisation(given), (GIVEN_NORMALISATION,)
        else:
            # Some at a time: whoever else plans or decodes must not wait for all of them.
            histogram = layout.histogram
            for start in range(SAMPLED_AT_ONCE, len(layout.samples), SAMPLED_AT_ONCE):
                chosen = layout.samples[start : start + SAMPLED_AT_ONCE]
                some, took = await self._decoders.call(sample_tiles, source, model.mpp, chosen)
                histogram, seconds = histogram + some, seconds + took
            normalisation = Normalisation.from_histogram(histogram, model.percentiles)
        return TilePlan(
            layout=layout,
            normalisation=normalisation,
            content_key=results_key(
                source,
                model,
                layout.grid,
                layout.scale,
                layout.on_ground,
                normalisation,
                _staining(context),
                self._settings.engine,
            ),
            seconds=seconds,
            notes=notes,
        )

    async def _infer(
        self,
        attempt: Attempt,
        source: SlideSource,
        plan: TilePlan,
        model: Model,
        ground: Ground | None,
        appended: asyncio.Task[None],
    ) -> tuple[float, Sequence[str]]:
        """Bring every wanted tile through inference; return seconds of decoding, and what engines say of themselves.

        `ground`: where cells are looked for; None: everywhere. `appended`: the plan is in the log.
        """
        context, bus, layout = attempt.context, self._process.bus, plan.layout
        wish = (context.spec.parameters and context.spec.parameters.batch_size) or 0
        decode_s = 0.0
        milestones = Milestones(attempt, len(layout.wanted))

        def progress(done: int, cells: int) -> None:
            attempt.progress = Progress(
                tiles_total=layout.tiles_total, tiles_processed=done, tiles_skipped=layout.tiles_skipped, cells=cells
            )
            milestones.tell(done, cells)

        def ground_of(row: int, column: int) -> bytes:
            return b"" if ground is None else packed(ground.of(layout.grid.tile(row, column)))

        async def decode(addresses: Sequence[Address]) -> InferWork:
            nonlocal decode_s
            # Pixels that come late would lie in the tile store for ever.
            keys, seconds = await self._decoders.call_whole(
                decode_tiles,
                source,
                model.mpp,
                layout.grid,
                tuple(addresses),
                attempt.job_id,
                attempt.attempt,
                self._settings.tile_store_dir,
            )
            decode_s += seconds
            await asyncio.shield(appended)
            refs = zip(addresses, keys, strict=True)
            return InferWork(
                job_id=attempt.job_id,
                workflow_id=context.workflow_id,
                user_id=context.user_id,
                attempt=attempt.attempt,
                model=model.name,
                model_digest=model.digest,
                content_key=plan.content_key,
                grid_width=layout.grid.width,
                grid_height=layout.grid.height,
                tile_size=layout.grid.tile_size,
                halo=layout.grid.halo,
                normalisation=plan.message,
                batch_size=wish,
                staining=_staining(context),
                tiles=tuple(
                    TileRef(row=row, column=column, pixels=key, ground=ground_of(row, column))
                    for (row, column), key in refs
                ),
            )

        # A message never holds more work than the operator's batch, whatever the job wishes: credit counts messages.
        most = min(wish or self._settings.batch_size, self._settings.batch_size)
        tile_pixels = layout.grid.tile_width * layout.grid.tile_height
        batch = batch_limit(most, USUAL_TILE, math.isqrt(tile_pixels))
        feeder = Feeder(
            bus,
            subjects.work_infer(model.digest, self._settings.engine),
            attempt.job_id,
            attempt.attempt,
            handling=attempt.handling,
            share=lambda: message_limit(self._shares.of(attempt.job_id), batch * tile_pixels, most * USUAL_TILE**2),
            batch_size=batch,
            stalled_s=self._settings.stalled_seconds,
            progress=progress,
        )

        def finished(addresses: Sequence[Address]) -> frozenset[Address]:
            return frozenset(address for address in addresses if self._results.has(plan.content_key, *address))

        # Before it is asked what is known: from here on nothing of it goes.
        await asyncio.to_thread(self._bounded.hold, attempt.job_id, content_key=plan.content_key)
        # An attempt that was killed could not clear up after itself.
        for earlier in range(1, attempt.attempt):
            await asyncio.to_thread(self._pixels.discard_prefix, attempt_prefix(attempt.job_id, earlier))
        telling = asyncio.create_task(self._tell(attempt))
        try:
            with self._shares.feeding(attempt.job_id, context.user_id):
                await feeder.feed(
                    layout.wanted,
                    decode,
                    lambda: asyncio.to_thread(self._results.known, plan.content_key),
                    lambda addresses: asyncio.to_thread(finished, addresses),
                )
            await asyncio.shield(appended)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            # Whatever is still there belongs to this attempt alone.
            await asyncio.to_thread(self._pixels.discard_prefix, attempt_prefix(attempt.job_id, attempt.attempt))
        await tell_progress(bus, attempt, "infer")
        return decode_s, feeder.notes

    async def _tell(self, attempt: Attempt) -> None:
        told: Progress | None = None
        while True:
            if attempt.progress != told:
                told = attempt.progress
                await tell_progress(self._process.bus, attempt, "infer")
            await asyncio.sleep(TELL_S)

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


def _staining(context: JobContext) -> Staining:
    return (context.spec.parameters or JobParameters()).staining or Staining.HE


def _stage(stage: str, seconds: float) -> StageSeconds:
    return StageSeconds(stage=stage, seconds=round(seconds, 4))
