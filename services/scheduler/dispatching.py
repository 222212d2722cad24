"""Dispatching a job the moment that its start is stored.

Promises: a worker hears of a start without waiting for the relay to come to it, however far behind that is.
Refuses: to be relied upon. What is lost here the relay publishes in its turn, under the same id, so that the bus
keeps one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from microtome.errors import MicrotomeError
from microtome.eventlog.log import StoredEvent

log = logging.getLogger(__name__)

Dispatch = Callable[[StoredEvent], Awaitable[None]]


class Dispatching:
    """Publishes in the background; nobody waits for it."""

    def __init__(self, dispatch: Dispatch) -> None:
        """`dispatch(started)` publishes the work of a `JobStarted`."""
        self._dispatch = dispatch
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, started: StoredEvent) -> None:
        """Publish the work of a `JobStarted`."""
        task = asyncio.create_task(self._try(started), name="dispatch")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _try(self, started: StoredEvent) -> None:
        try:
            await self._dispatch(started)
        except MicrotomeError as error:
            log.info("a start is left to the relay: %s", error)
