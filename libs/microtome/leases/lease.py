"""What a lease is, whoever keeps it.

Promises: at most one live owner of an attempt; an owner whose attempt is over learns it at the
next renewal (`StaleAttempt`) and its work is cancelled. Time is the keeper's, never the owner's.
Refuses: to be a fact. A lease says who works now; what was done is in the log.

The scheduler's rule: `expired()` with an owner means that the owner died, so the attempt is
lost; without an owner the work never reached anyone, so it is published again and `touch`ed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

from microtome.errors import MicrotomeError, StaleAttempt

_LOG = logging.getLogger(__name__)

# Time for a body to clear up after its cancellation, before it is cancelled again.
CANCEL_AGAIN_S = 5.0

Stage = Literal["queued", "plan", "infer", "merge"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to work on one attempt. `owner` names one handling of one message, not a host."""

    job_id: str
    attempt: int
    owner: str
    stage: Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far an attempt is. `tiles_total` is None until it is planned."""

    tiles_total: int | None = None
    tiles_processed: int = 0
    tiles_skipped: int = 0
    cells: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a running job's current attempt is: its stage, who works on it (None: waits in a queue), how far."""

    attempt: int
    stage: Stage
    owner: str | None
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Expired:
    """A running job that nobody works on any more, or yet."""

    job_id: str
    workflow_id: str
    user_id: str
    attempt: int
    owner: str | None
    stage: Stage


class Leases(Protocol):
    """The keeper of leases. Every method raises `Unavailable` when it does not answer."""

    async def take(self, job_id: str, attempt: int, owner: str, stage: Stage) -> Lease:
        """Begin to work on an attempt; a second time by the same owner is a renewal.

        Raises `StaleAttempt` unless the job runs in this very attempt, `Busy` while another
        owner's lease lasts.
        """
        ...

    async def renew(self, lease: Lease, progress: Progress | None = None) -> None:
        """Go on working, and say how far (None: as far as before).

        Raises `StaleAttempt` when the attempt is over (finished, lost, cancelled) or taken over.
        """
        ...

    async def hand_over(self, lease: Lease, stage: Stage, seconds: float) -> None:
        """Stop working; whoever takes the message for `stage` within `seconds` goes on.

        Raises `StaleAttempt` like `renew`.
        """
        ...

    async def release(self, lease: Lease) -> None:
        """Stop working. Does nothing when the lease is not held any more."""
        ...

    async def touch(self, job_id: str, attempt: int, seconds: float) -> None:
        """Grant a running attempt without an owner `seconds` more until it counts as expired."""
        ...

    async def expired(self) -> tuple[Expired, ...]:
        """Return the running jobs whose lease expired, and those that nobody took for too long."""
        ...

    async def progress(self, job_ids: Iterable[str]) -> dict[str, Standing]:
        """Return where running jobs are; jobs that nobody has taken yet are absent."""
        ...

    def keep(
        self, lease: Lease, every: float, progress: Callable[[], Progress | None] | None = None
    ) -> AbstractAsyncContextManager[None]:
        """Renew in the background, each `every` seconds, while the body of `async with` runs.

        The body is cancelled, and `StaleAttempt` raised, as soon as a renewal finds the attempt
        over. While the keeper does not answer the body goes on: what it reports is fenced.
        """

        async def beat() -> None:
            await self.renew(lease, progress() if progress is not None else None)

        return _beating(beat, every)


@asynccontextmanager
async def _beating(beat: Callable[[], Awaitable[None]], every: float) -> AsyncIterator[None]:
    body = asyncio.current_task()
    assert body is not None
    before = body.cancelling()
    failure: list[Exception] = []
    cancels = 0

    async def heart() -> None:
        nonlocal cancels
        while True:
            await asyncio.sleep(every)
            try:
                await beat()
            except Exception as error:  # noqa: BLE001 - whatever it is, nobody would hear of it here
                if isinstance(error, MicrotomeError) and error.transient:
                    _LOG.warning("a lease could not be renewed, trying again: %s", error)
                    continue
                failure.append(error)
                # More than once: libraries may swallow a cancellation (`asyncio.wait_for` does until Python 3.12).
                while True:
                    body.cancel()
                    cancels += 1
                    await asyncio.sleep(CANCEL_AGAIN_S)

    def uncancel() -> int:
        for _ in range(cancels):
            body.uncancel()
        return body.cancelling()

    task = asyncio.create_task(heart(), name="renew lease")
    try:
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    except BaseException as error:
        # Like asyncio.timeout: only our own cancellation becomes an error, one from outside stays.
        if failure and uncancel() <= before:
            raise failure[0] from error
        raise
    if failure:
        uncancel()
        raise failure[0]


def stale(job_id: str, attempt: int) -> StaleAttempt:
    """Return the error for an attempt that does not count any more."""
    return StaleAttempt(f"attempt {attempt} at job {job_id} is over or in other hands")
