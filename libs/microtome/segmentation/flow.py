"""Keeping the network busy: decoding before it, heads behind it, each in threads of their own.

Promises: tiles come out in the order in which they went in, whatever the threads; what is in memory is bounded
by the batches decoded ahead and the tiles not yet taken; an engine has as many batches as it has lanes, no more; the
first error ends the run and is raised where results are taken; nothing runs on once the results are no longer taken.
Refuses: to know what a head does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from queue import SimpleQueue

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.cells import TileCells
from microtome.segmentation.engine import Engine, lanes_of
from microtome.segmentation.grid import Tile
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.occupancy import Occupancy
from microtome.segmentation.patches import View, infer
from microtome.segmentation.reading import RegionReader, pad_reflect

Seconds = Mapping[str, float]
# Pixels uint8 [b, h, w, 3] of a batch, how each tile is looked at, and the seconds that decoding took.
_Decoded = tuple[NDArray[np.uint8], Sequence[View], float]
_Heads = list[Future[TileCells]]
Finish = Callable[[NDArray[np.float32], Tile, View, NDArray[np.uint8], Seconds], TileCells]

# Finished tiles that may wait to be taken, besides those in the heads.
_WAITING = 4


@dataclass(frozen=True, eq=False)
class Measured:
    """A slide's normalisation, and the decoded tiles that are left from measuring it, by (row, column)."""

    normalisation: Normalisation
    pixels: dict[tuple[int, int], NDArray[np.uint8]]


class Stopped(Exception):
    """The results are no longer taken."""


class Flow:
    """One run over batches of tiles."""

    def __init__(
        self,
        reader: RegionReader,
        engine: Engine,
        measured: Measured,
        look: Callable[[Tile], View],
        finish: Finish,
        batch_size: int,
        workers: int,
        decoders: int,
    ) -> None:
        """`look` says how to look at a tile; `finish` turns its logits and pixels into cells, in one of `workers`
        threads.
        """
        self._reader = reader
        self._engine = engine
        self._low, self._scale = measured.normalisation.arrays()
        self._decoded = measured.pixels
        self._look = look
        self._finish = finish
        self._lanes = lanes_of(engine)
        # Batches decoded ahead of the network: one for each thread that decodes.
        self._decoders = decoders
        self._workers = workers
        self._occupancy = Occupancy()
        self._free = threading.Semaphore(self._lanes)
        # Logits are by far the largest thing: there are those of as many tiles as lanes and heads work on, and no more.
        self._held = threading.Semaphore(workers + batch_size * self._lanes)
        self._room = threading.Semaphore(workers + batch_size * self._lanes + _WAITING)
        self._results: SimpleQueue[tuple[Sequence[Tile], Future[_Heads]] | BaseException | None] = SimpleQueue()
        self._stopped = threading.Event()

    def run(self, batches: Sequence[Sequence[Tile]]) -> Iterator[tuple[Tile, TileCells]]:
        """Yield each tile with its cells, in order."""
        with (
            ThreadPoolExecutor(self._decoders, thread_name_prefix="decode") as decoders,
            ThreadPoolExecutor(self._workers, thread_name_prefix="head") as heads,
            ThreadPoolExecutor(self._lanes, thread_name_prefix="network") as lanes,
        ):
            feeder = threading.Thread(target=self._feed, args=(batches, decoders, lanes, heads), name="feed")
            feeder.start()
            try:
                while (result := self._results.get()) is not None:
                    if isinstance(result, BaseException):
                        raise result
                    batch, inferred = result
                    for tile, cells in zip(batch, inferred.result(), strict=True):
                        done = cells.result()
                        self._room.release()
                        yield tile, done
            finally:
                self._stopped.set()
                # Wakes the feeding thread wherever it waits; what is queued for the others is dropped.
                self._room.release()
                self._free.release()
                self._held.release()
                decoders.shutdown(wait=False, cancel_futures=True)
                feeder.join()
                lanes.shutdown(wait=True, cancel_futures=True)
                heads.shutdown(wait=False, cancel_futures=True)

    def _feed(
        self,
        batches: Sequence[Sequence[Tile]],
        decoders: ThreadPoolExecutor,
        lanes: ThreadPoolExecutor,
        heads: ThreadPoolExecutor,
    ) -> None:
        todo, decoding = iter(batches), deque[tuple[Sequence[Tile], Future[_Decoded]]]()
        try:
            # Alone: until it is there, the network waits for it.
            self._decode_ahead(todo, decoding, 1, decoders)
            while decoding:
                batch, future = decoding.popleft()
                decoded = future.result()
                self._decode_ahead(todo, decoding, self._decoders, decoders)
                self._take(self._room, len(batch))
                self._take(self._held, len(batch))
                self._take(self._free, 1)
                self._results.put((batch, lanes.submit(self._infer, batch, decoded, heads)))
            self._results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            self._results.put(error)

    def _decode_ahead(
        self,
        todo: Iterator[Sequence[Tile]],
        decoding: deque[tuple[Sequence[Tile], Future[_Decoded]]],
        most: int,
        decoders: ThreadPoolExecutor,
    ) -> None:
        for batch in islice(todo, most - len(decoding)):
            decoding.append((batch, decoders.submit(self._decode, batch)))

    def _infer(self, batch: Sequence[Tile], decoded: _Decoded, heads: ThreadPoolExecutor) -> _Heads:
        pixels, views, decode_s = decoded
        count = len(batch)
        low, scale = np.tile(self._low, (count, 1)), np.tile(self._scale, (count, 1))
        begun = self._occupancy.begin()
        try:
            logits = infer(self._engine, pixels, low, scale, views)
        finally:
            network_s = self._occupancy.end(begun)
            self._free.release()
        seconds = {"decode": decode_s / count, "idle": begun.idle / count, "network": network_s / count}
        found = [
            heads.submit(self._finish, of_tile, tile, view, seen, seconds)
            for tile, of_tile, view, seen in zip(batch, logits, views, pixels, strict=True)
        ]
        for cells in found:
            cells.add_done_callback(lambda _: self._held.release())
        return found

    def _take(self, semaphore: threading.Semaphore, count: int) -> None:
        for _ in range(count):
            semaphore.acquire()
            if self._stopped.is_set():
                raise Stopped

    def _decode(self, batch: Sequence[Tile]) -> _Decoded:
        began = time.perf_counter()
        pixels = [self._pixels(tile) for tile in batch]
        together = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        return together, [self._look(tile) for tile in batch], time.perf_counter() - began

    def _pixels(self, tile: Tile) -> NDArray[np.uint8]:
        decoded = self._decoded.pop((tile.row, tile.column), None)
        return pad_reflect(self._reader, tile.padded) if decoded is None else decoded
