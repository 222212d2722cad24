"""The processes that read slides.

Promises: a crash in a decoder costs the attempt that caused it, no other and never the service; decoders are warm
before the first job comes.
Refuses: to share this process's threads and connections with them: they are forked from a server that has none.
"""

from __future__ import annotations

import asyncio
import functools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

from microtome.errors import WorkerLost
from services.tiler.planning import warm_up

P = ParamSpec("P")
T = TypeVar("T")


class Decoders:
    """A pool of `count` processes."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._context = multiprocessing.get_context("forkserver")
        # Libraries are loaded once, in the server, and shared by all decoders.
        self._context.set_forkserver_preload(["services.tiler.planning"])
        self._pool = self._new(count)

    def _new(self, count: int) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(count, mp_context=self._context, initializer=warm_up)

    async def start(self) -> None:
        """Start all processes and return when they are warm. Raises `WorkerLost`."""
        # A process is started for each call that finds none idle, and none is idle until it is warm.
        await asyncio.gather(*(self.call(int) for _ in range(self._count)))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function`, which may run twice, in a decoder. Raises `WorkerLost` if it makes decoders die."""
        return await self._call(functools.partial(function, *args, **kwargs), whole=False)

    async def call_whole(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`; but when this is cancelled and the function runs already, that is waited for.

        For functions that leave something behind, so that whoever clears up does it after them.
        """
        return await self._call(functools.partial(function, *args, **kwargs), whole=True)

    async def _call(self, function: Callable[[], T], *, whole: bool) -> T:
        pool = self._pool
        try:
            return await _result(pool, function, whole=whole)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = self._new(self._count)
        # One died and all of the pool's calls went with it. Whose fault it was shows when each runs alone.
        alone = self._new(1)
        try:
            return await _result(alone, function, whole=whole)
        except BrokenProcessPool as broken:
            raise WorkerLost("A process that decodes slides died; the slide may be damaged.") from broken
        finally:
            alone.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)


async def _result(pool: ProcessPoolExecutor, function: Callable[[], T], *, whole: bool) -> T:
    submitted = pool.submit(function)
    result = asyncio.wrap_future(submitted)
    if not whole:
        return await result
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if not submitted.cancel():
            await asyncio.wait({result})
        raise
