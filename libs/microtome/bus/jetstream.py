"""The bus over NATS JetStream.

Promises: it reconnects for ever; it provisions streams and queues when it connects and again when
it finds them gone (a server may be wiped at any time).
Refuses: to keep facts, and to buffer publishes while the server is away: they are tried again
with their id until the deadline.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.client import JetStreamContext
from nats.js.errors import NoStreamResponseError, NotFoundError

from microtome.bus import headers as header_names
from microtome.bus import provision, subjects
from microtome.bus.bus import ANNOUNCEMENT_BUFFER, PUBLISH_DEADLINE_S, Deliver
from microtome.bus.message import Message, Published, Subscription
from microtome.bus.ordered import OrderedReader
from microtome.bus.pull import ConsumerGone, PullInbox
from microtome.bus.queue import InFlight, OnDead, PullQueue
from microtome.bus.topology import DEAD_LETTERS, EVENTS, TOPOLOGY, QueueSpec, StreamSpec, Topology
from microtome.bus.worker import Handler, Worker
from microtome.errors import ConfigurationError, InvalidRequest, TooLarge, Unavailable

log = logging.getLogger(__name__)
T = TypeVar("T")

_PUBLISH_TRY_S = 3.0
_PAUSE_FIRST_S = 0.1
_PAUSE_LONGEST_S = 2.0


class JetStreamBus:
    """One connection to NATS; see `microtome.bus.bus.Bus` for what its methods promise."""

    def __init__(self, client: Client, topology: Topology) -> None:
        self._client = client
        self._js: JetStreamContext = client.jetstream(timeout=5)
        self._topology = topology
        self.reconnections = 0
        self._inboxes: weakref.WeakSet[PullInbox] = weakref.WeakSet()
        self._queues: weakref.WeakSet[PullQueue] = weakref.WeakSet()
        self._subscriptions: weakref.WeakSet[Subscription] = weakref.WeakSet()

    @classmethod
    async def connect(
        cls, url: str, *, name: str, topology: Topology = TOPOLOGY, timeout_s: float = 30.0
    ) -> JetStreamBus:
        """Open a connection under `name` (shown by the server), with the topology in place.

        Raises: Unavailable if there is no server after `timeout_s` seconds; ConfigurationError.
        """
        deadline = time.monotonic() + timeout_s
        client = Client()
        bus = cls(client, topology)
        try:
            # It tries again by itself, for ever; the timeout makes an end of that.
            async with asyncio.timeout(timeout_s):
                await client.connect(
                    url,
                    name=name,
                    connect_timeout=2,
                    reconnect_time_wait=0.25,  # type: ignore[arg-type]  # seconds; a float works
                    max_reconnect_attempts=-1,
                    ping_interval=10,
                    error_cb=_on_error,
                    disconnected_cb=bus._on_disconnected,
                    reconnected_cb=bus._on_reconnected,
                )
        except (nats.errors.Error, OSError, TimeoutError) as error:
            await client.close()
            raise Unavailable(f"There is no NATS server at {url}: {error!r}.") from error
        try:
            await _until(deadline, bus._provision)
        except BaseException:
            await client.close()
            raise
        return bus

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,
    ) -> Published:
        """See `Bus.publish`."""
        if not message_id:
            raise InvalidRequest("A message needs an id.")
        carried = header_names.clean(header_names.with_trace({**(headers or {}), header_names.MESSAGE_ID: message_id}))

        async def once() -> Published:
            return await self._publish_once(subject, payload, carried)

        return await _until(time.monotonic() + deadline_s, once)

    async def _publish_once(self, subject: str, payload: bytes, carried: dict[str, str]) -> Published:
        if not self._client.is_connected:
            raise Unavailable("There is no connection to NATS.")
        try:
            ack = await self._js.publish(subject, payload, timeout=_PUBLISH_TRY_S, headers=carried)
        except nats.errors.MaxPayloadError as error:
            raise TooLarge(f"A message of {len(payload)} bytes does not fit on the bus.") from error
        except nats.errors.BadSubjectError as error:
            raise InvalidRequest(f"{subject!r} is not a subject.") from error
        except NoStreamResponseError as error:
            await self._heal()
            raise Unavailable(f"No stream takes {subject!r}.") from error
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"NATS did not take {subject!r}: {error!r}.") from error
        return Published(ack.stream, ack.seq, bool(ack.duplicate))

    async def announce(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """See `Bus.announce`."""
        if not self._client.is_connected:
            return  # nats-py would keep it and send it late
        carried = header_names.clean(header_names.with_trace(headers or {}))
        try:
            await self._client.publish(subject, payload, headers=carried)
        except nats.errors.MaxPayloadError as error:
            raise TooLarge(f"An announcement of {len(payload)} bytes is too large.") from error
        except nats.errors.BadSubjectError as error:
            raise InvalidRequest(f"{subject!r} is not a subject.") from error
        except nats.errors.Error as error:
            log.info("an announcement was lost: %r", error)

    async def listen(self, pattern: str, *, buffer: int = ANNOUNCEMENT_BUFFER) -> Subscription:
        """See `Bus.listen`."""

        async def close() -> None:
            if not self._client.is_closed:
                with contextlib.suppress(nats.errors.Error):  # gone with its connection
                    await core.unsubscribe()

        subscription = Subscription(close, buffer=buffer)

        async def heard(msg: Msg) -> None:
            subscription.put(Message(msg.subject, msg.data, msg.headers or {}))

        try:
            core = await self._client.subscribe(pattern, cb=heard)
            await self._client.flush()
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"NATS takes no subscription: {error!r}.") from error
        self._subscriptions.add(subscription)
        return subscription

    async def subscribe_events(self, pattern: str, *, deliver: Deliver = "new") -> Subscription:
        """See `Bus.subscribe_events`."""
        return await self._read(EVENTS.name, pattern, deliver)

    async def dead_letters(self, queue: str | None = None, *, deliver: Deliver = "all") -> Subscription:
        """See `Bus.dead_letters`."""
        pattern = subjects.DEAD_LETTERS if queue is None else subjects.dead(queue)
        return await self._read(DEAD_LETTERS.name, pattern, deliver)

    async def _read(self, stream: str, pattern: str, deliver: Deliver) -> Subscription:
        reader = OrderedReader(self._client, stream, pattern, self._inboxes.add)
        subscription = await reader.start(from_now=deliver == "new")
        self._subscriptions.add(subscription)
        return subscription

    async def queue(self, spec: QueueSpec, *, on_dead: OnDead | None = None) -> PullQueue:
        """See `Bus.queue`."""
        await provision.ensure_queue(self._js, spec)
        inbox = PullInbox(self._client, spec.stream, spec.durable, spec.ack_wait_s)
        self._inboxes.add(inbox)

        async def publish(subject: str, payload: bytes, message_id: str, headers: Mapping[str, str]) -> Published:
            return await self.publish(subject, payload, message_id=message_id, headers=headers)

        async def heal() -> None:
            await self._heal(spec)

        queue = PullQueue(spec, _Source(inbox, heal), publish, on_dead=on_dead)
        self._queues.add(queue)
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
        try:
            info = await self._js.consumer_info(spec.stream, spec.durable)
        except NotFoundError:
            return 0
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"NATS does not tell the depth of {spec.name}: {error!r}.") from error
        return (info.num_pending or 0) + (info.num_ack_pending or 0)

    async def stored(self, stream: StreamSpec) -> int:
        """See `Bus.stored`."""
        try:
            return int((await self._js.stream_info(stream.name)).state.messages)
        except NotFoundError:
            return 0
        except (nats.errors.Error, TimeoutError) as error:
            raise Unavailable(f"NATS does not tell how many messages {stream.name} has: {error!r}.") from error

    async def close(self) -> None:
        """See `Bus.close`."""
        for queue in list(self._queues):
            await queue.abandon()
        for subscription in list(self._subscriptions):
            await subscription.aclose()
        await self._client.close()

    async def _provision(self) -> None:
        await provision.ensure_topology(self._client, self._topology)

    async def _heal(self, *queues: QueueSpec) -> None:
        """Put back what a wiped server has forgotten. Raises: Unavailable."""
        try:
            await self._provision()
            for spec in queues:
                await provision.ensure_queue(self._js, spec)
        except ConfigurationError as error:
            # The server was fine when we connected; while it starts it may answer anything.
            raise Unavailable(f"NATS is not ready: {error}") from error

    async def _on_disconnected(self) -> None:
        # The client tells its own closing like a loss.
        if not self._client.is_closed:
            log.warning("the connection to NATS is lost; connecting again")

    async def _on_reconnected(self) -> None:
        log.info("connected to NATS again")
        self.reconnections += 1
        for inbox in list(self._inboxes):
            inbox.interrupt()


class _Source:
    """A queue's deliveries from JetStream."""

    def __init__(self, inbox: PullInbox, heal: Callable[[], Awaitable[None]]) -> None:
        self._inbox = inbox
        self._heal = heal

    async def pull(self, limit: int, wait_s: float) -> list[InFlight]:
        try:
            return list(await self._inbox.pull(limit, wait_s))
        except ConsumerGone:
            await self._heal()
            raise

    async def close(self) -> None:
        await self._inbox.close()


async def _until(deadline: float, attempt: Callable[[], Awaitable[T]]) -> T:
    """Call `attempt` again and again while it raises Unavailable, with growing pauses, until `deadline`
    (monotonic seconds); then raise the last Unavailable.
    """
    pause = _PAUSE_FIRST_S
    while True:
        try:
            return await attempt()
        except Unavailable:
            if time.monotonic() + pause > deadline:
                raise
            await asyncio.sleep(pause)
            pause = min(_PAUSE_LONGEST_S, pause * 2)


async def _on_error(error: Exception) -> None:
    log.info("NATS connection: %r", error)
