"""What live clients are told: one feed of events and progress, dealt out to many outboxes.

Promises: memory per client is bounded: of progress and snapshots only the latest waits; events wait in
order up to a limit, beyond which the client must start anew. A change is told even if the bus lost its
message: versions are compared with the read model every two seconds.
Refuses: to be a source of facts; snapshots come from the read model.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from microtome.bus.bus import Bus
from microtome.bus.headers import CloudEvent
from microtome.bus.message import Message, Subscription
from microtome.contracts.codec import from_bytes, message_type, to_json
from microtome.contracts.messages import JobProgress
from microtome.errors import MicrotomeError

logger = logging.getLogger(__name__)

MAX_EVENTS = 512
POLL_S = 2.0
_REMEMBERED = 10_000
_RECONNECT_S = 1.0

Versions = Callable[[Iterable[str]], Awaitable[Mapping[str, int]]]
Json = dict[str, Any]


class Outbox:
    """What one client has yet to be told about one workflow, or about one job of it."""

    def __init__(self, workflow_id: str, job_id: str | None) -> None:
        self.workflow_id = workflow_id
        self.job_id = job_id
        # Version of the workflow in the newest snapshot that was taken for this client.
        self.shown_version = 0
        self.overflowed = False
        self._stale = True
        self._events: deque[Json] = deque()
        self._progress: dict[str, Json] = {}
        self._wake = asyncio.Event()
        self._wake.set()

    def add_event(self, event: Json) -> None:
        """Queue an event; a client that is too far behind is marked instead."""
        self._mark_stale()
        if self.job_id is not None and event["job_id"] not in (None, self.job_id):
            return
        if len(self._events) >= MAX_EVENTS:
            self.overflowed = True
        else:
            self._events.append(event)

    def add_progress(self, progress: Json) -> None:
        """Queue how far a job is, in place of what was queued for it."""
        if self.job_id in (None, progress["job_id"]):
            self._progress[progress["job_id"]] = progress
            self._wake.set()

    def mark_stale(self) -> None:
        """Ask for a new snapshot."""
        self._mark_stale()

    async def take(self) -> tuple[list[Json], bool, list[Json]]:
        """Wait until there is something; return events, whether a snapshot is due, and progress.

        What it does not return stays: one that is cancelled while it waits has taken nothing.
        """
        await self._wake.wait()
        self._wake.clear()
        events, self._events = list(self._events), deque()
        progress, self._progress = list(self._progress.values()), {}
        stale, self._stale = self._stale, False
        return events, stale, progress

    def _mark_stale(self) -> None:
        self._stale = True
        self._wake.set()


class Hub:
    """Feeds all outboxes of this process."""

    def __init__(self, bus: Bus, versions: Versions) -> None:
        """`versions`: the newest version of each of some workflows, from the read model."""
        self._bus = bus
        self._versions = versions
        self._outboxes: dict[str, set[Outbox]] = {}
        self._progress: OrderedDict[str, JobProgress] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to listen."""
        self._tasks = [
            asyncio.create_task(self._follow(lambda: self._bus.subscribe_events("events.>"), self._on_event)),
            asyncio.create_task(self._follow(lambda: self._bus.listen("progress.>"), self._on_progress)),
            asyncio.create_task(self._poll()),
        ]

    async def stop(self) -> None:
        """End the subscriptions."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def join(self, outbox: Outbox) -> None:
        """Feed this outbox from now on."""
        self._outboxes.setdefault(outbox.workflow_id, set()).add(outbox)

    def leave(self, outbox: Outbox) -> None:
        """Feed it no more."""
        watching = self._outboxes.get(outbox.workflow_id, set())
        watching.discard(outbox)
        if not watching:
            self._outboxes.pop(outbox.workflow_id, None)

    def progress_of(self, job_id: str) -> JobProgress | None:
        """The last that was heard of a job."""
        return self._progress.get(job_id)

    def places_changed(self) -> None:
        """Somewhere a job started or a seat changed hands: what pending jobs wait for may be different."""
        for outbox in self._all():
            outbox.mark_stale()

    def _all(self) -> list[Outbox]:
        return [outbox for watching in self._outboxes.values() for outbox in watching]

    async def _follow(
        self, subscribe: Callable[[], Awaitable[Subscription]], handle: Callable[[Message], None]
    ) -> None:
        while True:
            try:
                async with await subscribe() as subscription:
                    # What happened while nobody listened is in the read model.
                    self.places_changed()
                    async for message in subscription:
                        try:
                            handle(message)
                        except MicrotomeError:
                            logger.warning("a message on %s cannot be read", message.subject, exc_info=True)
                        except Exception:
                            logger.exception("a message on %s cannot be dealt out", message.subject)
            except MicrotomeError as error:
                logger.warning("no live messages for now: %s", error.detail)
            except Exception:
                logger.exception("no live messages for now")
            await asyncio.sleep(_RECONNECT_S)

    def _on_event(self, message: Message) -> None:
        tokens = message.subject.split(".")
        if len(tokens) != 5 or tokens[2] != "workflow":
            return
        watching = self._outboxes.get(tokens[3])
        if not watching:
            return
        about = CloudEvent.from_headers(message.headers)
        data = to_json(from_bytes(message_type(tokens[4]), message.payload))
        event = {
            "kind": "event",
            "position": "{}:{}".format(*about.cursor) if about.cursor else None,
            "type": tokens[4],
            "job_id": data.get("jobId"),
            "at": about.time,
            "data": data,
        }
        for outbox in watching:
            outbox.add_event(event)

    def _on_progress(self, message: Message) -> None:
        progress = from_bytes(JobProgress, message.payload)
        known = self._progress.get(progress.job_id)
        if known is not None and known.attempt > progress.attempt:
            return
        self._progress[progress.job_id] = progress
        self._progress.move_to_end(progress.job_id)
        if len(self._progress) > _REMEMBERED:
            self._progress.popitem(last=False)
        for outbox in self._outboxes.get(progress.workflow_id, ()):
            outbox.add_progress(
                {
                    "kind": "progress",
                    "job_id": progress.job_id,
                    "attempt": progress.attempt,
                    "stage": progress.stage,
                    "tiles_processed": progress.tiles_processed,
                    "tiles_total": progress.tiles_total,
                    "tiles_skipped": progress.tiles_skipped,
                    "cells": progress.cells,
                }
            )

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            if not self._outboxes:
                continue
            try:
                newest = await self._versions(list(self._outboxes))
            except MicrotomeError as error:
                logger.info("whether something changed is unknown: %s", error.detail)
            except Exception:
                logger.exception("whether something changed is unknown")
            else:
                for outbox in self._all():
                    if newest.get(outbox.workflow_id, 0) > outbox.shown_version:
                        outbox.mark_stale()
