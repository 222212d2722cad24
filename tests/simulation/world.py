"""One run of the whole cluster from one seed.

The code of the scheduler, the relay, the recovery, the workflows and the attempts is the real one; what they stand on
is in memory, and what happens to them is drawn by the seed: see `chaos`. At the end the faults stop, everybody gets
time, and then the log is judged by `tests.acceptance.laws`, which knows none of this code.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from microtome.bus.memory import MemoryBroker
from microtome.contracts.codec import to_json
from microtome.contracts.messages import JobsAdded, WorkflowSubmitted
from microtome.domain.limits import Limits
from microtome.errors import Unavailable
from microtome.eventlog.log import StoredEvent
from microtome.eventlog.memory import MemoryEventLog
from microtome.leases.lease import Expired
from microtome.leases.memory import MemoryLeases
from microtome.relay.relay import Relay
from microtome.workflows import Workflows
from services.scheduler.deciding import Decider
from services.scheduler.dispatching import Dispatching
from services.scheduler.folding import Keeping, State, restore
from services.scheduler.recovering import Recovery, start_of, waiting_to_be_merged
from services.scheduler.standing import Scheduler
from tests.acceptance import laws
from tests.simulation import workers
from tests.simulation.users import Accounts, User
from tests.simulation.virtual import Process, VirtualLoop
from tests.simulation.wires import (
    Postgres,
    Weather,
    Wire,
    WiredBus,
    WiredCheckpoint,
    WiredLeadership,
    WiredLeases,
    WiredLog,
    WiredSnapshots,
)

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
LEASE_S = 3.0
DISPATCH_S = 4.0
CHAOS_S = (5.0, 16.0)
# Backoff, dispatch and lease times many times over.
SETTLE_S = 900.0
SNAPSHOT_EVERY = 15


@dataclass(frozen=True)
class Sabotage:
    """Faults of the code itself, to prove that the judge sees them."""

    seats: bool = False
    fence: bool = False
    attempts: bool = False


class SkewedClock:
    """A process's idea of the time, and ids of the seed."""

    def __init__(self, loop: VirtualLoop, chance: random.Random, skew: float) -> None:
        self._loop = loop
        self._chance = chance
        self._skew = skew

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self._loop.time() + self._skew)

    def new_id(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)


class Known:
    """A projection: which job belongs where."""

    def __init__(self) -> None:
        self.jobs: dict[str, tuple[str, str, Any]] = {}

    async def apply(self, connection: None, event: StoredEvent) -> None:
        if isinstance(event.message, WorkflowSubmitted | JobsAdded):
            workflow_id = event.stream.removeprefix("workflow-")
            self.jobs |= {spec.job_id: (workflow_id, event.tenant, spec) for spec in event.message.jobs}


class CarelessLog(MemoryEventLog):
    """Sabotage: a log that forgets to look at versions."""

    async def append(self, *appends: Any) -> tuple[StoredEvent, ...]:
        current = (replace(a, expected_version=len(self._streams.get(a.stream, ()))) for a in appends)
        return await super().append(*current)


@dataclass
class Outcome:
    """What came of a seed."""

    seed: int
    digest: str = ""
    events: int = 0
    virtual_s: float = 0.0
    # From the end of the faults until nothing could run any more.
    settled_s: float = 0.0
    steps: int = 0
    violations: list[str] = field(default_factory=list)
    facts: dict[str, int] = field(default_factory=dict)


