"""What lies between a process and the outside: the wires that lose, delay, double and break.

Each adapter has the interface of the real one. A call takes its way there, has its effect, and takes its way back; on
either way it may be lost, which the caller sees as `Unavailable`, and its process may die.
Refuses the dead: an effect of a killed process that had not left it never happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from microtome import clock
from microtome.bus.bus import PUBLISH_DEADLINE_S
from microtome.bus.memory import MemoryBroker, MemoryBus
from microtome.bus.message import Published
from microtome.errors import Unavailable
from microtome.eventlog.log import START, Append, Cursor, StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.eventlog.snapshots import Snapshot
from microtome.leases.lease import Lease, Leases, Progress, Stage
from microtome.leases.memory import MemoryLeases
from microtome.relay.checkpoint import MemoryCheckpoint
from tests.simulation.invariants import Invariants
from tests.simulation.virtual import Process, VirtualLoop

T = TypeVar("T")


@dataclass
class Weather:
    """How bad it is now. All chances are per call; `bad` scales them, 0 at the end of a run."""

    random: random.Random
    lost_before: float = 0.0
    lost_after: float = 0.0
    slow: float = 0.0
    doubled: float = 0.0
    dropped: float = 0.0
    late: float = 0.0
    bad: float = 1.0

    def happens(self, chance: float) -> bool:
        return self.bad > 0 and self.random.random() < chance * self.bad

    def travel(self) -> float:
        if self.happens(self.slow):
            return self.random.uniform(0.2, 4.0)
        return self.random.uniform(0.0005, 0.004)


class Wire:
    """One process's line to one server."""

    def __init__(self, process: Process, weather: Weather, server: str) -> None:
        self._process = process
        self._weather = weather
        self._server = server
        self.cut = False

    async def call(self, effect: Callable[[], Awaitable[T]]) -> T:
        weather = self._weather
        await self._step()
        await asyncio.sleep(weather.travel())
        self._check()
        if self.cut or weather.happens(weather.lost_before):
            raise Unavailable(f"{self._server} was not reached")
        result = await effect()
        await self._step()
        if weather.random.random() < 0.3:
            await asyncio.sleep(weather.travel())
            self._check()
        if self.cut or weather.happens(weather.lost_after):
            raise Unavailable(f"{self._server} did not answer")
        return result

    async def _step(self) -> None:
        self._check()
        if self._process.fuse == 0:
            # It dies here, between two of its own steps.
            self._process.kill()
            raise asyncio.CancelledError
        self._process.fuse -= 1

    def _check(self) -> None:
        if not self._process.alive:
            raise asyncio.CancelledError


class Postgres:
    """The server: the log, the leases that follow it, the checkpoints, and who holds the lock."""

    def __init__(self, loop: VirtualLoop, log: MemoryEventLog, leases: MemoryLeases) -> None:
        self.loop = loop
        self.log = log
        self.leases = leases
        self.invariants: Invariants | None = Invariants()
        self.checkpoint = MemoryCheckpoint()
        self.snapshot: Snapshot | None = None
        self.leader: Process | None = None
        # Readers see nothing after this: an older transaction is still open.
        self.horizon: Cursor | None = None


class WiredLog:
    """An `EventLog` over a wire."""

    def __init__(self, postgres: Postgres, wire: Wire) -> None:
        self._postgres = postgres
        self._wire = wire

    async def append(self, *appends: Append) -> tuple[StoredEvent, ...]:
        async def effect() -> tuple[StoredEvent, ...]:
            invariants = self._postgres.invariants
            if invariants is not None:
                invariants.check(appends, self._postgres.log)
            stored = await self._postgres.log.append(*appends)
            if invariants is not None:
                invariants.keep(stored)
            return stored

        return await self._wire.call(effect)

    async def read_stream(self, stream: str, after_version: int = 0) -> tuple[StoredEvent, ...]:
        return await self._wire.call(lambda: self._postgres.log.read_stream(stream, after_version))

    async def read_all(self, after: Cursor = START, limit: int = 1000) -> tuple[StoredEvent, ...]:
        async def effect() -> tuple[StoredEvent, ...]:
            events = await self._postgres.log.read_all(after, limit)
            horizon = self._postgres.horizon
            return events if horizon is None else tuple(event for event in events if event.cursor <= horizon)

        return await self._wire.call(effect)

    async def count(self, after: Cursor = START, limit: int = 10_000) -> int:
        return await self._wire.call(lambda: self._postgres.log.count(after, limit))

    async def wait(self, timeout: float) -> bool:
        # A wake-up may be lost, and then only the timeout wakes.
        if self._wire.cut:
            await asyncio.sleep(timeout)
            return False
        return await self._postgres.log.wait(timeout)


