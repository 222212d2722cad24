"""The processes that read slides.

Promises: a crash in a decoder costs the attempt that caused it and who waited for the same decoder, no other and never
the service; decoders are warm before the first job comes; whoever reads a slide again is given the decoder that read it
last, if that is free: it has the slide open, and a small one decoded.
Refuses: to share this process's threads and connections with them: they are forked from a server that has none.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from microtome.errors import WorkerLost
from services.tiler.planning import SlideSource, warm_up

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class _Decoder:
    """One process: what it has to do, which slide it read last, and when it was called last."""

    pool: ProcessPoolExecutor
    running: list[Future[Any]] = field(default_factory=list)
    slide: Path | None = None
    called: int = 0

    @property
    def calls(self) -> int:
        """How many calls are not over, also of those for which nobody waits any more."""
        self.running = [call for call in self.running if not call.done()]
        return len(self.running)


class Decoders:
    """`count` processes."""

    def __init__(self, count: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        # Libraries are loaded once, in the server, and shared by all decoders.
        self._context.set_forkserver_preload(["services.tiler.planning"])
        self._decoders = [_Decoder(self._new()) for _ in range(count)]
        self._numbers = itertools.count(1)

    def _new(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, mp_context=self._context, initializer=warm_up)

    async def start(self) -> None:
        """Start all processes and return when they are warm. Raises `WorkerLost`."""
        # Each goes to a decoder that has nothing to do yet.
        await asyncio.gather(*(self.call(int) for _ in self._decoders))

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function`, which may run twice, in a decoder. Raises `WorkerLost` if it makes decoders die."""
        return await self._call(functools.partial(function, *args, **kwargs), whole=False)

    async def call_whole(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """As `call`; but when this is cancelled and the function runs already, that is waited for.

        For functions that leave something behind, so that whoever clears up does it after them.
        """
        return await self._call(functools.partial(function, *args, **kwargs), whole=True)

    async def _call(self, function: functools.partial[T], *, whole: bool) -> T:
        source = function.args[0] if function.args else None
        decoder = self._chosen(source.path if isinstance(source, SlideSource) else None)
        pool = decoder.pool
        try:
            submitted = pool.submit(function)
            decoder.running.append(submitted)
            return await _result(submitted, whole=whole)
        except BrokenProcessPool:
            if decoder.pool is pool:
                decoder.pool, decoder.slide = self._new(), None
        # It died and all of its calls went with it. Whose fault it was shows when each runs alone.
        alone = self._new()
        try:
            return await _result(alone.submit(function), whole=whole)
        except BrokenProcessPool as broken:
            raise WorkerLost("A process that decodes slides died; the slide may be damaged.") from broken
        finally:
            alone.shutdown(wait=False, cancel_futures=True)

    def _chosen(self, slide: Path | None) -> _Decoder:
        """Of those with least to do the one that knows the slide, or else the one that was idle longest."""
        least = min(decoder.calls for decoder in self._decoders)
        free = [decoder for decoder in self._decoders if decoder.calls == least]
        knows = [decoder for decoder in free if slide is not None and decoder.slide == slide]
        chosen = knows[0] if knows else min(free, key=lambda decoder: decoder.called)
        chosen.slide, chosen.called = slide or chosen.slide, next(self._numbers)
        return chosen

    def close(self) -> None:
        """End the processes."""
        for decoder in self._decoders:
            decoder.pool.shutdown(wait=True, cancel_futures=True)


async def _result(submitted: Future[T], *, whole: bool) -> T:
    result = asyncio.wrap_future(submitted)
    if not whole:
        return await result
    try:
        return await asyncio.shield(result)
    except asyncio.CancelledError:
        if not submitted.cancel():
            await asyncio.wait({result})
        raise
