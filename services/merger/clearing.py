"""Clearing up after mergers that were killed.

Promises: what an attempt published that no event will ever speak of is gone after the next start of a merger, also when
its job was cancelled before another attempt could sweep it away.
Refuses: to touch what belongs to a success, to a job that may still run, or to nobody it knows.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator

from microtome.artifacts.store import ArtifactStore
from microtome.domain.state import JobStatus
from microtome.readmodels.queries import Queries

log = logging.getLogger(__name__)

AT_ONCE = 500
_OVER = (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SKIPPED)


async def clear_artifacts(queries: Queries, store: ArtifactStore) -> None:
    """Withdraw what ended jobs left without having succeeded. Raises `Unavailable`."""
    jobs = store.jobs()
    while known := await asyncio.to_thread(_some, jobs):
        for job_id, status in (await queries.statuses(known)).items():
            if status in _OVER:
                for attempt in await asyncio.to_thread(store.attempts, job_id):
                    await asyncio.to_thread(store.withdraw, job_id, attempt)
                    log.info("cleared artifacts that nobody speaks of", extra={"job_id": job_id, "attempt": attempt})


def _some(jobs: Iterator[str]) -> list[str]:
    return list(itertools.islice(jobs, AT_ONCE))
