"""Pull requests to a JetStream consumer.

Promises: a request returns what is there at once instead of waiting for a full batch; messages
that arrive after their request was given up are kept for the next one (or sent back), not lost
until `ack_wait`.
Refuses: to wait longer than asked: a request that was on its way when the server died is given
up, and the next one is sent over the new connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as CoreSubscription

from microtome.bus.message import Message
from microtome.errors import Unavailable

NO_RESPONDERS = "503"
_EMPTY = ("404", "408")
_ANSWER_S = 1.0
_SETTLE_TRY_S = 1.0
_SETTLE_DEADLINE_S = 12.0
_NANOSECONDS = 1_000_000_000


class ConsumerGone(Unavailable):
    """The consumer does not exist (any more), or the server is not ready to serve it."""


@dataclass(slots=True)
class JetStreamDelivery:
    """A delivery, settled by requests to its reply subject."""

    client: Client
    message: Message
    deliveries: int
    consumer_sequence: int
    reply: str
    arrived: float

    async def ack(self) -> None:
        """See `InFlight.ack`."""
        await self._settle(b"+ACK")

    async def nak(self, delay_s: float) -> None:
        """See `InFlight.nak`."""
        delay = json.dumps({"delay": int(delay_s * _NANOSECONDS)})
        await self._settle(b"-NAK" if delay_s <= 0 else b"-NAK " + delay.encode())

    async def term(self) -> None:
        """See `InFlight.term`."""
        await self._settle(b"+TERM")

    async def in_progress(self) -> None:
        """See `InFlight.in_progress`."""
        if not self.client.is_connected:
            return  # a buffered heartbeat would only arrive late
        try:
            await self.client.publish(self.reply, b"+WPI")
        except nats.errors.Error as error:
            raise Unavailable(f"NATS takes no heartbeat: {error!r}.") from error

    async def _settle(self, verb: bytes) -> None:
        deadline = time.monotonic() + _SETTLE_DEADLINE_S
        failures: list[Exception] = []
        # A server that was killed forgets what it had delivered, and does not answer: two tries tell.
        while time.monotonic() < deadline and len(failures) < 2:
            try:
                if self.client.is_connected:
                    await self.client.request(self.reply, verb, timeout=_SETTLE_TRY_S)
                    return
            except (nats.errors.Error, TimeoutError) as error:
                failures.append(error)
            await asyncio.sleep(0.1)
        raise Unavailable(f"NATS did not confirm {verb.decode()!r}: {failures!r}.")


class PullInbox:
    """Requests for messages of one consumer, one request at a time."""

    def __init__(self, client: Client, stream: str, consumer: str, ack_wait_s: float) -> None:
        self._client = client
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._fresh_s = ack_wait_s / 2
        self._inbox = client.new_inbox()
        self._subscription: CoreSubscription | None = None
        self._arrived: deque[JetStreamDelivery] = deque()
        self._request = 0
        self._status: tuple[str, str] | None = None
        self._changed = asyncio.Event()

    async def pull(self, limit: int, wait_s: float) -> list[JetStreamDelivery]:
        """Return up to `limit` deliveries. Raises: ConsumerGone, Unavailable."""
        try:
            if self._subscription is None:
                self._subscription = await self._client.subscribe(f"{self._inbox}.*", cb=self._on_message)
            if limit > 1 and not self._arrived:
                await self._ask(limit, None)
            if not self._arrived and wait_s > 0:
                await self._ask(1, wait_s)
                if self._arrived and limit > 1:
                    await self._ask(limit - 1, None)
        except nats.errors.Error as error:
            raise Unavailable(f"NATS takes no request: {error!r}.") from error
        return self._take(limit)

    def interrupt(self) -> None:
        """Give up the request that is under way: it was lost with the old connection."""
        self._status = ("408", "Reconnected")
        self._changed.set()

    async def close(self) -> None:
        """End the subscription and send back what nobody took."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None and not self._client.is_closed:
            with contextlib.suppress(nats.errors.Error):  # gone with its connection
                await subscription.unsubscribe()
        while self._arrived:
            try:
                await self._arrived.popleft().nak(0.0)
            except Unavailable:
                self._arrived.clear()  # they come again after ack_wait

    async def _ask(self, batch: int, wait_s: float | None) -> None:
        """Send one request and wait until it is filled, refused or over.

        Without `wait_s` the server answers with what it has.
        """
        if not self._client.is_connected:
            raise Unavailable("There is no connection to NATS.")
        self._request += 1
        self._status = None
        wanted = len(self._arrived) + batch
        body: dict[str, object] = {"batch": batch}
        if wait_s is None:
            body["no_wait"] = True
        else:
            body["expires"] = int(wait_s * _NANOSECONDS)
        await self._client.publish(self._next, json.dumps(body).encode(), reply=f"{self._inbox}.{self._request}")
        deadline = time.monotonic() + (_ANSWER_S if wait_s is None else wait_s + 0.25)
        while len(self._arrived) < wanted and self._status is None:
            self._changed.clear()
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self._changed.wait()
            except TimeoutError:
                return
        self._judge_status()

    def _judge_status(self) -> None:
        if self._status is None or self._status[0] in _EMPTY or self._arrived:
            return
        code, text = self._status
        if code == NO_RESPONDERS or "consumer" in text.lower():
            raise ConsumerGone(f"The consumer cannot be asked: {code} {text}.")
        raise Unavailable(f"NATS refused to deliver: {code} {text}.")

    async def _on_message(self, msg: Msg) -> None:
        status = (msg.headers or {}).get("Status")
        if status is not None:
            if msg.subject == f"{self._inbox}.{self._request}":
                self._status = (status, (msg.headers or {}).get("Description", ""))
                self._changed.set()
            return
        meta = msg.metadata
        self._arrived.append(
            JetStreamDelivery(
                client=self._client,
                message=Message(msg.subject, msg.data, msg.headers or {}, meta.sequence.stream),
                deliveries=meta.num_delivered,
                consumer_sequence=meta.sequence.consumer,
                reply=msg.reply,
                arrived=time.monotonic(),
            )
        )
        self._changed.set()

    def _take(self, limit: int) -> list[JetStreamDelivery]:
        taken: list[JetStreamDelivery] = []
        while self._arrived and len(taken) < limit:
            delivery = self._arrived.popleft()
            # Nobody heartbeated it while it lay here; an old one may be somebody else's by now.
            if time.monotonic() - delivery.arrived < self._fresh_s:
                taken.append(delivery)
        return taken
