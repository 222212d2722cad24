"""Clearing up after mergers that were killed.

Promises: what attempts at an ended job wrote, finished or not, and no event will ever speak of is gone after the next
start of a merger, whatever the job's end was.
Refuses: to touch what belongs to a success, to a job that may still run, or to nobody it knows.
"""

from __future__ import annotations

import asyncio
import itertools
import logging

from microtome.artifacts.store import ArtifactStore
from microtome.domain.state import JobStatus
from microtome.readmodels.queries import Queries

log = logging.getLogger(__name__)

AT_ONCE = 500
_OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SKIPPED)


async def clear_artifacts(queries: Queries, store: ArtifactStore) -> None:
    """Remove what ended jobs left that is not their result. Raises `Unavailable`."""
    jobs = store.jobs()
    while some := await asyncio.to_thread(lambda: list(itertools.islice(jobs, AT_ONCE))):
        for job_id, (status, attempt) in (await queries.statuses(some)).items():
            # What a retry writes meanwhile has a higher number.
            if status in _OVER and await asyncio.to_thread(_clear, store, job_id, status, attempt):
                log.info("cleared artifacts that nobody speaks of", extra={"job_id": job_id, "attempt": attempt})


def _clear(store: ArtifactStore, job_id: str, status: JobStatus, attempt: int) -> bool:
    """Remove what attempts up to this one, the last that the job had when it ended, left; say whether they did."""
    found = store.sweep(job_id, attempt) > 0
    if status is not JobStatus.SUCCEEDED and attempt in store.attempts(job_id):
        store.withdraw(job_id, attempt)
        found = True
    return found
