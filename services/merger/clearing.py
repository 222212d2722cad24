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
    # In this order: a job that failed or was cancelled after these attempts were seen did not succeed by any of them.
    # What a retry publishes later has another number.
    while seen := await asyncio.to_thread(_some, store, jobs):
        for job_id, status in (await queries.statuses(seen)).items():
            if status not in _OVER:
                continue
            for attempt in seen[job_id]:
                await asyncio.to_thread(store.withdraw, job_id, attempt)
                log.info("cleared artifacts that nobody speaks of", extra={"job_id": job_id, "attempt": attempt})


def _some(store: ArtifactStore, jobs: Iterator[str]) -> dict[str, tuple[int, ...]]:
    """Take the next jobs; give what attempts at each have published."""
    return {job_id: store.attempts(job_id) for job_id in itertools.islice(jobs, AT_ONCE)}
