"""Finding attempts that nobody works on any more, or never did.

Promises: an attempt whose owner let its lease expire is lost, and its job pending again; a started attempt that nobody
took is dispatched again. So neither a killed worker nor a wiped JetStream keeps a job from its end.
Refuses: to judge by anything but leases; a slow worker that renews is never disturbed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable

from microtome.bus.bus import Bus
from microtome.bus.topology import MERGE
from microtome.contracts.messages import JobStarted
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.workflow import LoseAttempt
from microtome.errors import Conflict, MicrotomeError, NotFound, StaleAttempt
from microtome.eventlog.log import EventLog, StoredEvent
from microtome.leases.lease import Expired, Leases
from microtome.workflows import Workflows

log = logging.getLogger(__name__)

LOOK_S = 1.0

# An attempt that waits in a queue is left there for so many times `dispatch_seconds`; then its message counts as lost.
PATIENCE = 20

Dispatch = Callable[[Expired], Awaitable[None]]
Waits = Callable[[Expired], Awaitable[bool]]


async def _nothing_waits(_expired: Expired) -> bool:
    return False


class Recovery:
    """Looks for expired leases once a second."""

    def __init__(
        self,
        leases: Leases,
        workflows: Workflows,
        dispatch: Dispatch,
        dispatch_seconds: float,
        waits: Waits = _nothing_waits,
    ) -> None:
        """`dispatch(expired)` publishes the job's `PlanWork` again; after `dispatch_seconds` it is tried once more.

        `waits(expired)`: whether its message may well still lie in a queue that is long; then nothing is lost yet, and
        planning it anew would only make the queue longer.
        """
        self._leases = leases
        self._workflows = workflows
        self._dispatch = dispatch
        self._dispatch_seconds = dispatch_seconds
        self._waits = waits
        self._waited: Counter[tuple[str, int]] = Counter()

    async def run(self) -> None:
        """Look until cancelled; an outage of Postgres or NATS only delays it."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self.step()
            except MicrotomeError as error:
                if not error.transient:
                    raise
                log.warning("cannot look for lost attempts: %s", error)

    async def step(self) -> None:
        """Look once."""
        found = await self._leases.expired()
        if found and self._waited:
            await self._forget_taken()
        for expired in found:
            if expired.owner is None:
                await self._dispatch_again(expired)
            else:
                await self._lose(expired, expired.owner)

    async def _forget_taken(self) -> None:
        """Keep count only of attempts that wait still."""
        standings = await self._leases.progress({job_id for job_id, _ in self._waited})
        waiting = {(job_id, now.attempt) for job_id, now in standings.items() if now.owner is None}
        for attempt in self._waited.keys() - waiting:
            del self._waited[attempt]

    async def _lose(self, expired: Expired, owner: str) -> None:
        command = LoseAttempt(
            job_id=expired.job_id,
            attempt=expired.attempt,
            owner=owner,
            reason=f"The worker of stage '{expired.stage}' stopped answering.",
        )
        try:
            await self._workflows.execute(expired.workflow_id, command)
        except (StaleAttempt, Conflict, NotFound) as over:
            log.info("an attempt ended while it was given up: %s", over)
        else:
            log.warning(
                "an attempt is lost", extra={"job_id": expired.job_id, "attempt": expired.attempt, "owner": owner}
            )

    async def _dispatch_again(self, expired: Expired) -> None:
        attempt = expired.job_id, expired.attempt
        if self._waited[attempt] < PATIENCE and await self._waits(expired):
            self._waited[attempt] += 1
            await self._leases.touch(expired.job_id, expired.attempt, self._dispatch_seconds)
            log.info("an attempt waits in its queue", extra={"job_id": expired.job_id, "stage": expired.stage})
            return
        del self._waited[attempt]
        try:
            await self._dispatch(expired)
        except NotFound:
            # One attempt that the log does not know must not keep all others from being looked after.
            log.exception("an attempt cannot be dispatched again", extra={"job_id": expired.job_id})
            return
        await self._leases.touch(expired.job_id, expired.attempt, self._dispatch_seconds)
        log.warning("nobody took an attempt; dispatched again", extra={"job_id": expired.job_id})


def waiting_to_be_merged(leases: Leases, bus: Bus, running: Callable[[], Iterable[str]]) -> Waits:
    """Return what says whether an attempt's message may still lie in the mergers' queue: as long as that holds one for
    every attempt that is to be merged. With fewer, some are lost, and expired ones are dispatched again.

    `running()`: ids of the jobs that run.
    """

    async def waits(expired: Expired) -> bool:
        if expired.stage != "merge":
            return False
        standings = await leases.progress(running())
        return await bus.depth(MERGE) >= sum(standing.stage == "merge" for standing in standings.values())

    return waits


async def start_of(log_: EventLog, expired: Expired) -> StoredEvent:
    """Return the `JobStarted` of the attempt, which tells the work and its trace. Raises `NotFound`, `Unavailable`."""
    for event in reversed(await log_.read_stream(STREAM_PREFIX + expired.workflow_id)):
        if isinstance(event.message, JobStarted):
            started = event.message
            if (started.job_id, started.attempt) == (expired.job_id, expired.attempt):
                return event
    raise NotFound(f"The log has no start of attempt {expired.attempt} of job {expired.job_id}.")
