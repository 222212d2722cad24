"""Working on `work.merge`: from tile results to published artifacts and `JobSucceeded`.

Promises: artifacts are visible before the event that speaks of them; a cancelled job stops within a second and leaves
nothing half-written. Refuses: stale attempts.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

from microtome.artifacts.formats import EVERY_JOBS
from microtome.artifacts.store import ArtifactStore, Readers
from microtome.attempts import Attempt, Attempts, tell_progress
from microtome.bus.queue import Delivery
from microtome.contracts.codec import from_bytes
from microtome.contracts.messages import Artifact, JobParameters, JobResult, MergeWork
from microtome.crashpoint import CrashPoint, crash_point
from microtome.domain.workflow import ReportSuccess
from microtome.errors import MicrotomeError, StaleAttempt
from microtome.leases.lease import Progress
from microtome.process import Process
from microtome.tilestore import ResultStore
from microtome.tissue.region import Region
from microtome.tissue.store import outline_of
from services.merger.making import Order, make_artifacts
from services.merger.turns import Turns


class MergeHandler:
    """Handles messages of `work.merge`."""

    def __init__(
        self, process: Process, data_dir: Path, jobs_of_a_user: int, formats: tuple[str, ...] = EVERY_JOBS
    ) -> None:
        """`jobs_of_a_user`: how many of one user's jobs are merged at once; the others wait, and hold their leases.

        `formats`: in which files the cells are.
        """
        self._process = process
        self._turns = Turns(jobs_of_a_user)
        self._data_dir = data_dir
        self._formats = formats
        self._attempts = Attempts(process)
        self._results = ResultStore(data_dir / "results")
        self._artifacts = ArtifactStore(data_dir / "artifacts")

    async def __call__(self, delivery: Delivery) -> None:
        """Merge one job."""
        work = from_bytes(MergeWork, delivery.payload)

        async def merge(attempt: Attempt) -> None:
            crash_point(CrashPoint.MERGER_AFTER_LEASE)
            async with self._turns.of(attempt.context.user_id):
                await self._merge(attempt, work)

        await self._attempts.work(work.job_id, work.attempt, "merge", merge)

    async def on_dead(self, delivery: Delivery, error: MicrotomeError) -> None:
        """Fail the job of a message that could not be worked on."""
        work = from_bytes(MergeWork, delivery.payload)
        await self._attempts.fail(work.job_id, work.workflow_id, work.attempt, error)

    async def _merge(self, attempt: Attempt, work: MergeWork) -> None:
        processed = work.tiles_total - work.tiles_skipped
        attempt.progress = Progress(
            tiles_total=work.tiles_total,
            tiles_processed=processed,
            tiles_skipped=work.tiles_skipped,
            cells=attempt.progress.cells,
        )
        await tell_progress(self._process.bus, attempt, "merge")
        parameters = attempt.context.spec.parameters or JobParameters()
        slide_path = self._data_dir / attempt.context.slide.path
        drawn = parameters.tissue
        order = Order(
            work=work,
            job_type=attempt.context.spec.type,
            slide=attempt.context.slide,
            slide_path=slide_path,
            results=self._results,
            region=Region.like(parameters.region),
            outline=None if drawn is None else await asyncio.to_thread(outline_of, slide_path, drawn.sha256),
            formats=self._formats,
        )
        result = await self._make(attempt, order)
        crash_point(CrashPoint.MERGER_AFTER_RENAME_BEFORE_APPEND)
        report = ReportSuccess(attempt.job_id, attempt.attempt, result)
        try:
            await self._process.workflows.execute(work.workflow_id, report)
        except StaleAttempt:  # cancelled in the last moment
            await asyncio.to_thread(self._artifacts.withdraw, attempt.job_id, attempt.attempt)
            raise
        crash_point(CrashPoint.MERGER_AFTER_APPEND_BEFORE_ACK)
        attempt.note("succeeded", cells=result.cells, artifacts={a.name: a.size_bytes for a in result.artifacts})

    async def _make(self, attempt: Attempt, order: Order) -> JobResult:
        """Make and publish in a thread that stops soon after this task is cancelled."""
        cancelled = threading.Event()

        def go_on() -> None:
            if cancelled.is_set():
                raise StaleAttempt

        def progress(_tiles: int, cells: int) -> None:
            go_on()
            # Never back: tiles of an earlier attempt are counted here first.
            attempt.progress = replace(attempt.progress, cells=max(cells, attempt.progress.cells))

        def work() -> JobResult:
            self._artifacts.sweep(attempt.job_id, attempt.attempt)
            # The readers end before the folder does.
            with self._artifacts.draft(attempt.job_id, attempt.attempt) as draft, Readers(go_on) as readers:
                result = make_artifacts(order, draft, progress, readers.begin)
                go_on()
                crash_point(CrashPoint.MERGER_AFTER_ARTIFACTS_BEFORE_RENAME)
                stored = self._artifacts.publish(draft, attempt.job_id, attempt.attempt, go_on, readers)
            artifacts = tuple(
                Artifact(name=a.name, media_type=a.media_type, size_bytes=a.size_bytes, sha256=a.sha256) for a in stored
            )
            return replace(result, artifacts=artifacts)

        making = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            cancelled.set()
            # It stops at its next tile, or was about to publish.
            await asyncio.wait({making})
            if making.exception() is None:
                self._artifacts.withdraw(attempt.job_id, attempt.attempt)
            raise
