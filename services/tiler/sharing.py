"""How many batches of tiles each job may have outstanding.

The queue of inference is served in order of arrival, so what a user gets of the network is what share of the
outstanding tiles is theirs. Therefore credit is a user's, not a job's: the jobs of one user share `CREDIT` batches,
however many they are and however large, and each other user has as much.
Promises: the shares of a user's feeding jobs add up to the credit, whichever tilers feed them; each job gets its turn.
Refuses: to be exact at every moment. Other tilers' jobs are known from their leases, a second or two late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from microtome.errors import MicrotomeError
from microtome.leases.lease import Standing
from microtome.readmodels.queries import JobRecord

log = logging.getLogger(__name__)

LOOK_S = 1.0
# How long the batch that cannot be divided stays with the same job.
TURN_S = 2.0


class Running(Protocol):
    """Which jobs run, and whose they are."""

    async def running(self) -> tuple[JobRecord, ...]:
        """Return all running jobs of all users."""
        ...


class Standings(Protocol):
    """How far running jobs are."""

    async def progress(self, job_ids: Iterable[str]) -> dict[str, Standing]:
        """Return where running jobs are."""
        ...


def shares(credit: int, jobs: Iterable[str], turn: int) -> dict[str, int]:
    """Divide `credit` batches among jobs; what remains goes to others of them at each `turn`."""
    ordered = sorted(jobs)
    each, remaining = divmod(credit, len(ordered)) if ordered else (0, 0)
    return {
        job: each + ((place + turn * max(1, remaining)) % len(ordered) < remaining) for place, job in enumerate(ordered)
    }


class Shares:
    """What the jobs that this tiler feeds may have outstanding; one for the process."""

    def __init__(self, credit: int, running: Running, standings: Standings) -> None:
        self._credit = credit
        self._running = running
        self._standings = standings
        # By handling, not by job: a next attempt may begin while the one before it clears up.
        self._here: dict[object, tuple[str, str]] = {}
        self._elsewhere: dict[str, str] = {}

    async def look_for_ever(self) -> None:
        """While this tiler feeds anything, learn once a second what other tilers feed; until cancelled."""
        while True:
            if self._here:
                try:
                    self._elsewhere = await self._feeding()
                except MicrotomeError as error:
                    log.warning("what other tilers feed is unknown: %s", error)
            else:
                self._elsewhere = {}
            await asyncio.sleep(LOOK_S)

    async def _feeding(self) -> dict[str, str]:
        users = {record.job.job_id: record.user_id for record in await self._running.running()}
        standings = await self._standings.progress(users)
        return {job_id: users[job_id] for job_id, standing in standings.items() if _feeds(standing)}

    @contextlib.contextmanager
    def feeding(self, job_id: str, user_id: str) -> Iterator[None]:
        """Count a job among those that this tiler feeds, for the length of the block; attempts at it count once."""
        handling = object()
        self._here[handling] = job_id, user_id
        try:
            yield
        finally:
            del self._here[handling]
            if job_id not in self._fed_here():
                self._elsewhere.pop(job_id, None)

    def _fed_here(self) -> dict[str, str]:
        return dict(self._here.values())

    def of(self, job_id: str) -> int:
        """Return how many batches a job that is fed here may have outstanding now."""
        here = self._fed_here()
        user = here[job_id]
        everyone: Mapping[str, str] = self._elsewhere | here
        jobs = [other for other, whose in everyone.items() if whose == user]
        # Tilers take the same turns, as far as their clocks agree.
        return shares(self._credit, jobs, int(time.time() / TURN_S))[job_id]


def _feeds(standing: Standing) -> bool:
    """Whether a job's tiles are on their way through the network."""
    now = standing.progress
    if standing.stage != "plan" or standing.owner is None or now.tiles_total is None:
        return False
    return now.tiles_processed + now.tiles_skipped < now.tiles_total


def batch_limit(batch_size: int, of_tile_size: int, tile_size: int) -> int:
    """Return how many tiles of `tile_size` make a batch of the work of `batch_size` tiles of `of_tile_size`.

    At least one; smaller tiles make no larger batches, so that nobody gets more of the network by asking for them.
    """
    return max(1, min(batch_size, batch_size * of_tile_size**2 // tile_size**2))


def message_limit(share: int, pixels: int, usual: int) -> int:
    """Return how many messages of `pixels` a job with this share of messages of `usual` pixels may have outstanding.

    As many as are as much work, but two: one is in the network while the next one waits for it.
    """
    return share if pixels <= usual else min(share, max(2, share * usual // pixels))
