"""The bus in memory, for tests of what stands on the bus.

Promises: the behaviour of `JetStreamBus` that the shared contract tests describe: streams,
deduplication, waiting times, redelivery, wildcard subjects. Several `MemoryBus` of one
`MemoryBroker` are several connections to one server.
Refuses: to outlive its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from microtome.bus import headers as header_names
from microtome.bus import subjects
from microtome.bus.bus import ANNOUNCEMENT_BUFFER, PUBLISH_DEADLINE_S, Deliver
from microtome.bus.message import Message, Published, Subscription
from microtome.bus.queue import InFlight, OnDead, PullQueue
from microtome.bus.topology import DEAD_LETTERS, EVENTS, TOPOLOGY, QueueSpec, StreamSpec, Topology
from microtome.bus.worker import Handler, Worker
from microtome.errors import InvalidRequest, TooLarge, Unavailable

MAX_PAYLOAD_BYTES = 1024 * 1024


def _now() -> float:
    # The loop's own time: a simulation has another than the machine.
    return asyncio.get_running_loop().time()


@dataclass(slots=True)
class _Stored:
    """A message of a stream; `due` is when a queue may deliver it (again), by the monotonic clock."""

    message: Message
    due: float = 0.0
    deliveries: int = 0


@dataclass(slots=True)
class _Stream:
    spec: StreamSpec
    messages: dict[int, _Stored] = field(default_factory=dict)
    last_sequence: int = 0
    known: dict[str, tuple[float, int]] = field(default_factory=dict)

    def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> Published:
        now = _now()
        message_id = headers[header_names.MESSAGE_ID]
        seen = self.known.get(message_id)
        if seen is not None and now - seen[0] < self.spec.duplicate_window_s:
            return Published(self.spec.name, seen[1], True)
        self.last_sequence += 1
        self.known[message_id] = (now, self.last_sequence)
        message = Message(subject, payload, headers, self.last_sequence)
        self.messages[self.last_sequence] = _Stored(message)
        return Published(self.spec.name, self.last_sequence, False)


class MemoryBroker:
    """The server: its streams and who listens."""

    def __init__(self, topology: Topology = TOPOLOGY) -> None:
        self.streams = {spec.name: _Stream(spec) for spec in topology.streams}
        self.listeners: dict[Subscription, str] = {}
        self.readers: dict[Subscription, str] = {}
        self._changed = asyncio.Event()

    async def store(self, subject: str, payload: bytes, headers: dict[str, str]) -> Published:
        """Store in the stream of `subject` and wake readers. Raises: Unavailable if none has it."""
        for stream in self.streams.values():
            if any(subjects.matches(pattern, subject) for pattern in stream.spec.subjects):
                published = stream.store(subject, payload, headers)
                if not published.duplicate:
                    self._tell_readers(stream.messages[published.sequence].message)
                self.wake()
                return published
        raise Unavailable(f"No stream takes {subject!r}.")

    def wake(self) -> None:
        """Let whoever waits for messages look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, timeout_s: float) -> None:
        """Return at the next `wake`, or after `timeout_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()

    def _tell_readers(self, message: Message) -> None:
        for subscription, pattern in list(self.readers.items()):
            if subjects.matches(pattern, message.subject):
                subscription.put(message)


@dataclass(slots=True)
class _MemoryDelivery:
    broker: MemoryBroker
    stream: _Stream
    spec: QueueSpec
    stored: _Stored
    message: Message
    deliveries: int

    async def ack(self) -> None:
        self.stream.messages.pop(self.message.sequence, None)

    async def nak(self, delay_s: float) -> None:
        if self._current():
            self.stored.due = _now() + delay_s
            self.broker.wake()

    async def term(self) -> None:
        await self.ack()

    async def in_progress(self) -> None:
        if self._current():
            self.stored.due = _now() + self.spec.ack_wait_s

    def _current(self) -> bool:
        return self.stored.deliveries == self.deliveries


class _MemorySource:
    """Deliveries of one queue. After `close` nothing is delivered any more."""

    def __init__(self, broker: MemoryBroker, spec: QueueSpec) -> None:
        self._broker = broker
        self._spec = spec
        self._stream = broker.streams[spec.stream]

    async def pull(self, limit: int, wait_s: float) -> list[InFlight]:
        deadline = _now() + wait_s
        while True:
            ready = self._ready(limit)
            left = deadline - _now()
            if ready or left <= 0:
                return ready
            # A waiting time ends without a notification.
            await self._broker.changed(min(left, self._next_due()))

    async def close(self) -> None:
        self._broker.wake()

    def _ready(self, limit: int) -> list[InFlight]:
        now = _now()
        mine = [
            stored
            for stored in self._stream.messages.values()
            if subjects.matches(self._spec.subject, stored.message.subject)
        ]
        held = sum(stored.deliveries > 0 and stored.due > now for stored in mine)
        room = min(limit, self._spec.max_ack_pending - held)
        ready = [stored for stored in mine if stored.due <= now][: max(room, 0)]
        return [self._deliver(stored, now) for stored in ready]

    def _next_due(self) -> float:
        """Return the seconds until a waiting time ends, at least a little."""
        now = _now()
        dues = (stored.due - now for stored in self._stream.messages.values() if stored.due > now)
        return max(min(dues, default=math.inf), 0.001)

    def _deliver(self, stored: _Stored, now: float) -> InFlight:
        stored.deliveries += 1
        stored.due = now + self._spec.ack_wait_s
        return _MemoryDelivery(self._broker, self._stream, self._spec, stored, stored.message, stored.deliveries)


class MemoryBus:
    """One connection to a `MemoryBroker`; see `microtome.bus.bus.Bus` for what its methods promise."""

    def __init__(self, broker: MemoryBroker | None = None) -> None:
        self._broker = broker or MemoryBroker()
        # Memory does not go away; whoever plays that it did counts here.
        self.reconnections = 0
        self._queues: list[PullQueue] = []
        self._subscriptions: list[Subscription] = []

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,  # noqa: ARG002  # memory answers at once
    ) -> Published:
        """See `Bus.publish`."""
        if not message_id:
            raise InvalidRequest("A message needs an id.")
        _check(subject, payload)
        carried = header_names.with_trace({**(headers or {}), header_names.MESSAGE_ID: message_id})
        return await self._broker.store(subject, payload, header_names.clean(carried))

    async def announce(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Bus.announce`."""
        _check(subject, payload)
        message = Message(subject, payload, header_names.clean(header_names.with_trace(headers or {})))
        for subscription, pattern in list(self._broker.listeners.items()):
            if subjects.matches(pattern, subject):
                subscription.put(message)

    async def listen(self, pattern: str, *, buffer: int = ANNOUNCEMENT_BUFFER) -> Subscription:
        """See `Bus.listen`."""
        return self._subscribe(self._broker.listeners, pattern, buffer)

    async def subscribe_events(self, pattern: str, *, deliver: Deliver = "new") -> Subscription:
        """See `Bus.subscribe_events`."""
        return self._read(EVENTS.name, pattern, deliver)

    async def dead_letters(self, queue: str | None = None, *, deliver: Deliver = "all") -> Subscription:
        """See `Bus.dead_letters`."""
        pattern = subjects.DEAD_LETTERS if queue is None else subjects.dead(queue)
        return self._read(DEAD_LETTERS.name, pattern, deliver)

    def _read(self, stream: str, pattern: str, deliver: Deliver) -> Subscription:
        subscription = self._subscribe(self._broker.readers, pattern, 0)
        if deliver == "all":
            for stored in self._broker.streams[stream].messages.values():
                if subjects.matches(pattern, stored.message.subject):
                    subscription.put(stored.message)
        return subscription

    def _subscribe(self, registry: dict[Subscription, str], pattern: str, buffer: int) -> Subscription:
        async def close() -> None:
            registry.pop(subscription, None)

        subscription = Subscription(close, buffer=buffer)
        registry[subscription] = pattern
        self._subscriptions.append(subscription)
        return subscription

    async def queue(self, spec: QueueSpec, *, on_dead: OnDead | None = None) -> PullQueue:
        """See `Bus.queue`."""

        async def publish(subject: str, payload: bytes, message_id: str, headers: Mapping[str, str]) -> Published:
            return await self.publish(subject, payload, message_id=message_id, headers=headers)

        queue = PullQueue(spec, _MemorySource(self._broker, spec), publish, on_dead=on_dead)
        self._queues.append(queue)
        return queue

    async def consume(
        self,
        spec: QueueSpec,
        handler: Handler,
        *,
        concurrency: int,
        on_dead: OnDead | None = None,
    ) -> Worker:
        """See `Bus.consume`."""
        queue = await self.queue(spec, on_dead=on_dead)
        return Worker(queue, handler, concurrency=concurrency, on_dead=on_dead)

    async def depth(self, spec: QueueSpec) -> int:
        """See `Bus.depth`."""
        stored = self._broker.streams[spec.stream].messages.values()
        return sum(subjects.matches(spec.subject, each.message.subject) for each in stored)

    async def stored(self, stream: StreamSpec) -> int:
        """See `Bus.stored`."""
        return len(self._broker.streams[stream.name].messages)

    async def close(self) -> None:
        """See `Bus.close`."""
        for queue in self._queues:
            await queue.abandon()
        for subscription in self._subscriptions:
            await subscription.aclose()


def _check(subject: str, payload: bytes) -> None:
    if not subject or " " in subject or "*" in subject or ">" in subject:
        raise InvalidRequest(f"{subject!r} is not a subject.")
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise TooLarge(f"A message of {len(payload)} bytes does not fit on the bus.")