class World:
    """The cluster of one seed."""

    def __init__(self, loop: VirtualLoop, seed: int, sabotage: Sabotage) -> None:
        self.loop = loop
        self.chance = chance = random.Random(seed)
        self.limits = Limits(
            max_workers=chance.randint(1, 4),
            max_active_users=chance.randint(1, 3),
            max_attempts=chance.randint(2, 3),
            seat_tenure=chance.choice((None, None, timedelta(seconds=5), timedelta(seconds=20))),
            slice_seconds=chance.choice((2.0, 5.0, 60.0)),
        )
        self.sabotage = sabotage
        harsh = chance.choice((0.0, 0.3, 1.0, 1.0, 2.0))
        self.weather = Weather(
            chance,
            lost_before=0.01 * harsh,
            lost_after=0.01 * harsh,
            slow=0.01 * harsh,
            doubled=0.08 * harsh,
            dropped=0.05 * harsh,
            late=0.1 * harsh,
        )
        self.known = Known()
        leases = MemoryLeases(LEASE_S, DISPATCH_S, clock=loop.time)
        log = (CarelessLog if sabotage.fence else MemoryEventLog)((leases, self.known), now=self.now)
        self.postgres = Postgres(loop, log, leases)
        if sabotage.fence:
            self.postgres.invariants = None
        self.broker = MemoryBroker()
        self.shop = workers.Shop(
            self.weather, {}, transient=chance.choice((0, 0.02, 0.1)), permanent=chance.choice((0, 0.02, 0.05))
        )
        self.book = Accounts()
        self.settled = 0.0
        self.states: dict[str, State] = {}
        self._checker = laws.Checker(self.limits.max_workers, self.limits.max_active_users)
        self._judged = 0
        self.processes: dict[str, Process] = {}
        self.wires: dict[str, list[Wire]] = {}
        self._lives: dict[str, Callable[[Process, str], Coroutine[Any, Any, Any]]] = {}
        self._skews: dict[str, float] = {}

    def now(self) -> datetime:
        return EPOCH + timedelta(seconds=self.loop.time())

    # -- processes -----------------------------------------------------------------------------

    def add(self, name: str, life: Callable[[Process, str], Coroutine[Any, Any, Any]]) -> None:
        self._lives[name] = life
        self._skews[name] = self.chance.choice((0.0, 0.0, self.chance.uniform(-20, 20)))
        self.start(name)

    def start(self, name: str) -> None:
        """Begin a process, or a new one in the place of a dead one."""
        ids = SkewedClock(self.loop, random.Random(self.chance.getrandbits(64)), self._skews[name])
        process = self.processes[name] = Process(self.loop, name, ids)
        if self.weather.happens(0.3):
            process.fuse = self.chance.randint(0, 60)
        life = self._lives[name]
        task = process.run(lambda: process.spawn(life(process, name), name))
        task.add_done_callback(lambda ended: self._ended(process, ended))

    def _ended(self, process: Process, task: asyncio.Task[Any]) -> None:
        """A process that ends is started again by its supervisor, a little later."""
        if not task.cancelled() and (error := task.exception()) is not None and process.alive:
            self.loop.faults.append(f"{process.name} ended with {error!r}")
        process.kill()
        if self.processes.get(process.name) is process:
            self.loop.call_later(self.chance.uniform(0.05, 3.0), self._revive, process)

    def _revive(self, process: Process) -> None:
        if self.processes.get(process.name) is process:
            self.start(process.name)

    def wire(self, process: Process, server: str) -> Wire:
        wire = Wire(process, self.weather, server)
        self.wires.setdefault(process.name, []).append(wire)
        return wire

    def line(self, process: Process) -> tuple[WiredLog, WiredLeases, Wire]:
        self.wires[process.name] = []
        wire = self.wire(process, "Postgres")
        return WiredLog(self.postgres, wire), WiredLeases(self.postgres, wire), wire

    async def scheduler(self, process: Process, name: str) -> None:
        log, leases, wire = self.line(process)
        limits = replace(self.limits, max_active_users=9) if self.sabotage.seats else self.limits
        bus = WiredBus(self.broker, self.wire(process, "NATS"), self.weather)
        state, snapshots = State(), WiredSnapshots(self.postgres, wire)
        self.states[name] = state
        await self.patiently(lambda: restore(state, snapshots))
        relay = Relay(log, bus, WiredCheckpoint(self.postgres, wire))
        decider = Decider(log, limits, lambda _event, _before: None, state, Dispatching(relay.dispatch))

        async def dispatch(expired: Expired) -> None:
            await relay.dispatch_again(await start_of(log, expired))

        waits = waiting_to_be_merged(leases, bus, lambda: decider.cluster.running)
        recovery = Recovery(leases, Workflows(log, limits), dispatch, DISPATCH_S, waits)
        leadership = WiredLeadership(self.postgres, wire, process)
        keeping = Keeping(state, snapshots, every=SNAPSHOT_EVERY)
        await Scheduler(log, decider, leadership, (relay.run, recovery.run, keeping.run)).run()

    async def patiently(self, ask: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """What a supervisor does about a process that cannot begin."""
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(0.5)

    async def tiler(self, process: Process, name: str) -> None:
        await self._worker(process, name, workers.tile)

    async def merger(self, process: Process, name: str) -> None:
        await self._worker(process, name, workers.merge)

    async def _worker(self, process: Process, name: str, work: Any) -> None:
        log, leases, _ = self.line(process)
        bus = WiredBus(self.broker, self.wire(process, "NATS"), self.weather)
        workflows = (workers.Careless if self.sabotage.attempts else Workflows)(log, self.limits)
        await work(workers.frame(name, log, leases, workflows, self.known.jobs), workflows, bus, self.shop)

    async def gateway(self, process: Process, name: str, until: float) -> None:
        log, _, _ = self.line(process)
        workflows = Workflows(log, self.limits)
        # Users keep their own chance: what one does must not depend on who is asked first.
        users = [
            User(f"user{number}", random.Random(self.chance.getrandbits(64)), log, workflows, self.book)
            for number in range(self.chance.randint(1, 5))
        ]
        await asyncio.gather(*(user.live(until) for user in users))
        await asyncio.sleep(1e9)

    # -- a run ---------------------------------------------------------------------------------

    async def live(self) -> None:
        quiet = self.chance.uniform(*CHAOS_S)
        for number in range(self.chance.randint(1, 2)):
            self.add(f"scheduler{number}", self.scheduler)
        for number in range(self.chance.randint(1, 2)):
            self.add(f"tiler{number}", self.tiler)
        for number in range(self.chance.randint(1, 2)):
            self.add(f"merger{number}", self.merger)
        self.add("gateway", lambda process, name: self.gateway(process, name, quiet))
        storm = asyncio.create_task(self.chaos(), name="chaos")
        await asyncio.sleep(quiet)
        storm.cancel()
        self.calm()
        calmed = self.loop.time()
        deadline = self.loop.time() + SETTLE_S
        while self.loop.time() < deadline:
            await asyncio.sleep(2.0)
            self.settled = self.loop.time() - calmed
            if not self.judge():
                return

    async def chaos(self) -> None:
        """What happens to the machines."""
        chance, names = self.chance, list(self._lives)
        pace = chance.choice((0.5, 1.0, 3.0, 1e9))
        while True:
            await asyncio.sleep(chance.expovariate(1 / pace))
            name = chance.choice(names)
            process = self.processes[name]
            match chance.randrange(9):
                case 0 | 1:
                    process.kill()
                case 2 | 3 | 4:
                    self.pause(process, chance.uniform(0.1, 3 * LEASE_S))
                case 5:
                    self.cut(name, chance.uniform(0.1, 8.0))
                case 6:
                    self.wipe(chance.random())
                case 7:
                    self.skew(name)
                case _:
                    self.hold_back(chance.uniform(0.01, 3.0))

    def pause(self, process: Process, seconds: float) -> None:
        """SIGSTOP, and later SIGCONT; the server may have given up the silent connection of a leader by then."""
        process.stop()
        self.loop.call_later(seconds, process.resume)
        if self.postgres.leader is process and self.chance.random() < 0.5:
            self.postgres.leader = None

    def cut(self, name: str, seconds: float) -> None:
        """A process loses one of its servers for a while."""
        wires = self.wires.get(name, [])
        if wires:
            wire = self.chance.choice(wires)
            wire.cut = True
            if wire._server == "Postgres" and self.postgres.leader is self.processes[name]:
                self.postgres.leader = None
            self.loop.call_later(seconds, setattr, wire, "cut", False)

    def wipe(self, part: float) -> None:
        """JetStream comes back without its newest messages, or without any."""
        for stream in self.broker.streams.values():
            kept = int(len(stream.messages) * part) if part > 0.5 else 0
            for sequence in list(stream.messages)[kept:]:
                del stream.messages[sequence]
            if not kept:
                stream.known.clear()
                stream.last_sequence = 0

    def skew(self, name: str) -> None:
        """A clock jumps, from the next start of the process on."""
        self._skews[name] = self.chance.uniform(-20, 20)

    def hold_back(self, seconds: float) -> None:
        """An older transaction stays open: readers see nothing that is newer."""
        events = self.postgres.log._events
        if events and self.postgres.horizon is None:
            self.postgres.horizon = events[-1].cursor
            self.loop.call_later(seconds, setattr, self.postgres, "horizon", None)

    def calm(self) -> None:
        """From now on nothing goes wrong; what is broken is mended."""
        self.weather.bad = 0.0
        self.shop.transient = self.shop.permanent = 0.0
        self.postgres.horizon = None
        for name, process in self.processes.items():
            process.fuse = -1
            if process.stopped:
                process.resume()
            for wire in self.wires.get(name, []):
                wire.cut = False

    def misfolded(self) -> list[str]:
        """The schedulers whose state, begun at some snapshot or other, is not what the whole log comes to."""
        found = []
        for name, state in self.states.items():
            whole = State()
            for event in self.postgres.log._events:
                if event.cursor <= state.cursor:
                    whole.take(event)
            if (whole.versions, whole.dump()()) != (state.versions, state.dump()()):
                found.append(f"{name} folded something else than the log up to {state.cursor}")
        return found

    def judge(self) -> list[str]:
        """Judge what is new in the log; return the jobs that are not where they could be."""
        events = self.postgres.log._events
        for place in range(self._judged, len(events)):
            self._judged = place + 1
            self._checker.take(place, events[place])
            if workers.forged(events[place].message):
                raise laws.Broken(f"event {place}: a report is stored as another attempt's: {events[place].message}")
        return self._checker.forgotten()


def digest(events: list[StoredEvent]) -> str:
    """A name for a log: equal for equal logs."""
    found = hashlib.sha256()
    for event in events:
        facts = (str(event.cursor), event.stream, event.version, event.event_id.hex, event.at.isoformat())
        found.update(repr((facts, type(event.message).__name__, to_json(event.message))).encode())
    return found.hexdigest()
