"""Keeping the network busy: decoding before it, heads behind it, each in threads of their own.

Promises: tiles come out in the order in which they went in, whatever the threads; what is in memory is bounded
by the batches decoded ahead and the tiles not yet taken; the first error ends the run and is raised where results are
taken; nothing runs on once the results are no longer taken.
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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.cells import TileCells
from microtome.segmentation.engine import Engine
from microtome.segmentation.grid import Tile
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.patches import View, infer
from microtome.segmentation.reading import RegionReader, pad_reflect

Seconds = Mapping[str, float]
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
        # Batches decoded ahead of the network: one for each thread that decodes.
        self._decoders = decoders
        self._workers = workers
        self._room = threading.Semaphore(workers + batch_size + _WAITING)
        self._results: SimpleQueue[tuple[Tile, Future[TileCells]] | BaseException | None] = SimpleQueue()
        self._stopped = threading.Event()

    def run(self, batches: Sequence[Sequence[Tile]]) -> Iterator[tuple[Tile, TileCells]]:
        """Yield each tile with its cells, in order."""
        with (
            ThreadPoolExecutor(self._decoders, thread_name_prefix="decode") as decoders,
            ThreadPoolExecutor(self._workers, thread_name_prefix="head") as heads,
        ):
            network = threading.Thread(target=self._network, args=(batches, decoders, heads), name="network")
            network.start()
            try:
                while (result := self._results.get()) is not None:
                    if isinstance(result, BaseException):
                        raise result
                    tile, cells = result
                    done = cells.result()
                    self._room.release()
                    yield tile, done
            finally:
                self._stopped.set()
                # Wakes the network's thread wherever it waits; what is queued for the others is dropped.
                self._room.release()
                decoders.shutdown(wait=False, cancel_futures=True)
                network.join()
                heads.shutdown(wait=False, cancel_futures=True)

    def _network(
        self, batches: Sequence[Sequence[Tile]], decoders: ThreadPoolExecutor, heads: ThreadPoolExecutor
    ) -> None:
        todo, decoding = iter(batches), deque[tuple[Sequence[Tile], Future[Any]]]()
        try:
            # Alone: until it is there, the network waits for it.
            self._decode_ahead(todo, decoding, 1, decoders)
            while decoding:
                began = time.perf_counter()
                batch, future = decoding.popleft()
                pixels, views, decode_s = future.result()
                self._decode_ahead(todo, decoding, self._decoders, decoders)
                self._make_room(len(batch))
                self._infer(batch, pixels, views, decode_s, began, heads)
            self._results.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where the results are taken
            self._results.put(error)

    def _decode_ahead(
        self,
        todo: Iterator[Sequence[Tile]],
        decoding: deque[tuple[Sequence[Tile], Future[Any]]],
        most: int,
        decoders: ThreadPoolExecutor,
    ) -> None:
        for batch in islice(todo, most - len(decoding)):
            decoding.append((batch, decoders.submit(self._decode, batch)))

    def _infer(
        self,
        batch: Sequence[Tile],
        pixels: NDArray[np.uint8],
        views: Sequence[View],
        decode_s: float,
        began: float,
        heads: ThreadPoolExecutor,
    ) -> None:
        count, ready = len(batch), time.perf_counter()
        logits = infer(self._engine, pixels, np.tile(self._low, (count, 1)), np.tile(self._scale, (count, 1)), views)
        done = time.perf_counter()
        seconds = {"decode": decode_s / count, "idle": (ready - began) / count, "network": (done - ready) / count}
        for tile, of_tile, view, seen in zip(batch, logits, views, pixels, strict=True):
            self._results.put((tile, heads.submit(self._finish, of_tile, tile, view, seen, seconds)))

    def _make_room(self, tiles: int) -> None:
        for _ in range(tiles):
            self._room.acquire()
            if self._stopped.is_set():
                raise Stopped

    def _decode(self, batch: Sequence[Tile]) -> tuple[NDArray[np.uint8], Sequence[View], float]:
        began = time.perf_counter()
        pixels = [self._pixels(tile) for tile in batch]
        together = pixels[0][None] if len(pixels) == 1 else np.stack(pixels)
        return together, [self._look(tile) for tile in batch], time.perf_counter() - began

    def _pixels(self, tile: Tile) -> NDArray[np.uint8]:
        decoded = self._decoded.pop((tile.row, tile.column), None)
        return pad_reflect(self._reader, tile.padded) if decoded is None else decoded
