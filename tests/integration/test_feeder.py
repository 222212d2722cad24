"""Feeding tiles to inference on a bus that may forget and a tile store that may lose pixels."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from microtome.bus import subjects
from microtome.bus.memory import MemoryBus
from microtome.bus.queue import Delivery
from microtome.bus.topology import infer
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import InferWork, TileRef, TilesInferred
from microtome.tilestore import LocalPixelStore, PixelsGone, ResultStore, pixel_key
from services.tiler import feeding as feeding_module
from services.tiler.feeding import Address, Feeder

DIGEST = "0123456789ab" + 52 * "0"
KEY = "key"
WANTED = [(row, column) for row in range(4) for column in range(3)]


class Stage:
    """The tiler's and inference's sides of one job, with real stores, a bus in memory, and no network between them."""

    def __init__(self, root: Path) -> None:
        self.bus = MemoryBus()
        self.pixels = LocalPixelStore(root / "pixels")
        self.results = ResultStore(root / "results")
        self.decoded: list[Address] = []
        self.listed = 0
        self.asked: list[int] = []
        self.gone: list[str] = []
        self.silent = False

    async def feed(self, credit: int = 2, batch_size: int = 2, stalled_s: float = 1.0) -> int:
        feeder = Feeder(
            self.bus,
            subjects.work_infer(DIGEST, "auto"),
            "job",
            1,
            handling="job:1:x",
            share=lambda: credit,
            batch_size=batch_size,
            stalled_s=stalled_s,
            progress=lambda _done, _cells: None,
        )
        async with asyncio.timeout(30):
            return await feeder.feed(WANTED, self._decode, self._known, self._finished)

    async def _decode(self, addresses: Sequence[Address]) -> InferWork:
        tiles = []
        for row, column in addresses:
            key = pixel_key("job", 1, row, column)
            self.pixels.put(key, np.full((2, 2, 3), row, np.uint8))
            tiles.append(TileRef(row=row, column=column, pixels=key))
            self.decoded.append((row, column))
        return InferWork(job_id="job", attempt=1, content_key=KEY, model_digest=DIGEST, tiles=tuple(tiles))

    async def _known(self) -> frozenset[Address]:
        self.listed += 1
        return self.results.known(KEY)

    async def _finished(self, addresses: Sequence[Address]) -> frozenset[Address]:
        self.asked.append(len(addresses))
        return frozenset(address for address in addresses if self.results.has(KEY, *address))

    @asynccontextmanager
    async def inferring(self) -> AsyncIterator[None]:
        worker = await self.bus.consume(infer(DIGEST, "auto"), self._infer, concurrency=1)
        try:
            yield
        finally:
            await worker.stop()

    async def _infer(self, delivery: Delivery) -> None:
        work = from_bytes(InferWork, delivery.payload)
        for tile in work.tiles:
            if self.results.has(KEY, tile.row, tile.column):
                continue
            try:
                self.pixels.get(tile.pixels)
            except PixelsGone:
                self.gone.append(tile.pixels)
                return  # acknowledged, as the inference service does
            self.results.tile(KEY, tile.row, tile.column).touch()
            self.pixels.discard(tile.pixels)
        told = TilesInferred(job_id="job", attempt=1, tiles=work.tiles)
        if not self.silent:
            await self.bus.announce(subjects.tiles("job", 1), to_bytes(told))


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    yield stage
    await stage.bus.close()


async def test_lost_pixels_are_decoded_again(stage: Stage) -> None:
    feeding = asyncio.create_task(stage.feed(credit=2, batch_size=2))
    async with asyncio.timeout(10):
        while await stage.bus.depth(infer(DIGEST, "auto")) < 2:
            await asyncio.sleep(0.02)
    lost = WANTED[2:4]
    for row, column in lost:
        stage.pixels.discard(pixel_key("job", 1, row, column))
    async with stage.inferring():
        assert await feeding == 0
    assert stage.gone == [pixel_key("job", 1, *lost[0])]
    assert stage.results.known(KEY) == frozenset(WANTED)
    assert [stage.decoded.count(address) for address in WANTED] == [2 if a in lost else 1 for a in WANTED]


async def test_what_the_bus_forgot_is_sent_again_without_the_tiles_that_are_done(stage: Stage) -> None:
    feeding = asyncio.create_task(stage.feed(credit=1, batch_size=len(WANTED)))
    async with asyncio.timeout(10):
        while not await stage.bus.depth(infer(DIGEST, "auto")):
            await asyncio.sleep(0.02)
    queue = await stage.bus.queue(infer(DIGEST, "auto"))
    for delivery in await queue.fetch(10):
        await delivery.ack()
    await queue.close()
    done = WANTED[:5]
    for address in done:
        stage.results.tile(KEY, *address).touch()
    async with stage.inferring():
        assert await feeding == 0
    assert [stage.decoded.count(address) for address in WANTED] == [1 if a in done else 2 for a in WANTED]


async def test_a_bus_that_came_back_is_asked_again_soon(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeding_module, "CAME_BACK_S", 0.5)
    feeding = asyncio.create_task(stage.feed(credit=1, batch_size=len(WANTED), stalled_s=600))
    async with asyncio.timeout(10):
        while not await stage.bus.depth(infer(DIGEST, "auto")):
            await asyncio.sleep(0.02)
    queue = await stage.bus.queue(infer(DIGEST, "auto"))
    for delivery in await queue.fetch(10):  # what a wiped server does to its messages
        await delivery.ack()
    await queue.close()
    stage.bus.reconnections += 1
    async with stage.inferring():
        assert await feeding == 0
    assert stage.results.known(KEY) == frozenset(WANTED)


async def test_only_outstanding_tiles_are_looked_for(stage: Stage) -> None:
    for address in WANTED[:3]:
        stage.results.tile(KEY, *address).touch()
    stage.silent = True  # every announcement is lost
    async with stage.inferring():
        assert await stage.feed(credit=2, batch_size=2, stalled_s=30) == 3
    assert stage.results.known(KEY) == frozenset(WANTED)
    assert stage.listed == 1
    assert stage.asked
    assert max(stage.asked) <= 4, "credit times batch size"
    assert not set(stage.decoded) & set(WANTED[:3])
