"""What a scheduler has folded, and keeping it for the next one.

Promises: a state is the fold of the log up to its cursor, whether it began at the first event or at a snapshot; it
holds what can still change, never the history.
Refuses: to rest on a snapshot. One of another format, or one that cannot be read, is left alone, and the log is
folded from its start.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from microtome.domain import snapshot
from microtome.domain.cluster import STREAM_PREFIX, Cluster, evolve
from microtome.errors import InvalidRequest, MicrotomeError
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.snapshots import Snapshots

log = logging.getLogger(__name__)

SEATS = "seats"
NAME = snapshot.KEPT_AS
FORMAT = snapshot.KEPT_FORMAT
# So many events are folded anew by a scheduler that starts; keeping a state costs about as much as folding as many.
EVERY = 5_000
LOOK_S = 5.0

Observe = Callable[[StoredEvent, Cluster], None]


class State:
    """The cluster, how far the log is folded, and what appending to its streams needs."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.cursor = START
        # Of every stream that may still be appended to: its version, and the trace in which it began.
        self.versions: dict[str, int] = {}
        self.traces: dict[str, str] = {}
        self.folded = 0

    def take(self, event: StoredEvent) -> None:
        """Fold one event."""
        self.cluster = evolve(self.cluster, event.message, event.at, event.stream)
        self.cursor = event.cursor
        self.folded += 1
        workflow_id = event.stream.removeprefix(STREAM_PREFIX)
        if event.stream == SEATS or workflow_id in self.cluster.workflows:
            self.versions[event.stream] = event.version
            if "traceparent" in event.meta:
                self.traces.setdefault(event.stream, event.meta["traceparent"])
        else:
            self.versions.pop(event.stream, None)
            self.traces.pop(event.stream, None)

    def resume(self, cursor: Cursor, data: bytes) -> None:
        """Become the state that `dump` returned at `cursor`. Raises `InvalidRequest`."""
        head, rest = snapshot.unpack(data)
        try:
            versions, traces = json.loads(head)
        except ValueError as error:
            raise InvalidRequest(f"These {len(data)} bytes are no state of a scheduler: {error}") from error
        self.cluster = snapshot.load(rest)
        self.cursor, self.versions, self.traces = cursor, versions, traces

    def dump(self) -> Callable[[], bytes]:
        """Return what makes the bytes of the state as it is now, in whatever thread and however much later."""
        cluster, head = self.cluster, json.dumps([self.versions, self.traces]).encode()
        return lambda: snapshot.pack(head, cluster)


async def restore(state: State, snapshots: Snapshots) -> None:
    """Let the state begin at the newest snapshot, if one can be read. Raises `Unavailable`."""
    kept = await snapshots.load()
    if kept is None:
        log.info("there is no snapshot of format %d; the log is folded from its start", FORMAT)
        return
    try:
        state.resume(kept.cursor, kept.data)
    except InvalidRequest as unreadable:
        log.warning("the snapshot is left alone, the log is folded from its start: %s", unreadable)
    except Exception:
        # Whatever is wrong with it, it is only a cache.
        log.exception("the snapshot is left alone, the log is folded from its start")
    else:
        log.info("begins at the snapshot of %s, with %d workflows", kept.cursor, len(state.cluster.workflows))


class Keeping:
    """Stores a snapshot after every so many events."""

    def __init__(self, state: State, snapshots: Snapshots, every: int = EVERY) -> None:
        self._state = state
        self._snapshots = snapshots
        self._every = every
        self._kept = 0

    async def run(self) -> None:
        """Look from time to time, until cancelled; what cannot be kept is kept the next time."""
        while True:
            await asyncio.sleep(LOOK_S)
            if self._state.folded - self._kept >= self._every:
                try:
                    await self.keep()
                except MicrotomeError as error:
                    log.warning("no snapshot is kept: %s", error)

    async def keep(self) -> None:
        """Store the state as it is now. Raises `Unavailable`."""
        folded, cursor, make = self._state.folded, self._state.cursor, self._state.dump()
        # Decisions go on meanwhile.
        await self._snapshots.store(cursor, await asyncio.to_thread(make))
        self._kept = folded
