"""Keeping the results within the operator's limit.

Promises: every minute, and at the start, what was used longest ago goes until the rest is within `RESULT_CACHE_BYTES`;
nothing that a job holds goes before the job is over, so when such jobs need more than the limit, it is exceeded, and
said.
Refuses: to fail anything: a job that wants what is gone computes it again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from microtome.domain.state import JobStatus
from microtome.errors import MicrotomeError
from microtome.readmodels.queries import Queries
from microtome.tilestore import BoundedResults

log = logging.getLogger(__name__)

EVERY_S = 60.0
_OVER = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SKIPPED)


async def evict_for_ever(queries: Queries, results: BoundedResults, limit_bytes: int) -> None:
    """Keep the results within the limit as long as this is awaited; 0: no limit, then only holds are cleared up."""
    await asyncio.to_thread(results.clear_evicted)
    while True:
        try:
            await evict(queries, results, limit_bytes)
        except (MicrotomeError, OSError) as error:
            log.warning("the results cannot be kept within their limit now: %s", error)
        await asyncio.sleep(EVERY_S)


async def evict(queries: Queries, results: BoundedResults, limit_bytes: int) -> int:
    """Bring the results within the limit once; return the bytes that went. Raises `Unavailable`."""
    # In this order: whoever begins to hold something after this counts as not over.
    holders = await asyncio.to_thread(results.holders)
    statuses = await queries.statuses(holders)
    over = {job: at for job, at in holders.items() if job not in statuses or statuses[job][0] in _OVER}
    gone = await asyncio.to_thread(_evict, results, limit_bytes, over) if limit_bytes else 0
    await asyncio.to_thread(results.let_go, over)
    return gone


def _evict(results: BoundedResults, limit_bytes: int, over: Mapping[str, int]) -> int:
    things = results.things()
    total, gone = sum(thing.size for thing in things), 0
    for thing in things:
        if total - gone <= limit_bytes:
            break
        if results.evict(thing.name, over):
            gone += thing.size
    if gone:
        log.info(
            "evicted results that were used longest ago", extra={"evicted_bytes": gone, "kept_bytes": total - gone}
        )
    if total - gone > limit_bytes:
        log.warning(
            "jobs that are not over need more results than the limit allows",
            extra={"kept_bytes": total - gone, "limit_bytes": limit_bytes},
        )
    return gone
