"""How fast jobs go: seconds of work per tile, learnt from those that finished.

Promises: a running mean in which the latest job counts a fifth; a type of job of which none finished yet goes by the
others.
Refuses: to learn from attempts that found all their tiles finished, and to guess before any job finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from microtome.contracts.messages import JobType
from microtome.domain.state import Job

_WEIGHT_OF_THE_LATEST = 0.2


@dataclass(frozen=True, slots=True)
class Rates:
    """Seconds per tile by type of job."""

    seconds: Mapping[JobType, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.seconds)

    def per_tile(self, kind: JobType) -> float | None:
        """Return the seconds that a tile of such a job takes; None when nothing is known."""
        if not self.seconds:
            return None
        known = self.seconds.get(kind)
        return known if known is not None else sum(self.seconds.values()) / len(self.seconds)

    def duration(self, job: Job) -> timedelta | None:
        """Return how long all the work of a job takes; None when nothing is known."""
        seconds = self.per_tile(job.spec.type)
        return None if seconds is None else timedelta(seconds=seconds * job.tiles)

    def tiles(self, job: Job, ran: timedelta) -> int:
        """Return how many of its tiles a job has probably finished after it ran for a time; 0 when nothing is known."""
        seconds = self.per_tile(job.spec.type) if ran else None
        return min(job.tiles, int(ran.total_seconds() / seconds)) if seconds else 0

    def after(self, job: Job, finished_at: datetime) -> Rates:
        """Return the rates once `job`, as it was while it ran, has succeeded at `finished_at` with its result."""
        if job.started_at is None:
            return self
        tiles = job.tiles
        if job.result is not None and job.result.tiles_cached:
            # What was cached before the first attempt cost nothing; what earlier attempts did is in `ran`.
            tiles -= job.result.tiles_cached if not job.ran else 0
        if tiles < 1:
            return self
        latest = max(0.0, (finished_at - job.started_at + job.ran).total_seconds()) / tiles
        before = self.seconds.get(job.spec.type)
        mean = latest if before is None else before + _WEIGHT_OF_THE_LATEST * (latest - before)
        return Rates({**self.seconds, job.spec.type: mean})
