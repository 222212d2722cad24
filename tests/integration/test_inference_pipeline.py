"""The inference pipeline with the real engine and real NATS: what it stores, how it fills batches, what it refuses."""

from __future__ import annotations

import asyncio
import errno
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from prometheus_client import CollectorRegistry

from microtome.bus import subjects
from microtome.bus.jetstream import JetStreamBus
from microtome.bus.queue import Delivery
from microtome.bus.topology import infer
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import InferWork, TileRef, TilesInferred
from microtome.contracts.messages import Normalisation as NormalisationMessage
from microtome.errors import MicrotomeError
from microtome.segmentation.cells import read_cells
from microtome.segmentation.engine import OnnxRuntimeEngine, cut_out
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.patches import Bits, packed
from microtome.segmentation.reading import ArrayReader, pad_reflect
from microtome.segmentation.run import segment
from microtome.tilestore import LocalPixelStore, ResultStore, pixel_key
from services.inference.metrics import InferenceMetrics
from services.inference.pipeline import Pipeline

CROP = Path(__file__).parents[1] / "data" / "cmu-1-small-region-crop.jpg"
TILE = 320


class WatchedEngine:
    """The real engine, and the sizes of the batches that it was given."""

    name = "onnxruntime-cpu-fp32"
    note: str | None = None
    batch_size = 1

    def __init__(self, model: Model) -> None:
        self._engine = OnnxRuntimeEngine(model, device="cpu")
        self.batches: list[int] = []
        # What happens before each call of the network.
        self.mishap: Callable[[NDArray[np.float32]], None] = lambda _low: None

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        self.batches.append(len(pixels))
        self.mishap(low)
        return self._engine.infer(pixels, low, scale)


