"""A scheduler's life: stand by, lead, stand by again.

Promises: one that stands by folds the log all the time, so that taking over needs nothing but the lock; what it has
folded stays when it loses the lead. Any number may run.
Refuses: to decide, relay or recover without the lead. That two believe to lead for a moment is harmless: what the log
has taken from one, it refuses from the other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from microtome.errors import Unavailable
from microtome.eventlog.log import EventLog
from microtome.process import end
from services.scheduler.deciding import Decider
from services.scheduler.leadership import Campaign, Leadership

log = logging.getLogger(__name__)

# So often one that stands by tries to lead, and the time that a takeover takes.
TRY_S = 0.25
OUTAGE_PAUSE_S = 0.5

Part = Callable[[], Awaitable[None]]


class Scheduler:
    """Leads whenever nobody else does."""

    def __init__(
        self,
        log_: EventLog,
        decider: Decider,
        leadership: Leadership,
        parts: Sequence[Part],
        led: Callable[[bool], None] = lambda _leads: None,
    ) -> None:
        """`parts` run beside the decider while this process leads; each until it is cancelled. `led(leads)` is told
        when that changes.
        """
        self._log = log_
        self._decider = decider
        self._leadership = leadership
        self._parts = (decider.run, *parts)
        self._led = led

    async def run(self) -> None:
        """Stand by and lead until cancelled; an outage of Postgres or NATS only delays it."""
        self._led(False)
        while True:
            try:
                async with self._leadership.campaign() as campaign:
                    await self._stand_by(campaign)
                    log.info("this scheduler leads")
                    await self._lead(campaign)
            except Unavailable as outage:
                log.warning("not leading: %s", outage)
                await asyncio.sleep(OUTAGE_PAUSE_S)

    async def _stand_by(self, campaign: Campaign) -> None:
        loop = asyncio.get_running_loop()
        tried = -TRY_S
        while True:
            await self._decider.catch_up()
            if (now := loop.time()) - tried >= TRY_S:
                tried = now
                if await campaign.won():
                    return
            await self._log.wait(max(0.0, tried + TRY_S - loop.time()))

    async def _lead(self, campaign: Campaign) -> None:
        """Decide, relay and recover until one of them fails."""
        running = [asyncio.ensure_future(part()) for part in (campaign.guard, *self._parts)]
        self._led(True)
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in running:
                if task in done:
                    task.result()
        finally:
            self._led(False)
            await end(*running)
