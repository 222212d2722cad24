"""Giving a job's tiles to inference, a few at a time.

Promises: no batch is sent while as many are outstanding as the job's share of the network allows, which may change at
any time; when `feed` returns, every wanted tile has a result.
What the bus forgets, and whose pixels got lost, is noticed by looking into the result store: it is decoded and sent
again.
Refuses: to hold pixels; they go from the decoding processes straight into the tile store.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.bus.message import Subscription
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import InferWork, TilesInferred
from microtome.crashpoint import CrashPoint, crash_point

log = logging.getLogger(__name__)

# How long the bus may say nothing after it came back, perhaps without what it had.
CAME_BACK_S = 6.0
# How often the result store is asked directly, in case an announcement was lost.
LOOK_S = 2.0
# How often a job whose share is used up looks whether it has grown.
SHARE_S = 0.25

Address = tuple[int, int]
Decode = Callable[[Sequence[Address]], Awaitable[InferWork]]
Known = Callable[[], Awaitable[frozenset[Address]]]
Finished = Callable[[Sequence[Address]], Awaitable[frozenset[Address]]]
Progress = Callable[[int, int], None]


class Feeder:
    """Feeds one attempt at a job."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        job_id: str,
        attempt: int,
        *,
        handling: str,
        share: Callable[[], int],
        batch_size: int,
        stalled_s: float,
        progress: Progress,
    ) -> None:
        """`subject`: where the tiles go; `handling`: begins the ids of this feeder's messages; `share()`: how many
        batches may be outstanding now; `progress(done, cells)` is told how many tiles have a result. When none finished
        for `stalled_s` seconds, or for a few after the bus came back, what is outstanding is decoded and sent again;
        tiles that have a result in the meantime cost nothing.
        """
        self._bus = bus
        self._subject = subject
        self._job_id = job_id
        self._attempt = attempt
        self._handling = handling
        self._share = share
        self._batch_size = batch_size
        self._stalled_s = stalled_s
        self._progress = progress
        self._done: set[Address] = set()
        # By the number of the batch: its tiles without a result.
        self._outstanding: dict[int, set[Address]] = {}
        self._cells = 0
        self._sent = 0
        self._resent = 0
        self._decoding: asyncio.Task[InferWork] | None = None
        # What the engines that worked on the job say of themselves.
        self.notes: list[str] = []

    async def feed(self, wanted: Sequence[Address], decode: Decode, known: Known, finished: Finished) -> int:
        """Bring every tile of `wanted` through inference; return how many had a result from before.

        `decode(addresses)` puts pixels into the tile store and returns the message. `known()` lists all finished tiles,
        a hundred thousand of a large slide, and is asked once; `finished(addresses)` says which of a few are.
        """
        self._done = set(wanted) & await known()
        cached = len(self._done)
        todo = [address for address in wanted if address not in self._done]
        batches = [todo[start : start + self._batch_size] for start in range(0, len(todo), self._batch_size)]
        self._progress(len(self._done), self._cells)
        async with await self._bus.listen(subjects.tiles(self._job_id, self._attempt)) as announced:
            news = asyncio.Event()
            listener = asyncio.create_task(self._hear(announced, news))
            try:
                await self._send_all(batches, decode, finished, news)
            finally:
                for task in (listener, self._decoding):
                    if task is not None:
                        task.cancel()
                        await asyncio.gather(task, return_exceptions=True)
        return cached

    async def _send_all(
        self, batches: list[list[Address]], decode: Decode, finished: Finished, news: asyncio.Event
    ) -> None:
        waiting = iter(batches)
        exhausted = False
        looked = moved = time.monotonic()
        patience, reconnections = self._stalled_s, self._bus.reconnections
        while True:
            # One batch is decoded ahead of the share, so that a free place is filled at once.
            if self._decoding is None and not exhausted:
                batch = next(waiting, None)
                exhausted = batch is None
                self._decoding = asyncio.create_task(_as_task(decode(batch))) if batch is not None else None
            if self._decoding is not None and len(self._outstanding) < self._share():
                work = await self._decoding
                self._decoding = None
                await self._send(work)
                continue
            if exhausted and self._decoding is None and not self._outstanding:
                return
            # Not wait_for: until Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHARE_S if self._decoding is not None else LOOK_S):
                    await news.wait()
            now = time.monotonic()
            if self._bus.reconnections != reconnections:
                reconnections, moved = self._bus.reconnections, now
                patience = min(patience, CAME_BACK_S)
            if not self._outstanding:  # it is others' turn: nothing of this job can be stalled
                moved = now
            if news.is_set():
                news.clear()
                moved, patience = now, self._stalled_s
            if now - looked >= LOOK_S:
                looked = now
                if self._note_done(await finished(sorted(set().union(*self._outstanding.values())))):
                    moved, patience = now, self._stalled_s
            if now - moved > patience:
                moved, patience = now, self._stalled_s
                await self._send_again(decode)

    async def _hear(self, announced: Subscription, news: asyncio.Event) -> None:
        async for message in announced:
            try:
                told = from_bytes(TilesInferred, message.payload)
            except Exception:
                # What it told is in the result store, too, where it is found a little later.
                log.exception("an announcement on %s cannot be read", message.subject)
                continue
            self._cells += told.cells
            if told.engine_note and told.engine_note not in self.notes:
                self.notes.append(told.engine_note)
            self._note_done({(tile.row, tile.column) for tile in told.tiles})
            news.set()

    def _note_done(self, addresses: set[Address] | frozenset[Address]) -> bool:
        before = len(self._done)
        for number, missing in list(self._outstanding.items()):
            self._done |= missing & addresses
            missing.difference_update(addresses)
            if not missing:
                del self._outstanding[number]
        if len(self._done) > before:
            self._progress(len(self._done), self._cells)
        return len(self._done) > before

    async def _send(self, work: InferWork) -> None:
        number, self._sent = self._sent, self._sent + 1
        self._outstanding[number] = {(tile.row, tile.column) for tile in work.tiles}
        await self._publish(number, work)

    async def _send_again(self, decode: Decode) -> None:
        self._resent += 1
        log.warning(
            "no tile finished for a while; outstanding batches are sent again",
            extra={"job_id": self._job_id, "batches": len(self._outstanding)},
        )
        for number in list(self._outstanding):
            # While one is decoded, the next may be finished after all.
            if missing := self._outstanding.get(number):
                await self._publish(number, await decode(sorted(missing)))

    async def _publish(self, number: int, work: InferWork) -> None:
        crash_point(CrashPoint.TILER_AFTER_TILES_WRITTEN_BEFORE_PUBLISH)
        message_id = f"{self._handling}:{number}:{self._resent}"
        await self._bus.publish(self._subject, to_bytes(work), message_id=message_id)


async def _as_task(work: Awaitable[InferWork]) -> InferWork:
    return await work
