"""The log is the only truth: read models made anew from it are what they were. And the judge of the law can say no."""

from __future__ import annotations

import dataclasses

import pytest

from microtome.contracts.messages import JobStarted, JobSucceeded, SeatGranted
from microtome.readmodels.projection import TABLES
from microtome.readmodels.rebuild import rebuild, verify
from tests.acceptance import laws
from tests.acceptance.conftest import MAX_ACTIVE_USERS, MAX_WORKERS, Live, mask


async def test_read_models_made_anew_are_the_same(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    await live.finished(user, await user.create_workflow("one", [mask(slide, "a"), mask(slide, "b", "other")]))
    before = await rows(live)
    assert before["jobs"]
    assert await verify(live.database) == ()
    assert await rebuild(live.database) == len(await live.events())
    assert await rows(live) == before
    # The stack works on, on the new tables.
    workflow = await live.finished(user, await user.create_workflow("two", [mask(slide, "c")]))
    assert workflow["status"] == "SUCCEEDED"
    assert await verify(live.database) == ()

    async with live.database.connection() as connection:
        await connection.execute("update jobs set attempt = attempt + 1 where job_id = $1", workflow["jobs"][0]["id"])
    assert {difference.table for difference in await verify(live.database)} == {"jobs"}
    await rebuild(live.database)
    assert await verify(live.database) == ()


async def rows(live: Live) -> dict[str, list[str]]:
    async with live.database.connection() as connection:
        return {
            table: sorted(row[0] for row in await connection.fetch(f"select to_jsonb(t)::text from {table} t"))
            for table in TABLES
        }


async def test_the_judge_finds_what_the_law_forbids(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    jobs = [mask(slide, "a"), mask(slide, "b"), mask(slide, "c", "other", ["a"])]
    await live.finished(user, await user.create_workflow("judged", jobs))
    events = await live.events()
    limits = {"max_workers": MAX_WORKERS, "max_active_users": MAX_ACTIVE_USERS}
    laws.check(events, **limits)
    last = {
        kind: max(n for n, e in enumerate(events) if isinstance(e.message, kind)) for kind in (JobStarted, JobSucceeded)
    }
    started, ended = events[last[JobStarted]], events[last[JobSucceeded]]
    begun = [
        n for n, event in enumerate(events) if isinstance(event.message, JobStarted) and event.stream == ended.stream
    ]
    without_ends = [e for e in events if not (isinstance(e.message, JobSucceeded) and e.stream == ended.stream)]
    forged = {
        "a job that starts twice": [*events[: last[JobStarted] + 1], started],
        "an attempt that is left out": [
            *events[: last[JobStarted]],
            dataclasses.replace(started, message=dataclasses.replace(started.message, attempt=7)),
        ],
        "an end of nothing": [*events, ended],
        "a start before its turn": [*events[: begun[0]], events[begun[1]]],
        "a branch or slot that is still busy": without_ends,
        "a seat too many": [
            *events,
            *(
                dataclasses.replace(started, stream="seats", message=SeatGranted(user_id=f"u{n}", seat=n))
                for n in range(MAX_ACTIVE_USERS + 1)
            ),
        ],
    }
    for log in forged.values():
        with pytest.raises(laws.Broken):
            laws.check(log, **limits)
