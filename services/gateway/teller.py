"""Tells one live client what it wants to hear of, in whatever way it is connected.

Promises: a snapshot first and then every fact after it, or, for one who says where it left off, every fact since then
and then a snapshot; each fact once, in the log's order. Snapshots and progress may be passed over, facts never.
What is held for a client does not grow while it does not read: a place in the log, and the latest progress per job.
Facts do not wait for a snapshot that is being made: it may be older than what was told meanwhile, says so, and one more
follows.
Refuses: to hurry anybody. Dead connections are ended by the network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol

from microtome.errors import Unavailable
from microtome.eventlog.log import Cursor
from services.gateway.facts import Fact
from services.gateway.hub import MAX_TOLD_AT_ONCE, Hub, Listener
from services.gateway.live_messages import Progress
from services.gateway.snapshots import Snapshot, Snapshots

HEARTBEAT_S = 20.0
_RETRY_S = 1.0
# Between two snapshots for one client, or two reports of progress.
_PAUSE_S = 0.1
# What pending jobs wait for changes with everything that happens to anybody.
_PLACES_PAUSE_S = 1.0
# The same for each client that listens: in a crowd snapshots are rarer, since making them for all holds up the facts
# (docs/measurements.md).
_SNAPSHOT_SHARE_S = 0.001
_PLACES_SHARE_S = 0.01


class Voice(Protocol):
    """How a client is spoken to. Each call returns when the connection takes more."""

    async def fact(self, message: bytes, position: Cursor) -> None:
        """Tell a fact; one who got it may go on from this position."""
        ...

    async def snapshot(self, message: bytes, position: Cursor) -> None:
        """Tell how things are."""
        ...

    async def progress(self, message: bytes) -> None:
        """Tell how far a job is."""
        ...

    async def heartbeat(self) -> bool:
        """Break a silence; False: a snapshot should."""
        ...


class Teller:
    """Serves one client."""

    def __init__(
        self,
        hub: Hub,
        snapshots: Snapshots,
        listener: Listener,
        voice: Voice,
        after: Cursor | None,
        observe: Callable[[float], None],
    ) -> None:
        """`listener` has joined the hub. `observe`: seconds from when a fact was stored until it was sent."""
        self._hub = hub
        self._snapshots = snapshots
        self._listener = listener
        self._voice = voice
        self._observe = observe
        self._resuming = after is not None
        # Every fact up to here was told, or is in the snapshot that was told first.
        self._cursor = after if after is not None else hub.head
        self._shown = b""
        self._finished = False
        self._snapshot_not_before = 0.0
        self._places_not_before = 0.0
        self._progress_not_before = 0.0

    async def run(self) -> None:
        """Tell, until cancelled. Raises `NotFound` when what it is about is gone, and what the voice raises."""
        if self._resuming:
            await self._catch_up()
        await self._first_snapshot()
        while True:
            heartbeat = False
            try:
                async with asyncio.timeout(self._patience()):
                    await self._listener.wait()
            except TimeoutError:
                heartbeat = not self._waits()
            await self._tell_facts()
            await self._tell_state(heartbeat=heartbeat)
            await self._tell_progress()

    def _waits(self) -> bool:
        listener = self._listener
        return listener.stale or listener.has_progress or (listener.moved and not self._finished)

    def _patience(self) -> float:
        """Seconds to sleep at most: until the next thing that waits may be told."""
        listener, due = self._listener, []
        if listener.stale:
            due.append(self._snapshot_not_before)
        if listener.moved and not self._finished:
            due.append(self._places_not_before)
        if listener.has_progress:
            due.append(self._progress_not_before)
        return max(0.0, min(due) - time.monotonic()) if due else HEARTBEAT_S

    async def _tell_facts(self) -> None:
        while (facts := self._hub.due(self._listener)) != []:
            if facts is None:
                await self._catch_up()
            else:
                for fact in facts:
                    if await self._tell(fact):
                        self._observe((datetime.now(UTC) - fact.at).total_seconds())

    async def _tell(self, fact: Fact) -> bool:
        if fact.cursor <= self._cursor or not self._listener.interest.covers(fact):
            return False
        await self._voice.fact(fact.message, fact.cursor)
        self._cursor = fact.cursor
        return True

    async def _catch_up(self) -> None:
        """Read what was missed from the log, page by page, as fast as the client takes it."""
        more = True
        while more:
            # What the hub deals out from now on is not forgotten; what it dealt before, the log has.
            self._listener.due = None
            try:
                end, more, facts = await self._hub.facts.missed(self._listener.interest, self._cursor, MAX_TOLD_AT_ONCE)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            for fact in facts:
                await self._tell(fact)
            self._cursor = end

    async def _first_snapshot(self) -> None:
        while True:
            # Before it is made: what changes meanwhile must be shown again.
            self._listener.stale = self._listener.moved = False
            try:
                snapshot = await self._snapshots.first(self._listener.interest)
            except Unavailable:
                await asyncio.sleep(_RETRY_S)
                continue
            if snapshot.position is not None and not self._resuming:
                self._cursor = snapshot.position
            await self._show(snapshot, even_if_same=True)
            return

    async def _tell_state(self, *, heartbeat: bool) -> None:
        if heartbeat and not await self._voice.heartbeat():
            self._listener.stale = True
        now, listener = time.monotonic(), self._listener
        moved = listener.moved and not self._finished and now >= self._places_not_before
        if not moved and not (listener.stale and now >= self._snapshot_not_before):
            return
        listener.stale = listener.moved = False
        try:
            snapshot = await self._renewed()
        except Unavailable:
            # A page shows what it has meanwhile.
            listener.stale = True
            self._snapshot_not_before = self._places_not_before = now + _RETRY_S
            return
        await self._show(snapshot, even_if_same=heartbeat)

    async def _renewed(self) -> Snapshot:
        """A new snapshot; in a crowd it may take a while, and facts do not wait for it."""
        renewing = asyncio.ensure_future(self._snapshots.renewed(self._listener.interest))
        try:
            while not renewing.done():
                woken = asyncio.ensure_future(self._listener.wait())
                try:
                    await asyncio.wait({renewing, woken}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    woken.cancel()
                await self._tell_facts()
            return renewing.result()
        finally:
            renewing.cancel()

    async def _show(self, snapshot: Snapshot, *, even_if_same: bool) -> None:
        digest = snapshot.digest
        if even_if_same or digest != self._shown:
            as_of = "" if snapshot.position is None else f'"as_of":"{snapshot.position}",'
            head = f'{{"kind":"snapshot","position":"{self._cursor}",{as_of}"{snapshot.name}":'
            await self._voice.snapshot(head.encode() + snapshot.body + b"}", self._cursor)
            self._shown = digest
        self._finished = snapshot.finished
        now = time.monotonic()
        crowd = self._hub.clients
        self._snapshot_not_before = now + max(_PAUSE_S, crowd * _SNAPSHOT_SHARE_S)
        self._places_not_before = now + max(_PLACES_PAUSE_S, crowd * _PLACES_SHARE_S)

    async def _tell_progress(self) -> None:
        if time.monotonic() < self._progress_not_before:
            return
        taken = self._listener.take_progress()
        for report in taken:
            await self._voice.progress(Progress.of(report).model_dump_json().encode())
        if taken:
            self._progress_not_before = time.monotonic() + _PAUSE_S
