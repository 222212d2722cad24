"""Pixels for the viewer, rendered in processes that may die.

Promises: a decoder that crashes, hangs or leaks takes down a worker process, never the gateway; the worker is
replaced. Rendered tiles are kept in a cache of bounded bytes. Workers end with the gateway, also when
it is killed. Refuses: more renderings in line than can be served soon (`Busy`).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import orjson

from microtome.errors import Busy, Unavailable, UnreadableSlide

logger = logging.getLogger(__name__)

CACHE_BYTES = 48 << 20
THUMBNAIL_SIZE = 1024
_IN_LINE = 256
_TIMEOUT_S = 60.0


def render_tile(path: Path, level: int, column: int, row: int) -> bytes:
    """One Deep Zoom tile as JPEG. Runs in a worker. Raises `NotFound`, `UnreadableSlide`."""
    from microtome.slides.deepzoom import DeepZoom

    return DeepZoom.of(path).tile(level, column, row)


def render_thumbnail(path: Path, max_size: int) -> bytes:
    """The whole slide as JPEG with neither side over `max_size`. Runs in a worker. Raises `UnreadableSlide`."""
    from microtome.slides.thumbnail import encode_jpeg, thumbnail

    return encode_jpeg(thumbnail(path, max_size))


def list_associated(path: Path) -> bytes:
    """Name, width and height of each picture beside the slide, as JSON. Runs in a worker. Raises `UnreadableSlide`."""
    from microtome.slides.associated import associated

    return orjson.dumps([[picture.name, picture.width, picture.height] for picture in associated(path)])


def render_associated(path: Path, name: str, media_type: str) -> bytes:
    """A picture beside the slide. Runs in a worker. Raises `NotFound`, `TooLarge`, `UnreadableSlide`."""
    from microtome.slides.associated import encoded

    return encoded(path, name, media_type)


class ByteCache:
    """The most recently used byte strings, at most `limit` bytes in all."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self.size = 0

    def get(self, key: Hashable) -> bytes | None:
        """What is kept under `key`, which becomes the most recently used."""
        value = self._kept.get(key)
        if value is not None:
            self._kept.move_to_end(key)
        return value

    def put(self, key: Hashable, value: bytes) -> None:
        """Keep `value`; the least recently used make room."""
        self.size += len(value) - len(self._kept.pop(key, b""))
        self._kept[key] = value
        while self.size > self._limit:
            _, dropped = self._kept.popitem(last=False)
            self.size -= len(dropped)


class Pixels:
    """Renders in `workers` processes, which start with the first request."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None
        self._in_line = 0
        self._cache = ByteCache(CACHE_BYTES)
        self._rendering: dict[Hashable, asyncio.Task[bytes]] = {}

    async def tile(self, path: Path, level: int, column: int, row: int) -> bytes:
        """One Deep Zoom tile as JPEG. Raises `NotFound`, `UnreadableSlide`, `Busy`, `Unavailable`."""
        return await self._once((path, level, column, row), render_tile, path, level, column, row)

    async def thumbnail(self, path: Path, size: int = THUMBNAIL_SIZE) -> bytes:
        """The slide in small as JPEG, no side over `size`. Raises `UnreadableSlide`, `Busy`, `Unavailable`."""
        return await self._once((path, size), render_thumbnail, path, size)

    async def associated(self, path: Path) -> list[tuple[str, int, int]]:
        """Name, width and height of each picture beside the slide. Raises as `thumbnail` does."""
        return [tuple(each) for each in orjson.loads(await self._once((path, "associated"), list_associated, path))]

    async def associated_picture(self, path: Path, name: str, media_type: str) -> bytes:
        """A picture beside the slide as JPEG or PNG. Raises `NotFound` and `TooLarge` besides."""
        return await self._once((path, name, media_type), render_associated, path, name, media_type)

    async def _once(self, key: Hashable, render: Callable[..., bytes], *arguments: object) -> bytes:
        """Render what nobody has asked for yet; those who ask for the same meanwhile share the work."""
        kept = self._cache.get(key)
        if kept is not None:
            return kept
        task = self._rendering.get(key)
        if task is None:
            if self._in_line >= _IN_LINE:
                raise Busy("Too many pictures are asked for at once; try again in a moment.")
            task = asyncio.create_task(self._render(key, render, *arguments))
            self._rendering[key] = task
            task.add_done_callback(lambda _: self._rendering.pop(key, None))
        return await asyncio.shield(task)

    async def _render(self, key: Hashable, render: Callable[..., bytes], *arguments: object) -> bytes:
        self._in_line += 1
        try:
            picture = await self._in_worker(render, *arguments)
        finally:
            self._in_line -= 1
        self._cache.put(key, picture)
        return picture

    async def _in_worker(self, render: Callable[..., bytes], *arguments: object) -> bytes:
        # A broken pool fails everything in it; one crash must not fail the neighbours, so each tries twice.
        for _ in range(2):
            pool = self._pool or self._start()
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    return await asyncio.get_running_loop().run_in_executor(pool, render, *arguments)
            except BrokenProcessPool:
                logger.warning("a pixel worker died; it is replaced")
                self._discard(pool)
            except TimeoutError as error:
                logger.warning("a pixel worker hangs; it is replaced")
                self._discard(pool)
                raise Unavailable("The picture could not be made in time.") from error
        raise UnreadableSlide("Reading this part of the slide makes the decoder crash.")

    def _start(self) -> ProcessPoolExecutor:
        self._pool = ProcessPoolExecutor(
            self._workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(os.getpid(),),
        )
        return self._pool

    def _discard(self, pool: ProcessPoolExecutor | None) -> None:
        if pool is None:
            return
        if pool is self._pool:
            self._pool = None
        # The executor has no way to end a worker that hangs, so it is ended by its id.
        for process in list((getattr(pool, "_processes", None) or {}).values()):
            process.kill()
        pool.shutdown(wait=False, cancel_futures=True)

    async def close(self) -> None:
        """End the workers."""
        for task in self._rendering.values():
            task.cancel()
        self._discard(self._pool)


def _begin_worker(parent: int) -> None:
    """Leave Ctrl-C to the gateway, and end when it is gone: a killed parent cannot say goodbye."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(5)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(0)

    threading.Thread(target=watch, daemon=True).start()