class WiredLeases(Leases):
    """`Leases` over a wire."""

    def __init__(self, postgres: Postgres, wire: Wire) -> None:
        self._leases = postgres.leases
        self._wire = wire

    async def take(self, job_id: str, attempt: int, owner: str, stage: Stage) -> Lease:
        return await self._wire.call(lambda: self._leases.take(job_id, attempt, owner, stage))

    async def renew(self, lease: Lease, progress: Progress | None = None) -> None:
        return await self._wire.call(lambda: self._leases.renew(lease, progress))

    async def hand_over(self, lease: Lease, stage: Stage, seconds: float) -> None:
        return await self._wire.call(lambda: self._leases.hand_over(lease, stage, seconds))

    async def release(self, lease: Lease) -> None:
        return await self._wire.call(lambda: self._leases.release(lease))

    async def touch(self, job_id: str, attempt: int, seconds: float) -> None:
        return await self._wire.call(lambda: self._leases.touch(job_id, attempt, seconds))

    async def expired(self) -> tuple[Any, ...]:
        return await self._wire.call(self._leases.expired)

    async def progress(self, job_ids: Any) -> dict[str, Any]:
        ids = list(job_ids)
        return await self._wire.call(lambda: self._leases.progress(ids))


class WiredCheckpoint:
    """A `Checkpoint` over a wire."""

    def __init__(self, postgres: Postgres, wire: Wire) -> None:
        self._checkpoint = postgres.checkpoint
        self._wire = wire

    async def load(self) -> Cursor:
        return await self._wire.call(self._checkpoint.load)

    async def store(self, cursor: Cursor) -> None:
        return await self._wire.call(lambda: self._checkpoint.store(cursor))


class WiredSnapshots:
    """`Snapshots` over a wire."""

    def __init__(self, postgres: Postgres, wire: Wire) -> None:
        self._postgres = postgres
        self._wire = wire

    async def load(self) -> Snapshot | None:
        async def effect() -> Snapshot | None:
            return self._postgres.snapshot

        return await self._wire.call(effect)

    async def store(self, cursor: Cursor, data: bytes) -> None:
        async def effect() -> None:
            kept = self._postgres.snapshot
            if kept is None or kept.cursor < cursor:
                self._postgres.snapshot = Snapshot(cursor, data, clock.now())

        await self._wire.call(effect)


class WiredLeadership:
    """A `Leadership` whose server gives up a holder that is dead, cut off, or stopped for long."""

    def __init__(self, postgres: Postgres, wire: Wire, process: Process) -> None:
        self._postgres = postgres
        self._wire = wire
        self._process = process

    @contextlib.asynccontextmanager
    async def campaign(self) -> AsyncIterator[WiredLeadership]:
        try:
            yield self
        finally:
            if self._postgres.leader is self._process:
                self._postgres.leader = None

    async def won(self) -> bool:
        async def effect() -> bool:
            leader = self._postgres.leader
            if leader is None or not leader.alive:
                self._postgres.leader = self._process
            return self._postgres.leader is self._process

        return await self._wire.call(effect)

    async def guard(self) -> None:
        while True:
            await asyncio.sleep(1.0)

            async def effect() -> None:
                if self._postgres.leader is not self._process:
                    raise Unavailable("the lock is another's")

            await self._wire.call(effect)


class WiredBus(MemoryBus):
    """A connection to the broker over a wire. What is published may be lost, doubled or late."""

    def __init__(self, broker: MemoryBroker, wire: Wire, weather: Weather) -> None:
        super().__init__(broker)
        self._wire = wire
        self._weather = weather

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,
    ) -> Published:
        async def effect() -> Published:
            published = await super(WiredBus, self).publish(subject, payload, message_id=message_id, headers=headers)
            self._mistreat(published)
            return published

        return await self._wire.call(effect)

    def _mistreat(self, published: Published) -> None:
        weather, stream = self._weather, self._broker.streams[published.stream]
        stored = stream.messages.get(published.sequence)
        if stored is None:
            return
        if weather.happens(weather.dropped):
            # Acknowledged, and then forgotten: the server did not write it down in time.
            del stream.messages[published.sequence]
        elif weather.happens(weather.late):
            stored.due = asyncio.get_running_loop().time() + weather.random.uniform(0.1, 6.0)
        elif weather.happens(weather.doubled):
            stream.last_sequence += 1
            stream.messages[stream.last_sequence] = type(stored)(stored.message)
