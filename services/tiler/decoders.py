"""The processes that read slides.

Promises: a crash in a decoder costs one attempt, never the service; decoders are warm before the first job comes.
Refuses: to share this process's threads and connections with them: they are forked from a server that has none.
"""

from __future__ import annotations

import asyncio
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
        self._pool = self._new()

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(self._count, mp_context=self._context, initializer=warm_up)

    async def start(self) -> None:
        """Start all processes and return when they are warm. Raises `WorkerLost`."""
        # A process is started for each call that finds none idle, and none is idle until it is warm.
        await asyncio.gather(*(self.call(int) for _ in range(self._count)))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a decoder. Raises `WorkerLost` if the decoder died."""
        pool = self._pool
        try:
            return await asyncio.wrap_future(pool.submit(function, *args, **kwargs))
        except BrokenProcessPool as broken:
            raise self._broken(pool) from broken

    async def call_whole(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`; but when this is cancelled and the function runs already, that is waited for.

        For functions that leave something behind, so that whoever clears up does it after them.
        """
        pool = self._pool
        try:
            submitted = pool.submit(function, *args, **kwargs)
            result = asyncio.wrap_future(submitted)
            try:
                return await asyncio.shield(result)
            except asyncio.CancelledError:
                if not submitted.cancel():
                    await asyncio.wait({result})
                raise
        except BrokenProcessPool as broken:
            raise self._broken(pool) from broken

    def _broken(self, pool: ProcessPoolExecutor) -> WorkerLost:
        if self._pool is pool:
            self._pool = self._new()
        return WorkerLost("A process that decodes slides died; the slide may be damaged.")

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown(wait=True, cancel_futures=True)
