"""From messages of tiles to stored cells.

Promises: batches are filled with tiles of all running jobs, in order of arrival; loading, the network and the
head run at the same time, and as many batches as the engine has lanes; what is in memory is bounded by those, two
batches more and the head's pool. A message is
acknowledged after all of its tiles are stored, so a crash at any point only repeats work. A tile on which the
network fails takes no other tile with it: a batch that fails is run tile by tile.
Refuses: tiles of attempts that no longer run, tiles that have a result (they are not computed again).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from opentelemetry import trace

from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.bus.headers import trace_context
from microtome.bus.queue import Delivery, PullQueue
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import InferWork, Staining, TileRef, TilesInferred
from microtome.crashpoint import CrashPoint, crash_point
from microtome.errors import MicrotomeError
from microtome.process import until
from microtome.segmentation.cells import TileCells, segment_tile, write_cells
from microtome.segmentation.engine import Engine, EngineFailed, lanes_of
from microtome.segmentation.model import Model
from microtome.segmentation.occupancy import Occupancy
from microtome.segmentation.patches import View, infer, lanes_for, unpacked
from microtome.segmentation.stains import HDAB, HE
from microtome.tilestore import PixelsGone, PixelStore, ResultStore, attempt_prefix
from services.inference.assignment import Assignment, LoadedTile
from services.inference.idleness import Idleness
from services.inference.metrics import InferenceMetrics

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("microtome.inference")

FETCH_WAIT_S = 2.0
OUTAGE_PAUSE_S = 0.5

IsCurrent = Callable[[str, int], Awaitable[bool]]
OnDead = Callable[[Delivery, MicrotomeError], Awaitable[None]]


class Pipeline:
    """Works on one model's queue until it is stopped."""

    def __init__(
        self,
        *,
        bus: Bus,
        queue: PullQueue,
        engine: Engine,
        model: Model,
        batch_size: int,
        head_workers: int,
        pixels: PixelStore,
        results: ResultStore,
        is_current: IsCurrent,
        on_dead: OnDead,
        metrics: InferenceMetrics,
    ) -> None:
        self._bus = bus
        self._queue = queue
        self._engine = engine
        self._model = model
        self._batch_size = batch_size
        self._pixels = pixels
        self._results = results
        self._is_current = is_current
        self._on_dead = on_dead
        self._metrics = metrics
        self._loaded: asyncio.Queue[LoadedTile] = asyncio.Queue(maxsize=2 * batch_size)
        self._lanes = lanes_of(engine)
        self._free = asyncio.Semaphore(self._lanes)
        self._finishing = asyncio.Semaphore(head_workers + batch_size * self._lanes)
        self._head_workers = head_workers
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._network = ThreadPoolExecutor(self._lanes, thread_name_prefix="network")
        self._heads = ThreadPoolExecutor(head_workers, thread_name_prefix="head")
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged: deque[tuple[str, int]] = deque(maxlen=64)
        self._idleness = Idleness()
        self._occupancy = Occupancy()

    async def run(self, stop: asyncio.Event) -> None:
        """Fetch and infer until `stop` is set; then finish what is in the network and send the rest back."""
        fetching = asyncio.create_task(self._fetch_for_ever(), name="fetch")
        inferring = asyncio.create_task(self._infer_for_ever(), name="infer")
        try:
            await until(stop, fetching, inferring)
        finally:
            # A tile that is finished may settle its message, which is a task again.
            while self._tasks:
                await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._queue.close()
            for pool in (self._loader, self._network, self._heads):
                pool.shutdown(wait=True, cancel_futures=True)

    async def _fetch_for_ever(self) -> None:
        while True:
            try:
                deliveries = await self._queue.fetch(self._batch_size, FETCH_WAIT_S)
            except MicrotomeError as error:
                log.warning("cannot fetch tiles: %s", error)
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            for delivery in deliveries:
                await self._accept(delivery)

    async def _accept(self, delivery: Delivery) -> None:
        """Load the tiles of one message, as the network has room for them."""
        try:
            work = from_bytes(InferWork, delivery.payload)
            assignment = Assignment(work=work, delivery=delivery, remaining=len(work.tiles))
            if not await self._is_current(*assignment.prefix):
                await self._drop(assignment)
                return
            known = await self._on(self._loader, self._known, work)
        except Exception as error:  # noqa: BLE001 - whatever it is, the message must be settled
            await self._settle_failed(delivery, as_known(error))
            return
        self._metrics.taken(work.job_id)
        self._idleness.present(assignment.prefix, time.perf_counter())
        for tile in work.tiles:
            if (tile.row, tile.column) in known:
                self._tile_done(assignment, cells=0)
                continue
            try:
                loaded = await self._on(self._loader, self._load, assignment, tile)
            except Exception as error:  # noqa: BLE001
                self._tile_done(assignment, error=as_known(error))
                continue
            await self._loaded.put(loaded)

    def _load(self, assignment: Assignment, tile: TileRef) -> LoadedTile:
        pixels = self._pixels.get(tile.pixels)
        height, width = pixels.shape[:2]
        ground = unpacked(tile.ground, width, height)
        # Tiles of one call must be alike, and patches are not.
        whole = self._limit(assignment) > 1
        lanes = lanes_for(self._lanes, len(assignment.grid))
        view = View.of(ground, width, height, self._model.halo_min, whole=whole, lanes=lanes)
        return LoadedTile(assignment, tile, pixels, view)

    def _known(self, work: InferWork) -> frozenset[tuple[int, int]]:
        # Not all known tiles: a large slide has a hundred thousand.
        return frozenset(
            (tile.row, tile.column) for tile in work.tiles if self._results.has(work.content_key, tile.row, tile.column)
        )

    async def _infer_for_ever(self) -> None:
        # What goes wrong in a lane beyond the network itself ends them all.
        async with asyncio.TaskGroup() as running:
            held: LoadedTile | None = None
            while True:
                await self._free.acquire()
                batch, held = await self._next_batch(held)
                running.create_task(self._infer_batch(batch))

    async def _next_batch(self, held: LoadedTile | None) -> tuple[list[LoadedTile], LoadedTile | None]:
        """The next tiles of one call, and one that came with them but has another shape; it begins the next call."""
        batch = [held or await self._loaded.get()]
        while len(batch) < self._limit(batch[0].assignment) and not self._loaded.empty():
            tile = self._loaded.get_nowait()
            if tile.pixels.shape != batch[0].pixels.shape:
                return batch, tile
            batch.append(tile)
        return batch, None

    async def _infer_batch(self, batch: list[LoadedTile]) -> None:
        try:
            live = [tile for tile in batch if tile.assignment.error is None]
            for tile in batch:
                if tile.assignment.error is not None:
                    self._tile_done(tile.assignment)
            if live:
                await self._infer(live)
        finally:
            self._free.release()

    def _limit(self, first: Assignment) -> int:
        """Return how many tiles go into a call: what the job asks for, within what the operator allows.

        Without a wish it is what the engine likes: on a CPU more than that costs memory and keeps the head waiting.
        """
        wish = first.work.batch_size or self._engine.batch_size
        return min(wish, max(self._batch_size, self._engine.batch_size))

    async def _infer(self, batch: list[LoadedTile]) -> None:
        idle = [self._idleness.before(tile.assignment.prefix, time.perf_counter()) / len(batch) for tile in batch]
        self._idleness.began()
        begun = self._occupancy.begin()
        failed: Exception | None = None
        logits: Sequence[NDArray[np.float32]] = ()
        try:
            logits = await self._run_network(batch)
        except Exception as error:  # noqa: BLE001 - the network's errors share no other base
            failed = error
        finally:
            seconds = self._occupancy.end(begun) / len(batch)
            self._idleness.ended(time.perf_counter())
        if failed is not None:
            await self._infer_each(batch, failed)
            return
        self._metrics.network(len(batch), seconds)
        for tile, of_tile, stood_still in zip(batch, logits, idle, strict=True):
            await self._finishing.acquire()
            self._spawn(self._finish(tile, of_tile, {"network": seconds, "idle": stood_still}))

    async def _infer_each(self, batch: list[LoadedTile], error: Exception) -> None:
        """Tiles of a batch that failed. They may belong to several users, and only one that fails alone is at fault."""
        log.error("the network failed on a batch of %d tiles", len(batch), exc_info=error)
        if len(batch) == 1:
            self._tile_done(batch[0].assignment, error=as_known(error))
            return
        for tile in batch:
            if tile.assignment.error is None:
                await self._infer([tile])
            else:
                self._tile_done(tile.assignment)

    async def _run_network(self, batch: list[LoadedTile]) -> Sequence[NDArray[np.float32]]:
        """Logits float32 [5, h, w] of each."""
        # Of one tile not a copy.
        pixels = batch[0].pixels[None] if len(batch) == 1 else np.stack([tile.pixels for tile in batch])
        low = np.stack([tile.assignment.low for tile in batch])
        scale = np.stack([tile.assignment.scale for tile in batch])
        context = trace_context(batch[0].assignment.delivery.headers)
        with _tracer.start_as_current_span("infer batch", context=context, attributes={"tiles": len(batch)}):
            self._log_first(batch[0].assignment)
            views = [tile.view for tile in batch]
            logits: Sequence[NDArray[np.float32]] = await self._on(
                self._network, infer, self._engine, pixels, low, scale, views
            )
            return logits

    def _log_first(self, assignment: Assignment) -> None:
        """One line for each job, not for each batch."""
        if assignment.prefix in self._logged:
            return
        self._logged.append(assignment.prefix)
        log.info("infers", extra={"job_id": assignment.work.job_id, "attempt": assignment.work.attempt})

    async def _finish(self, tile: LoadedTile, logits: NDArray[np.float32], seconds: Mapping[str, float]) -> None:
        work = tile.assignment.work
        path = self._results.tile(work.content_key, tile.ref.row, tile.ref.column)
        try:
            cells = await self._on(self._heads, self._segment_and_store, tile, logits, seconds, path)
        except Exception as error:
            log.exception("a tile's cells could not be found or stored")
            self._tile_done(tile.assignment, error=as_known(error))
        else:
            self._metrics.done(cells.seconds)
            self._tile_done(tile.assignment, cells=len(cells))
        finally:
            self._finishing.release()

    def _segment_and_store(
        self, tile: LoadedTile, logits: NDArray[np.float32], seconds: Mapping[str, float], path: Path
    ) -> TileCells:
        grid = tile.assignment.grid
        place = grid.tile(tile.ref.row, tile.ref.column)
        stain = HDAB if tile.assignment.work.staining is Staining.HDAB else HE
        model = self._model.with_room(grid.halo)
        # All of them, also for one tile: the last of a job has nothing beside it.
        cells = segment_tile(logits, place, model, tile.pixels, stain, self._head_workers).with_seconds(seconds)
        cells = cells.seen(tile.view, place).made(self._engine.name, attempt_prefix(*tile.assignment.prefix))
        crash_point(CrashPoint.INFERENCE_BEFORE_RESULT)
        write_cells(cells, path)
        return cells

    def _tile_done(self, assignment: Assignment, *, cells: int = 0, error: BaseException | None = None) -> None:
        assignment.remaining -= 1
        assignment.cells += cells
        assignment.error = assignment.error or error
        if assignment.remaining == 0:
            self._metrics.settled(assignment.work.job_id)
            self._spawn(self._settle(assignment))

    async def _settle(self, assignment: Assignment) -> None:
        if assignment.error is not None:
            await self._settle_failed(assignment.delivery, assignment.error)
            return
        work = assignment.work
        crash_point(CrashPoint.INFERENCE_AFTER_RESULT_BEFORE_ACK)
        # First of all: whatever else fails, the message must not be held for ever.
        try:
            await assignment.delivery.ack()
        except MicrotomeError as error:
            log.warning("an acknowledgement was lost, the tiles will come again: %s", error)
        crash_point(CrashPoint.INFERENCE_AFTER_ACK_BEFORE_TELL)
        told = TilesInferred(
            job_id=work.job_id,
            attempt=work.attempt,
            tiles=tuple(replace(tile, ground=b"") for tile in work.tiles),
            cells=assignment.cells,
            engine_note=self._engine.note or "",
        )
        try:
            await self._bus.announce(subjects.tiles(work.job_id, work.attempt), to_bytes(told))
        except Exception as error:  # noqa: BLE001 - the tiler looks into the result store, too
            log.warning("finished tiles could not be announced: %s", error)
        await self._forget_pixels(work.tiles)

    async def _settle_failed(self, delivery: Delivery, error: BaseException) -> None:
        try:
            if isinstance(error, PixelsGone):
                # No delivery can bring them back. The tiler misses the result, and decodes the tile again.
                log.warning("%s", error)
                await delivery.ack()
            elif _may_pass(error) and delivery.deliveries < self._queue.spec.max_deliver:
                await delivery.retry()
            else:
                await delivery.dead(error, self._on_dead)
        except Exception:
            log.exception("a message could not be settled and will come again")
            # Otherwise it would be held, and kept alive, as long as this process lives.
            if not delivery.settled:
                with contextlib.suppress(MicrotomeError):
                    await delivery.retry()

    async def _drop(self, assignment: Assignment) -> None:
        await assignment.delivery.ack()
        await self._forget_pixels(assignment.work.tiles)

    async def _forget_pixels(self, tiles: tuple[TileRef, ...]) -> None:
        for tile in tiles:
            try:
                await self._on(self._loader, self._pixels.discard, tile.pixels)
            except OSError as error:  # the tiler clears up after each attempt
                log.warning("pixels could not be removed: %s", error)

    def _spawn(self, work: Any) -> None:  # noqa: ANN401
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    @staticmethod
    async def _on(pool: ThreadPoolExecutor, function: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401
        return await asyncio.get_running_loop().run_in_executor(pool, function, *arguments)


def as_known(error: Exception) -> Exception:
    """Return `error`, as an `EngineFailed` when the machine gave out, not the tile: that may pass."""
    if isinstance(error, MemoryError | OSError):
        return EngineFailed(f"The machine could not work on a tile: {type(error).__name__}: {error}")
    return error


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, MicrotomeError) and error.transient
