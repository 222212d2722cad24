"""A worker: takes messages of one queue and works on several at a time.

Promises: what a handler's end means for its message:
returns, or `StaleAttempt` (somebody newer works on it) → acknowledged; transient MicrotomeError →
delivered again after a growing delay, until `max_deliver`; anything else → dead letters and
`on_dead`. It survives a restart of NATS, and `stop` gives handlers time, then sends their messages
back.
Refuses: to take more messages than it can work on (none wait here while another worker is free).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from microtome.bus.headers import trace_context
from microtome.bus.queue import Delivery, OnDead, PullQueue
from microtome.errors import MicrotomeError, StaleAttempt

log = logging.getLogger(__name__)
_tracer = trace.get_tracer("microtome.bus")

Handler = Callable[[Delivery], Awaitable[None]]

FETCH_WAIT_S = 2.0
OUTAGE_PAUSE_S = 0.5


class Worker:
    """Runs `handler` for the messages of `queue`, at most `concurrency` at a time."""

    def __init__(
        self,
        queue: PullQueue,
        handler: Handler,
        *,
        concurrency: int,
        on_dead: OnDead | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        self._queue = queue
        self._handler = handler
        self._concurrency = concurrency
        self._on_dead = on_dead
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._loop = asyncio.create_task(self._run(), name=f"worker {queue.spec.durable}")

    @property
    def active(self) -> int:
        """How many handlers run now."""
        return len(self._tasks)

    async def wait(self) -> None:
        """Return when the worker was stopped; raise what ended it otherwise (a bug)."""
        try:
            await asyncio.shield(self._loop)
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise

    async def stop(self, grace_s: float = 10.0) -> None:
        """Take no more messages, give running handlers `grace_s` seconds, cancel the others and
        send their messages back. Idempotent.
        """
        self._stopping.set()
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        await self._queue.close()

    async def _run(self) -> None:
        # The flag, because libraries below may swallow a cancellation (asyncio.wait_for did until 3.12).
        while not self._stopping.is_set():
            free = self._concurrency - len(self._tasks)
            if free == 0:
                await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
                continue
            try:
                deliveries = await self._queue.fetch(free, FETCH_WAIT_S)
            except MicrotomeError as error:
                log.warning("no messages can be fetched: %s", error)
                await asyncio.sleep(OUTAGE_PAUSE_S)
                continue
            if self._stopping.is_set():
                return  # closing the queue sends them back
            for delivery in deliveries:
                task = asyncio.create_task(self._work(delivery))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _work(self, delivery: Delivery) -> None:
        try:
            with _tracer.start_as_current_span(
                f"work {self._queue.spec.name}",
                context=trace_context(delivery.headers),
                kind=SpanKind.CONSUMER,
                attributes={"messaging.system": "nats", "messaging.destination.name": delivery.subject},
                record_exception=False,
                set_status_on_exception=False,
            ) as span:
                error = await self._attempt(delivery)
                if error is not None:
                    span.record_exception(error)
                    span.set_status(Status(StatusCode.ERROR, str(error)))
                await self._settle(delivery, error)
        except asyncio.CancelledError:
            raise  # `stop` closes the queue, which sends the message back
        except MicrotomeError as failure:
            # The outcome is stored; only the settlement is lost. It comes again, and does nothing.
            log.warning("a message could not be settled; it will come again: %s", failure)
        except Exception:
            log.exception("a message could not be settled; it will come again")

    async def _attempt(self, delivery: Delivery) -> Exception | None:
        try:
            await self._handler(delivery)
        except Exception as error:  # noqa: BLE001  # whatever a handler raises is an outcome
            return error
        return None

    async def _settle(self, delivery: Delivery, error: Exception | None) -> None:
        if delivery.settled:  # the handler did it itself
            return
        if error is None:
            await delivery.ack()
        elif isinstance(error, StaleAttempt):
            log.info("the work is stale: %s", error)
            await delivery.ack()
        elif _helps_to_retry(error) and delivery.deliveries < self._queue.spec.max_deliver:
            log.warning("will be tried again: %s", error)
            await delivery.retry()
        else:
            log.error("the handler failed", exc_info=error)
            await self._dead(delivery, error)

    async def _dead(self, delivery: Delivery, error: Exception) -> None:
        try:
            await delivery.dead(error, self._on_dead)
        except Exception:
            if not delivery.settled:
                await delivery.retry()
            raise


def _helps_to_retry(error: Exception) -> bool:
    return isinstance(error, MicrotomeError) and error.transient
