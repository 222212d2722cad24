"""Results are evicted while jobs run: nothing of theirs goes, and what went is computed again."""

from __future__ import annotations

import asyncio

from microtome.readmodels.queries import Queries
from microtome.tilestore import BoundedResults
from services.tiler.evicting import evict
from tests.acceptance.bare import cells_in
from tests.acceptance.conftest import Live, cells

A_BYTE = 1


async def test_evicting_harms_no_running_job_and_costs_a_later_one_only_time(live: Live) -> None:
    queries, results = Queries(live.database), BoundedResults(live.stack.data_dir / "results")
    user = live.user()
    slide = await live.slide(user, size=768)
    await evict(queries, results, A_BYTE)
    workflow = await user.create_workflow("while others evict", [cells(slide)])
    ended = asyncio.create_task(live.finished(user, workflow))
    rounds = 0
    while not ended.done():
        await evict(queries, results, A_BYTE)
        rounds += 1
        await asyncio.sleep(0.05)
    (job,) = (await ended)["jobs"]
    assert rounds > 5
    assert job["status"] == "SUCCEEDED", job["error"]
    assert job["attempt"] == 1
    assert job["result"] is not None
    assert job["result"]["cells"] > 50
    first, _ = cells_in(await user.download(job["id"], "cells.parquet", live.folder / "first.parquet"))

    # The last round may have come after the job's end.
    await live.finished(user, await user.create_workflow("with a limit that is not reached", [cells(slide)]))
    assert await evict(queries, results, 1 << 40) == await evict(queries, results, 0) == 0
    again = await live.finished(user, await user.create_workflow("from the cache", [cells(slide)]))
    assert again["jobs"][0]["result"]["tiles_cached"] == job["result"]["tiles_processed"]

    assert await evict(queries, results, A_BYTE) > 0
    assert results.things() == []
    later = await live.finished(user, await user.create_workflow("after the eviction", [cells(slide)]))
    (job,) = later["jobs"]
    assert job["status"] == "SUCCEEDED", job["error"]
    assert job["result"] is not None
    assert job["result"]["tiles_cached"] == 0
    second, _ = cells_in(await user.download(job["id"], "cells.parquet", live.folder / "second.parquet"))
    assert first == second
