"""Which worker processes are there, by what they say themselves.

Promises: a service counts as there while one of its processes was heard in the last 15 seconds; otherwise it is
said how long it has been silent, or for how long nothing was heard at all. Refuses: to be a health check; a process
may be there and stuck, and the scheduler learns that from its leases.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from microtome.bus.bus import Bus
from microtome.contracts.codec import from_bytes
from microtome.contracts.messages import ServiceAlive
from microtome.errors import MicrotomeError
from services.gateway import views

WORKERS = ("scheduler", "tiler", "inference", "merger")
# Three announcements.
SILENT_AFTER_S = 15.0
_RECONNECT_S = 1.0

logger = logging.getLogger(__name__)


class Attendance:
    """Listens to `service.>`."""

    def __init__(self, bus: Bus, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock`: seconds, never going back."""
        self._bus = bus
        self._clock = clock
        self._since = clock()
        self._heard: dict[str, dict[str, float]] = {name: {} for name in WORKERS}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen."""
        self._task = asyncio.create_task(self._listen(), name="attendance")

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def note(self, alive: ServiceAlive) -> None:
        """A process was heard. Names of no known service are ignored."""
        processes = self._heard.get(alive.name)
        if processes is None:
            return
        now = self._clock()
        # Of those that ended only the latest is worth remembering.
        for owner in [each for each, at in processes.items() if now - at > SILENT_AFTER_S]:
            del processes[owner]
        processes[alive.owner] = now

    def services(self) -> list[views.ServiceSeen]:
        """Each worker service as it is now."""
        return [self._seen(name) for name in WORKERS]

    def _seen(self, name: str) -> views.ServiceSeen:
        now = self._clock()
        times = self._heard[name].values()
        there = sum(1 for at in times if now - at <= SILENT_AFTER_S)
        if there:
            processes = "1 process" if there == 1 else f"{there} processes"
            return views.ServiceSeen(name=name, state="ok", detail=f"{processes}, heard {now - max(times):.0f} s ago")
        if times:
            return views.ServiceSeen(name=name, state="silent", detail=f"silent for {now - max(times):.0f} s")
        waited = now - self._since
        if waited > SILENT_AFTER_S:
            detail = f"not heard since this gateway started {waited:.0f} s ago"
            return views.ServiceSeen(name=name, state="silent", detail=detail)
        return views.ServiceSeen(name=name, state="unknown", detail="this gateway has just started to listen")

    async def _listen(self) -> None:
        while True:
            try:
                async with await self._bus.listen("service.>") as subscription:
                    async for message in subscription:
                        try:
                            self.note(from_bytes(ServiceAlive, message.payload))
                        except MicrotomeError as error:
                            logger.warning("a message on %s cannot be read: %s", message.subject, error)
                        except Exception:
                            logger.exception("a message on %s cannot be noted", message.subject)
            except MicrotomeError as error:
                logger.warning("services cannot be heard for now: %s", error.detail)
            except Exception:
                logger.exception("services cannot be heard for now")
            await asyncio.sleep(_RECONNECT_S)
