"""Work queues: messages that are held, kept alive, and settled one by one.

Promises: every message that `PullQueue.fetch` hands out is heartbeated until it is settled, so
that work may last longer than `ack_wait`; a message redelivered to the process that still holds
it is taken over in place, never worked on twice at once; a message delivered more often than
`max_deliver` goes to the dead letters before any handler sees it.
Refuses: to settle a message twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from microtome.bus import headers as header_names
from microtome.bus import subjects
from microtome.bus.message import Message, Published
from microtome.bus.topology import QueueSpec
from microtome.errors import Conflict, MicrotomeError, Unavailable, WorkerLost

log = logging.getLogger(__name__)

RETRY_FIRST_S = 1.0
RETRY_FACTOR = 3.0
RETRY_LONGEST_S = 60.0
VERDICTS_KEPT = 1024


class InFlight(Protocol):
    """One delivery as the server sees it. Every method raises Unavailable if nobody answers."""

    message: Message
    deliveries: int

    async def ack(self) -> None:
        """Say that the work is done; return when the server has confirmed."""

    async def nak(self, delay_s: float) -> None:
        """Deliver it again after `delay_s` seconds."""

    async def term(self) -> None:
        """Never deliver it again."""

    async def in_progress(self) -> None:
        """Say that it is worked on: start the waiting time anew. Does not wait for an answer."""


class Source(Protocol):
    """Where a queue's deliveries come from."""

    async def pull(self, limit: int, wait_s: float) -> list[InFlight]:
        """Return up to `limit` deliveries: those that are there, or the first to come within `wait_s` seconds.

        Raises: Unavailable.
        """

    async def close(self) -> None:
        """Let go of the server; deliveries that nobody has taken are given back."""


Publish: TypeAlias = Callable[[str, bytes, str, Mapping[str, str]], Awaitable[Published]]
Verdict: TypeAlias = Callable[[InFlight], Awaitable[None]]
OnDead: TypeAlias = "Callable[[Delivery, MicrotomeError], Awaitable[None]]"


class Delivery:
    """A message in hand: settle it with exactly one of `ack`, `retry`, `dead`."""

    def __init__(self, queue: PullQueue, in_flight: InFlight) -> None:
        self._queue = queue
        self.in_flight = in_flight
        self._settled = False
        self.message = in_flight.message

    @property
    def payload(self) -> bytes:
        """The message's payload."""
        return self.message.payload

    @property
    def headers(self) -> Mapping[str, str]:
        """The message's headers."""
        return self.message.headers

    @property
    def subject(self) -> str:
        """The subject that the message was published to."""
        return self.message.subject

    @property
    def deliveries(self) -> int:
        """How often the message was delivered so far, this time included (1 the first time)."""
        return self.in_flight.deliveries

    @property
    def settled(self) -> bool:
        """Whether it was acknowledged, sent back or dead-lettered."""
        return self._settled

    async def ack(self) -> None:
        """Say that the work is done and its outcome stored. Return when the server has confirmed.

        Raises: Unavailable (the message will come again: here it is then settled without being
        handed out, but another process works on it anew, so effects must be idempotent),
        Conflict if it is settled.
        """
        self._settle()
        await self._finish(lambda in_flight: in_flight.ack())

    async def retry(self, delay_s: float | None = None) -> None:
        """Send it back, to be delivered again after `delay_s` seconds (default: growing with each
        delivery, 1 s to 60 s). Raises: Unavailable, Conflict if it is settled.
        """
        self._settle()
        await self.in_flight.nak(retry_delay(self.deliveries) if delay_s is None else delay_s)

    async def dead(self, error: BaseException, on_dead: OnDead | None = None) -> None:
        """Move it to the dead letters, tell `on_dead`, and end its deliveries, in this order:
        a crash in between repeats the steps (`on_dead` must be idempotent) and loses nothing.

        Raises: Unavailable, what `on_dead` raises (in both cases it is still held: `retry` it),
        Conflict if it is settled.
        """
        if self._settled:
            raise Conflict("The message is settled.")
        known = as_microtome_error(error)
        await self._queue.bury(self, known)
        if on_dead is not None:
            await on_dead(self, known)
        self._settle()
        await self._finish(lambda in_flight: in_flight.term())

    async def _finish(self, verdict: Verdict) -> None:
        try:
            await verdict(self.in_flight)
        except Unavailable:
            self._queue.remember(self.message, verdict)
            raise

    def _settle(self) -> None:
        if self._settled:
            raise Conflict("The message is settled.")
        self._settled = True
        self._queue.release(self)


