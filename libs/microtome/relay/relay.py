"""Publishes the log.

Promises: every event of the log reaches the bus at least once and in log order, each under its
event id as message id, so that the bus keeps one; a started attempt also becomes a `PlanWork`.
A page goes out at once after its first event, each on the condition that the one before it is the newest that the
stream holds; only if that fails they go one by one. The checkpoint follows when the bus has them all.
The bus forgets message ids after two minutes; a relay that was down for longer after a crash may
double its last page, which readers tell by `microtome-cursor` and workers by their leases.
An event that the bus will never take (too large, no possible subject) is logged as an error, counted and passed
over: it must not hold back all others.
Refuses: to be needed for the truth. What the bus forgets, the scheduler finds by its leases.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from itertools import pairwise
from typing import Protocol

from microtome import clock
from microtome.bus import subjects
from microtome.bus.bus import PUBLISH_DEADLINE_S
from microtome.bus.headers import AFTER, CloudEvent
from microtome.contracts.codec import to_bytes, type_name
from microtome.contracts.messages import JobStarted, Message, PlanWork
from microtome.crashpoint import CrashPoint, crash_point
from microtome.errors import ConfigurationError, InvalidRequest, MicrotomeError
from microtome.eventlog.log import Cursor, EventLog, StoredEvent
from microtome.eventlog.patience import Patience
from microtome.relay.checkpoint import Checkpoint

_LOG = logging.getLogger(__name__)

SOURCE = "microtome/log"
PAGE = 200
POLL_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0


class Publisher(Protocol):
    """The part of the bus that a relay needs."""

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,
    ) -> object:
        """Return when the bus has the message; it keeps one of each message id. It is tried until the deadline, at
        least once, and handed to the bus before the first wait for it.

        Raises `Unavailable`, and `TooLarge` or `InvalidRequest` for what it will never take.
        """
        ...


class Relay:
    """Moves events from the log to the bus. One at a time is enough; more do no harm."""

    def __init__(
        self,
        log: EventLog,
        bus: Publisher,
        checkpoint: Checkpoint,
        passed_over: Callable[[StoredEvent], None] = lambda _event: None,
    ) -> None:
        """`passed_over(event)` is told of each event that the bus refuses for good."""
        self._log = log
        self._bus = bus
        self._checkpoint = checkpoint
        self._passed_over = passed_over
        # The checkpoint, if nothing happened that could have moved it.
        self._reached: Cursor | None = None

    async def step(self, limit: int = PAGE) -> int:
        """Publish at most `limit` events and move the checkpoint; return how many, 0 at the end of the log.

        Raises what the log and the checkpoint raise, and `Unavailable` of the bus; nothing is lost then, some
        may be published again.
        """
        after = await self._checkpoint.load() if self._reached is None else self._reached
        self._reached = None  # unless all of this step succeeds
        events = await self._log.read_all(after, limit)
        if events:
            # The first alone: a bus that is away, or has to be set up again, shows that here, once.
            await self._publish(events[0])
        if not await self._publish_together(events):
            for event in events[1:]:
                await self._publish(event)
        if events:
            crash_point(CrashPoint.RELAY_AFTER_PUBLISH_BEFORE_CHECKPOINT)
            await self._checkpoint.store(events[-1].cursor)
        self._reached = events[-1].cursor if events else after
        return len(events)

    async def lag(self, limit: int = 10_000) -> int:
        """Return how many events are not relayed yet, at most `limit`."""
        return await self._log.count(await self._checkpoint.load(), limit)

    async def dispatch(self, started: StoredEvent) -> None:
        """Publish the work of a `JobStarted` now, ahead of its turn in the log; the bus keeps one of this and that.

        Tried once. Raises what the bus raises.
        """
        await self._dispatch(started, f"{started.event_id}:plan", deadline_s=0.0)

    async def dispatch_again(self, started: StoredEvent) -> None:
        """Publish the work of a `JobStarted` once more, in its trace. Raises what the bus raises."""
        # A fresh id: the first dispatch may have been lost together with the stream that remembers ids.
        await self._dispatch(started, str(clock.new_id()))

    async def run(self) -> None:
        """Publish for ever; while the log or the bus is away, try again."""
        pause = 0.1
        # Another may have led meanwhile.
        self._reached = None
        patience = Patience(POLL_SECONDS)
        task = asyncio.current_task()
        while True:
            # Before Python 3.12 a client's wait_for can swallow a cancellation that comes with its result.
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            try:
                if await self.step() or await self._log.wait(patience.seconds()):
                    patience.hurry()
                pause = 0.1
            except MicrotomeError as error:
                if not error.transient:
                    raise
                _LOG.warning("the relay waits %.1f s: %s", pause, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _publish_together(self, events: Sequence[StoredEvent]) -> bool:
        """Publish a page, the first of which the bus has, without waiting for one answer before the next; say whether
        the bus has all of it.

        Sent in order, they are stored in order: where one is missing, the bus takes none that follow.
        """
        sending: list[Coroutine[None, None, None]] = []
        try:
            for before, event in pairwise(events):
                if isinstance(event.message, JobStarted):
                    sending.append(self._dispatch(event, f"{event.event_id}:plan", deadline_s=0.0))
                subject, condition = event_subject(event), {AFTER: str(before.event_id)}
                sending.append(
                    self._send(event, subject, event.message, str(event.event_id), condition, deadline_s=0.0)
                )
        except InvalidRequest:
            for unsent in sending:
                unsent.close()
            return False
        failures = [result for result in await asyncio.gather(*sending, return_exceptions=True) if result is not None]
        for failure in failures:
            if not isinstance(failure, MicrotomeError) or isinstance(failure, ConfigurationError):
                raise failure
        return not failures

    async def _publish(self, event: StoredEvent) -> None:
        try:
            subject = event_subject(event)
            await self._send(event, subject, event.message, str(event.event_id))
        except MicrotomeError as error:
            if error.transient or isinstance(error, ConfigurationError):
                raise
            _LOG.exception("event %s of %s cannot be published and is passed over", event.event_id, event.stream)
            self._passed_over(event)
        if isinstance(event.message, JobStarted):
            await self._dispatch(event, f"{event.event_id}:plan")

    async def _dispatch(self, event: StoredEvent, message_id: str, deadline_s: float = PUBLISH_DEADLINE_S) -> None:
        if not isinstance(event.message, JobStarted):
            raise TypeError(f"{type_name(event.message)} starts no work")
        work = plan_work(event, event.message)
        await self._send(event, subjects.WORK_PLAN, work, message_id, deadline_s=deadline_s)

    async def _send(
        self,
        event: StoredEvent,
        subject: str,
        message: Message,
        message_id: str,
        condition: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,
    ) -> None:
        cloud_event = CloudEvent(
            id=message_id,
            type=f"microtome.v1.{type_name(message)}",
            source=SOURCE,
            subject=event.stream,
            time=event.at,
            cursor=(event.cursor.xid, event.cursor.position),
        )
        trace = {name: value for name, value in event.meta.items() if name in ("traceparent", "tracestate")}
        headers = cloud_event.to_headers() | trace | dict(condition or {})
        await self._bus.publish(
            subject, to_bytes(message), message_id=message_id, headers=headers, deadline_s=deadline_s
        )


def event_subject(event: StoredEvent) -> str:
    """Return `events.<user>.<aggregate>.<id>.<EventType>`; a stream without an id is its own id.

    Raises `InvalidRequest` when a part cannot be a token of a subject.
    """
    aggregate, _, identity = event.stream.partition("-")
    return subjects.event(event.tenant, aggregate, identity or aggregate, type_name(event.message))


def plan_work(event: StoredEvent, started: JobStarted) -> PlanWork:
    """Return the work that a started attempt means."""
    return PlanWork(
        job_id=started.job_id,
        workflow_id=event.stream.removeprefix("workflow-"),
        user_id=event.tenant,
        attempt=started.attempt,
    )