class LanedEngine(WatchedEngine):
    """The same, two calls of which may run at a time; and how many did."""

    lanes = 2

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.most = self._running = 0
        self._lock = threading.Lock()

    def infer(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            time.sleep(0.1)  # in the meantime the next tile is loaded
            return super().infer(pixels, low, scale)
        finally:
            with self._lock:
                self._running -= 1

    def infer_part(
        self, pixels: NDArray[np.uint8], low: NDArray[np.float32], scale: NDArray[np.float32], wanted: Rect
    ) -> NDArray[np.float32]:
        return cut_out(self.infer(pixels, low, scale), wanted)


class Bench:
    """One pipeline on a real queue."""

    def __init__(self, bus: JetStreamBus, model: Model, root: Path) -> None:
        self.bus = bus
        self.model = model
        self.engine = WatchedEngine(model)
        self.pixels = LocalPixelStore(root / "pixels")
        self.results = ResultStore(root / "results")
        self.image = np.asarray(Image.open(CROP).convert("RGB"))
        self.reader = ArrayReader(self.image)
        self.grid = Grid(self.reader.width, self.reader.height, TILE, model.halo_min)
        self.stale: set[str] = set()
        self.dead: list[tuple[str, MicrotomeError]] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        queue = await self.bus.queue(infer(self.model.digest, "auto"), on_dead=self._on_dead)
        stop = asyncio.Event()
        pipeline = Pipeline(
            bus=self.bus,
            queue=queue,
            engine=self.engine,
            model=self.model,
            batch_size=4,
            head_workers=1,
            pixels=self.pixels,
            results=self.results,
            is_current=self._is_current,
            on_dead=self._on_dead,
            metrics=InferenceMetrics(CollectorRegistry()),
        )
        task = asyncio.create_task(pipeline.run(stop))
        try:
            yield
        finally:
            stop.set()
            await task

    async def send(
        self,
        job: str,
        normalisation: Normalisation,
        tiles: list[tuple[int, int]],
        batch_size: int,
        grounds: Mapping[tuple[int, int], bytes] | None = None,
    ) -> None:
        refs = []
        for row, column in tiles:
            key = pixel_key(job, 1, row, column)
            self.pixels.put(key, pad_reflect(self.reader, self.grid.tile(row, column).padded))
            ground = (grounds or {}).get((row, column), b"")
            refs.append(TileRef(row=row, column=column, pixels=key, ground=ground))
        work = InferWork(
            job_id=job,
            workflow_id="w",
            user_id="u",
            attempt=1,
            model_digest=self.model.digest,
            content_key=job,
            grid_width=self.grid.width,
            grid_height=self.grid.height,
            tile_size=TILE,
            halo=self.grid.halo,
            normalisation=NormalisationMessage(low=normalisation.low, high=normalisation.high),
            tiles=tuple(refs),
            batch_size=batch_size,
        )
        await self.bus.publish(
            subjects.work_infer(self.model.digest, "auto"), to_bytes(work), message_id=f"{job}:{uuid.uuid4()}"
        )

    def expected(
        self,
        normalisation: Normalisation,
        tiles: list[tuple[int, int]],
        ground: Callable[[Tile], Bits] | None = None,
    ) -> dict[tuple[int, int], bytes]:
        wanted = set(tiles)
        engine = OnnxRuntimeEngine(self.model, device="cpu")
        found = segment(
            self.reader,
            self.model,
            engine,
            self.grid,
            normalisation=normalisation,
            wanted=lambda tile: (tile.row, tile.column) in wanted,
            ground=ground,
        )
        return {(tile.row, tile.column): cells.ring_points.tobytes() for tile, cells in found}

    def stored(self, job: str) -> dict[tuple[int, int], bytes]:
        return {at: read_cells(self.results.tile(job, *at)).ring_points.tobytes() for at in self.results.known(job)}

    async def drained(self, within_s: float = 60) -> None:
        async with asyncio.timeout(within_s):
            while await self.bus.depth(infer(self.model.digest, "auto")):
                await asyncio.sleep(0.05)

    async def _is_current(self, job_id: str, attempt: int) -> bool:
        return attempt == 1 and job_id not in self.stale

    async def _on_dead(self, delivery: Delivery, error: MicrotomeError) -> None:
        self.dead.append((from_bytes(InferWork, delivery.payload).job_id, error))


@pytest.fixture
async def bench(fresh_nats_url: str, model: Model, tmp_path: Path) -> AsyncIterator[Bench]:
    bus = await JetStreamBus.connect(fresh_nats_url, name="test")
    yield Bench(bus, model, tmp_path)
    await bus.close()


@pytest.fixture
def normalisations(bench: Bench) -> Iterator[tuple[Normalisation, Normalisation]]:
    measured = Normalisation.from_histogram(Histogram.of(bench.image), bench.model.percentiles)
    red, green, blue = measured.low
    return measured, Normalisation((red, green + 9, blue + 5), measured.high)


TILES = [(0, 0), (0, 1), (1, 0)]


async def test_one_batch_holds_tiles_of_several_jobs_and_each_gets_its_own_cells(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    one, two = normalisations
    bench.engine.note = "Chosen for a reason."
    await bench.send("job-1", one, TILES, batch_size=4)
    await bench.send("job-2", two, TILES, batch_size=4)
    async with await bench.bus.listen(subjects.tiles("job-2", 1)) as told:
        async with bench.running():
            await bench.drained()
        announcement = from_bytes(TilesInferred, (await anext(told)).payload)
    assert sum(bench.engine.batches) == 2 * len(TILES)
    # Three tiles of a job cannot fill four places alone.
    assert max(bench.engine.batches) == 4
    assert bench.stored("job-1") == bench.expected(one, TILES)
    assert bench.stored("job-2") == bench.expected(two, TILES)
    made = {(cells.engine, cells.made_by) for cells in (bench.results.read("job-2", *tile) for tile in TILES)}
    assert made == {(bench.engine.name, "job-2/1")}
    assert bench.stored("job-1") != bench.stored("job-2"), "the normalisation of each job must count"
    assert {(tile.row, tile.column) for tile in announcement.tiles} == set(TILES)
    assert announcement.engine_note == "Chosen for a reason."
    assert not list((bench.pixels._root).rglob("*.npy")), "pixels of finished tiles are forgotten"


async def test_a_job_without_a_wish_gets_the_batch_that_the_engine_likes(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    await bench.send("job-1", normalisations[0], TILES, batch_size=0)
    async with bench.running():
        await bench.drained()
    assert bench.engine.batches == [1, 1, 1]


async def test_each_lane_has_a_tile_and_nobody_sees_it_in_the_cells(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    engine = bench.engine = LanedEngine(bench.model)
    one, two = normalisations
    await bench.send("job-1", one, TILES, batch_size=1)
    await bench.send("job-2", two, TILES, batch_size=1)
    async with bench.running():
        await bench.drained()
    assert engine.most == engine.lanes
    assert engine.batches == [1] * 2 * len(TILES)
    assert bench.stored("job-1") == bench.expected(one, TILES)
    assert bench.stored("job-2") == bench.expected(two, TILES)


async def test_cells_are_looked_for_on_the_ground_that_the_message_names(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    def ground(tile: Tile) -> Bits:
        # A strip along the slide's upper edge.
        rows = np.arange(tile.padded.height // 16) + tile.padded.y // 16
        return np.repeat(rows[:, None] < 5, tile.padded.width // 16, axis=1)

    tiles = TILES[:2]
    grounds = {at: packed(ground(bench.grid.tile(*at))) for at in tiles}
    await bench.send("whole", normalisations[0], tiles, batch_size=4, grounds=grounds)
    await bench.send("patched", normalisations[0], tiles, batch_size=1, grounds=grounds)
    await bench.send("broken", normalisations[0], tiles[:1], batch_size=1, grounds={tiles[0]: b"\1"})
    await bench.send("everywhere", normalisations[0], tiles, batch_size=1)
    async with bench.running():
        await bench.drained()
    expected = bench.expected(normalisations[0], tiles, ground)
    assert bench.stored("whole") == bench.stored("patched") == expected != bench.stored("everywhere")
    assert all(read_cells(bench.results.tile("patched", *at)).seed_y.max() < 80 for at in tiles)
    pixels = {
        job: {read_cells(bench.results.tile(job, *at)).network_px for at in tiles}
        for job in ("whole", "patched", "everywhere")
    }
    # The strip and the 96 pixels below it that the network sees.
    width, height = bench.grid.tile_width, bench.grid.tile_height
    assert pixels == {"whole": {width * height}, "patched": {width * (80 + 96)}, "everywhere": {width * height}}
    assert [(job, error.code) for job, error in bench.dead] == [("broken", "invalid-request")]


async def test_tiles_of_stale_attempts_and_known_tiles_are_not_computed(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    bench.stale.add("job-2")
    await bench.send("job-1", normalisations[0], TILES, batch_size=4)
    await bench.send("job-2", normalisations[0], TILES, batch_size=4)
    async with bench.running():
        await bench.drained()
        assert sum(bench.engine.batches) == len(TILES)
        before = bench.stored("job-1")
        await bench.send("job-1", normalisations[0], TILES, batch_size=4)
        await bench.drained()
    assert sum(bench.engine.batches) == len(TILES)
    assert bench.stored("job-1") == before
    assert not bench.stored("job-2")


async def test_a_message_that_makes_no_sense_is_dead_and_the_next_one_is_worked_on(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    await bench.send("job-1", normalisations[0], [], batch_size=1)
    await bench.send("job-2", normalisations[0], TILES[:1], batch_size=1)
    async with bench.running():
        await bench.drained()
    assert [(job, error.code) for job, error in bench.dead] == [("job-1", "invalid-request")]
    assert set(bench.stored("job-2")) == set(TILES[:1])


async def test_a_tile_on_which_the_network_fails_takes_no_other_job_with_it(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    one, two = normalisations
    poison = np.array(one.low, np.float32)
    failed: list[int] = []

    def fail_on_job_1(low: NDArray[np.float32]) -> None:
        if len(bench.engine.batches) == 1:
            time.sleep(0.5)  # in the meantime all other tiles are loaded
        if (low == poison).all(axis=1).any():
            failed.append(int((low != poison).any(axis=1).sum()))
            raise RuntimeError("boom")

    bench.engine.mishap = fail_on_job_1
    await bench.send("job-2", two, TILES, batch_size=4)
    await bench.send("job-1", one, TILES[:1], batch_size=4)
    async with bench.running():
        await bench.drained()
    assert failed[0] > 0, "a call with tiles of both jobs failed"
    assert failed[1:] == [0], "after which the tile at fault ran alone"
    assert [job for job, _ in bench.dead] == ["job-1"]
    assert bench.stored("job-2") == bench.expected(two, TILES)
    assert not bench.stored("job-1")


async def test_a_machine_that_gives_out_for_a_moment_costs_nothing_but_time(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    mishaps = iter([MemoryError()])

    def give_out(_low: NDArray[np.float32]) -> None:
        for mishap in mishaps:
            raise mishap

    bench.engine.mishap = give_out
    await bench.send("job-1", normalisations[0], TILES[:1], batch_size=1)
    async with bench.running():
        await bench.drained()
    assert bench.engine.batches == [1, 1]
    assert not bench.dead
    assert set(bench.stored("job-1")) == set(TILES[:1])


class StubbornPixels(LocalPixelStore):
    """The real store in a folder from which nothing can be removed."""

    def discard(self, key: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system", key)


async def test_a_message_is_settled_and_told_even_when_its_pixels_cannot_be_removed(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    bench.pixels = StubbornPixels(bench.pixels._root)
    bench.stale.add("job-2")
    await bench.send("job-1", normalisations[0], TILES[:1], batch_size=1)
    await bench.send("job-2", normalisations[0], TILES[:1], batch_size=1)
    async with await bench.bus.listen(subjects.tiles("job-1", 1)) as told, bench.running():
        await bench.drained(15)
        async with asyncio.timeout(5):
            announcement = from_bytes(TilesInferred, (await anext(told)).payload)
    assert [(tile.row, tile.column) for tile in announcement.tiles] == TILES[:1]
    assert not bench.dead


async def test_lost_pixels_neither_fail_the_attempt_nor_burn_deliveries(
    bench: Bench, normalisations: tuple[Normalisation, Normalisation]
) -> None:
    await bench.send("job-1", normalisations[0], TILES, batch_size=1)
    bench.pixels.discard(pixel_key("job-1", 1, *TILES[1]))
    async with bench.running():
        await bench.drained(15)
        assert not bench.dead
        assert TILES[1] not in bench.stored("job-1")
        # The tiler misses the tile and decodes it again.
        await bench.send("job-1", normalisations[0], TILES, batch_size=1)
        await bench.drained()
    assert bench.stored("job-1") == bench.expected(normalisations[0], TILES)
    assert not bench.dead