class PullQueue:
    """Messages of one queue on request; for services that take several at once.

    Must be used on one event loop, which must stay responsive (blocking work belongs in
    threads or processes): the heartbeats run on it.
    """

    def __init__(
        self,
        spec: QueueSpec,
        source: Source,
        publish: Publish,
        *,
        on_dead: OnDead | None = None,
    ) -> None:
        self.spec = spec
        self._source = source
        self._publish = publish
        self._on_dead = on_dead
        self._held: dict[tuple[int, bytes], Delivery] = {}
        self._verdicts: dict[tuple[int, bytes], Verdict] = {}
        self._closed = False
        self._heartbeats = asyncio.create_task(self._beat(), name=f"heartbeats {spec.durable}")

    @property
    def held(self) -> tuple[Delivery, ...]:
        """Everything handed out and not settled yet."""
        return tuple(self._held.values())

    async def fetch(self, limit: int, wait_s: float = 2.0) -> list[Delivery]:
        """Return up to `limit` messages: those that are there at once, otherwise the first ones to come
        within `wait_s` seconds (at most 5; call again). May be empty. One call at a time.

        Raises: Unavailable.
        """
        arrived = await self._source.pull(limit, min(wait_s, 5.0))
        fresh = [
            delivery
            for in_flight in arrived
            if not await self._settled_before(in_flight) and (delivery := self._hold(in_flight))
        ]
        usable = []
        for delivery in fresh:
            if delivery.deliveries > self.spec.max_deliver:
                await self._quarantine(delivery)
            else:
                usable.append(delivery)
        return usable

    async def close(self) -> None:
        """Send back everything that is still held, and stop the heartbeats. Idempotent."""
        for delivery in self.held:
            try:
                await delivery.retry(0.0)
            except MicrotomeError as error:
                log.warning("could not send a message back: %s", error)
        await self.abandon()

    async def abandon(self) -> None:
        """Stop the heartbeats and let go; what is held comes again after `ack_wait_s`."""
        self._closed = True
        self._heartbeats.cancel()
        await asyncio.gather(self._heartbeats, return_exceptions=True)
        await self._source.close()
        self._held.clear()

    def _hold(self, in_flight: InFlight) -> Delivery | None:
        key = _identity(in_flight.message)
        mine = self._held.get(key)
        if mine is not None:
            mine.in_flight = in_flight  # the newest delivery is the one that can be settled
            return None
        delivery = self._held[key] = Delivery(self, in_flight)
        return delivery

    def remember(self, message: Message, verdict: Verdict) -> None:
        """Keep a verdict that the server did not hear, for when the message comes again; for `Delivery`."""
        self._verdicts[_identity(message)] = verdict
        if len(self._verdicts) > VERDICTS_KEPT:
            del self._verdicts[next(iter(self._verdicts))]

    async def _settled_before(self, in_flight: InFlight) -> bool:
        verdict = self._verdicts.get(_identity(in_flight.message))
        if verdict is None:
            return False
        try:
            await verdict(in_flight)
        except Unavailable as error:
            log.warning("a message that is done could not be settled again: %s", error)
        else:
            self._verdicts.pop(_identity(in_flight.message), None)
        return True

    def release(self, delivery: Delivery) -> None:
        """Let go of a delivery that was settled; for `Delivery`."""
        self._held.pop(_identity(delivery.message), None)

    async def _quarantine(self, delivery: Delivery) -> None:
        lost = WorkerLost(
            f"Delivered {delivery.deliveries - 1} times without an outcome; every worker that took it died or gave up."
        )
        try:
            await delivery.dead(lost, self._on_dead)
        except Exception:
            log.exception("could not move a message to the dead letters; it will come again")
            if not delivery.settled:
                await delivery.retry()

    async def bury(self, delivery: Delivery, error: MicrotomeError) -> None:
        """Publish a copy to the dead letters, once however often it is called; for `Delivery`."""
        message = delivery.message
        letter = {
            **message.headers,
            header_names.ERROR_CODE: error.code,
            header_names.ERROR_DETAIL: error.detail,
            header_names.DELIVERIES: str(delivery.deliveries),
            header_names.ORIGIN: message.subject,
            header_names.ORIGIN_ID: message.message_id,
        }
        name = f"dead-{self.spec.durable}-{hashlib.sha256(repr(_identity(message)).encode()).hexdigest()}"
        await self._publish(subjects.dead(self.spec.name), message.payload, name, letter)
        log.error(
            "message moved to the dead letters",
            extra={"queue": self.spec.name, "code": error.code, "detail": error.detail},
        )

    async def _beat(self) -> None:
        while not self._closed:
            await asyncio.sleep(self.spec.heartbeat_s)
            for delivery in self.held:
                try:
                    await delivery.in_flight.in_progress()
                except MicrotomeError as error:
                    log.warning("a heartbeat was not sent: %s", error)
                except Exception:
                    # Without heartbeats everything held would be worked on a second time.
                    log.exception("a heartbeat was not sent")


def retry_delay(deliveries: int) -> float:
    """Return the seconds to wait after so many deliveries: 1, 3, 9, 27, 60, 60 and so on."""
    return min(RETRY_LONGEST_S, RETRY_FIRST_S * RETRY_FACTOR ** min(deliveries - 1, 10))


def as_microtome_error(error: BaseException) -> MicrotomeError:
    """Return `error` itself if it is one of ours, otherwise an internal error that names its type."""
    if isinstance(error, MicrotomeError):
        return error
    return MicrotomeError(f"{type(error).__name__}: {error}")


def _identity(message: Message) -> tuple[int, bytes]:
    # The sequence alone is not enough: a wiped server counts from 1 again.
    return message.sequence, hashlib.sha256(message.message_id.encode() + message.payload).digest()
