"""Leases in memory: the twin of the Postgres ones for tests.

It learns which attempts run by being a projection of a `MemoryEventLog`.
Promises: the same laws, checked by the same tests. Refuses: to outlive its process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from time import monotonic

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPreempted,
    JobStarted,
    JobSucceeded,
)
from microtome.errors import Busy
from microtome.eventlog.log import StoredEvent
from microtome.leases.lease import Expired, Lease, Leases, Progress, Stage, Standing, stale


@dataclass(frozen=True, slots=True)
class _Running:
    attempt: int
    workflow_id: str
    user_id: str
    slot: int
    since: float


@dataclass(frozen=True, slots=True)
class _Held:
    attempt: int
    owner: str | None
    stage: Stage
    expires_at: float
    progress: Progress


class MemoryLeases(Leases):
    """`Leases` in dictionaries; `clock` gives seconds."""

    def __init__(
        self, lease_seconds: float = 10.0, dispatch_seconds: float = 30.0, clock: Callable[[], float] = monotonic
    ) -> None:
        self._seconds = lease_seconds
        self._dispatch_seconds = dispatch_seconds
        self._clock = clock
        self._running: dict[str, _Running] = {}
        self._held: dict[str, _Held] = {}

    async def apply(self, connection: None, event: StoredEvent) -> None:  # noqa: ARG002 - a projection in memory
        """Learn which attempts run."""
        match event.message:
            case JobStarted(job_id=job_id, attempt=attempt, slot=slot):
                workflow_id = event.stream.removeprefix("workflow-")
                self._running[job_id] = _Running(attempt, workflow_id, event.tenant, slot, self._clock())
            case JobSucceeded() | JobFailed() | JobAttemptLost() | JobPreempted() | JobCancelled():
                self._running.pop(event.message.job_id, None)

    async def take(self, job_id: str, attempt: int, owner: str, stage: Stage) -> Lease:
        """Begin to work on an attempt; see `Leases.take`."""
        if not self._runs(job_id, attempt):
            raise stale(job_id, attempt)
        held = self._current(job_id, attempt)
        if held and held.owner not in (None, owner) and held.expires_at > self._clock():
            raise Busy(f"job {job_id} is in other hands")
        progress = held.progress if held else Progress()
        self._held[job_id] = _Held(attempt, owner, stage, self._clock() + self._seconds, progress)
        return Lease(job_id=job_id, attempt=attempt, owner=owner, stage=stage)

    async def renew(self, lease: Lease, progress: Progress | None = None) -> None:
        """Go on working; see `Leases.renew`."""
        held = self._own(lease)
        self._held[lease.job_id] = replace(
            held, expires_at=self._clock() + self._seconds, progress=progress or held.progress
        )

    async def hand_over(self, lease: Lease, stage: Stage, seconds: float) -> None:
        """Leave the attempt to whoever takes it next; see `Leases.hand_over`."""
        held = self._own(lease)
        self._held[lease.job_id] = replace(held, owner=None, stage=stage, expires_at=self._clock() + seconds)

    async def release(self, lease: Lease) -> None:
        """Stop working; see `Leases.release`."""
        held = self._current(lease.job_id, lease.attempt)
        if held and held.owner == lease.owner:
            del self._held[lease.job_id]

    async def touch(self, job_id: str, attempt: int, seconds: float) -> None:
        """Grant an attempt without an owner more time; see `Leases.touch`."""
        held = self._current(job_id, attempt)
        if not self._runs(job_id, attempt) or (held and held.owner is not None):
            return
        expires_at = self._clock() + seconds
        self._held[job_id] = (
            replace(held, expires_at=expires_at) if held else _Held(attempt, None, "queued", expires_at, Progress())
        )

    async def expired(self) -> tuple[Expired, ...]:
        """Return the running jobs that nobody works on; see `Leases.expired`."""
        found = []
        for job_id, running in sorted(self._running.items(), key=lambda item: item[1].slot):
            held = self._current(job_id, running.attempt)
            expires_at = held.expires_at if held else running.since + self._dispatch_seconds
            if expires_at <= self._clock():
                found.append(
                    Expired(
                        job_id=job_id,
                        workflow_id=running.workflow_id,
                        user_id=running.user_id,
                        attempt=running.attempt,
                        owner=held.owner if held else None,
                        stage=held.stage if held else "queued",
                    )
                )
        return tuple(found)

    async def progress(self, job_ids: Iterable[str]) -> dict[str, Standing]:
        """Return where running jobs are; see `Leases.progress`."""
        standings = {}
        for job_id in job_ids:
            running = self._running.get(job_id)
            held = self._current(job_id, running.attempt) if running else None
            if held:
                standings[job_id] = Standing(
                    attempt=held.attempt, stage=held.stage, owner=held.owner, progress=held.progress
                )
        return standings

    def _runs(self, job_id: str, attempt: int) -> bool:
        return job_id in self._running and self._running[job_id].attempt == attempt

    def _current(self, job_id: str, attempt: int) -> _Held | None:
        held = self._held.get(job_id)
        return held if held and held.attempt == attempt else None

    def _own(self, lease: Lease) -> _Held:
        held = self._current(lease.job_id, lease.attempt)
        if held is None or held.owner != lease.owner or not self._runs(lease.job_id, lease.attempt):
            raise stale(lease.job_id, lease.attempt)
        return held
