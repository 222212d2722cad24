"""The scheduling law on the live stack, judged by what the log says."""

from __future__ import annotations

import asyncio
import shutil

from microtome.client import Job
from microtome.contracts.messages import JobStarted, SeatReleased
from tests.acceptance.conftest import MAX_WORKERS, Live, by_key, cells, mask, until


def running(job: Job) -> bool:
    return job["status"] == "RUNNING"


async def test_a_branch_is_serial_and_branches_run_side_by_side(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    with live.paused("tiler"):
        workflow = await user.create_workflow(
            "branches", [mask(slide, f"{branch}{n}", branch) for n in (1, 2, 3) for branch in ("left", "right")]
        )
        jobs = by_key(workflow)
        for key in ("left1", "right1"):
            await live.job(user, jobs[key]["id"], running, f"{key} runs")
        second = await user.job(jobs["left2"]["id"])
        assert second["status"] == "PENDING"
        assert second["waiting_for"] is not None
        assert (second["waiting_for"]["kind"], second["waiting_for"]["job_id"]) == ("branch", jobs["left1"]["id"])
    assert (await live.finished(user, workflow))["status"] == "SUCCEEDED"

    runs = (await live.history()).of(workflow["id"])  # checks for every start that its branch is free and in order
    assert {key: len(attempts) for key, attempts in runs.items()} == dict.fromkeys(jobs, 1)
    for branch in ("left", "right"):
        starts = [runs[f"{branch}{n}"][0].start for n in (1, 2, 3)]
        assert starts == sorted(starts)
    assert runs["left1"][0].overlaps(runs["right1"][0])


async def test_no_more_than_max_workers_run(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    count = MAX_WORKERS + 2
    with live.paused("tiler"):
        workflow = await user.create_workflow("wide", [mask(slide, f"j{n}", f"b{n}") for n in range(count)])
        jobs = by_key(workflow)
        for n in range(MAX_WORKERS):
            await live.job(user, jobs[f"j{n}"]["id"], running, f"j{n} runs")
        waiting = [await user.job(jobs[f"j{n}"]["id"]) for n in range(MAX_WORKERS, count)]
        assert [job["waiting_for"] and job["waiting_for"]["kind"] for job in waiting] == ["worker"] * 2
    assert (await live.finished(user, workflow))["status"] == "SUCCEEDED"
    history = await live.history()
    assert history.most_at_once == MAX_WORKERS
    assert len(history.of(workflow["id"])) == count


async def test_dependencies_hold_across_branches(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    with live.paused("merger"):
        workflow = await user.create_workflow(
            "diamond",
            [
                mask(slide, "last", "d", ["left", "right"]),
                mask(slide, "left", "b", ["first"]),
                mask(slide, "right", "c", ["first"]),
                mask(slide, "first", "a"),
            ],
        )
        jobs = by_key(workflow)
        await live.job(user, jobs["first"]["id"], running, "the first job runs")
        for key, needed in (("left", "first"), ("right", "first"), ("last", "left")):
            waiting = (await user.job(jobs[key]["id"]))["waiting_for"]
            assert waiting is not None
            assert (waiting["kind"], waiting["job_id"]) == ("dependency", jobs[needed]["id"])
    assert (await live.finished(user, workflow))["status"] == "SUCCEEDED"
    runs = {key: attempts[0] for key, attempts in (await live.history()).of(workflow["id"]).items()}
    assert runs["first"].end < min(runs["left"].start, runs["right"].start)
    assert max(runs["left"].end, runs["right"].end) < runs["last"].start


async def test_the_fourth_user_waits_for_a_seat(live: Live) -> None:
    users = [live.user(name) for name in ("first", "second", "third", "fourth", "fifth")]
    slides = [await live.slide(user) for user in users]
    workflows = []
    with live.paused("tiler"):
        for place, (user, slide) in enumerate(zip(users, slides, strict=True)):
            workflow = await user.create_workflow("seat", [mask(slide, "one"), mask(slide, "two")])
            workflows.append(workflow)
            one = by_key(workflow)["one"]["id"]
            if place < 3:
                await live.job(user, one, running, f"user {place} is active")
            else:
                line = place - 2

                def in_line(job: Job, line: int = line) -> bool:
                    waiting = job["waiting_for"]
                    return waiting is not None and (waiting["kind"], waiting["position"]) == ("seat", line)

                await live.job(user, one, in_line, f"user {place} is number {line} in line")
        status = await users[3].status()
        assert set(status["active_users"]) == {user.user for user in users[:3]}
        assert status["waiting_users"] == [user.user for user in users[3:]]
    for user, workflow in zip(users, workflows, strict=True):
        assert (await live.finished(user, workflow))["status"] == "SUCCEEDED"

    events = await live.events()
    started: dict[str, int] = {}
    for place, event in enumerate(events):
        if isinstance(event.message, JobStarted):
            started.setdefault(event.tenant, place)
    released = [
        place
        for place, event in enumerate(events)
        if isinstance(event.message, SeatReleased) and event.tenant in {user.user for user in users}
    ]
    for nth, late in enumerate(users[3:]):
        assert started[late.user] > released[nth]


async def test_a_failing_branch_leaves_the_others_alone_and_goes_on_after_a_repair(live: Live) -> None:
    user = live.user()
    good, bad = await live.slide(user), await live.slide(user)
    hidden = live.folder / "hidden"
    shutil.move(live.stored(bad), hidden)
    workflow = await user.create_workflow(
        "half broken",
        [
            mask(bad, "bad1", "bad"),
            mask(bad, "bad2", "bad"),
            mask(good, "good1", "good"),
            mask(good, "good2", "good"),
            mask(good, "after", "after", ["bad1"]),
        ],
    )
    ended = by_key(await live.finished(user, workflow))
    assert {key: job["status"] for key, job in ended.items()} == {
        "bad1": "FAILED",
        "bad2": "PENDING",
        "good1": "SUCCEEDED",
        "good2": "SUCCEEDED",
        "after": "PENDING",
    }
    error = ended["bad1"]["error"]
    assert error is not None
    assert (error["code"], error["transient"]) == ("unreadable-slide", False)
    for key in ("bad2", "after"):
        waiting = ended[key]["waiting_for"]
        assert waiting is not None
        assert (waiting["kind"], waiting["job_id"]) == ("halted", ended["bad1"]["id"])
    history = await live.history()
    assert set(history.of(workflow["id"])) == {"bad1", "good1", "good2"}

    async def seat_is_free() -> bool:
        return user.user not in (await live.history()).seats

    await until(seat_is_free, "a user with nothing to run gives the seat back")

    shutil.move(hidden, live.stored(bad))
    await user.retry(ended["bad1"]["id"])
    repaired = await live.finished(user, workflow)
    assert repaired["status"] == "SUCCEEDED"
    assert by_key(repaired)["bad1"]["attempt"] == 2
    runs = (await live.history()).of(workflow["id"])
    assert [run.outcome for run in runs["bad1"]] == ["failed", "succeeded"]


async def test_a_job_cancelled_while_pending_never_starts(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    with live.paused("tiler"):
        workflow = await user.create_workflow("cancel", [mask(slide, key) for key in ("one", "two", "three")])
        jobs = by_key(workflow)
        await live.job(user, jobs["one"]["id"], running, "the first job runs")
        assert (await user.cancel(jobs["two"]["id"]))["status"] == "CANCELLED"
    ended = by_key(await live.finished(user, workflow))
    assert [ended[key]["status"] for key in jobs] == ["SUCCEEDED", "CANCELLED", "SUCCEEDED"]
    assert set((await live.history()).of(workflow["id"])) == {"one", "three"}


async def test_a_job_cancelled_while_running_stops_and_leaves_nothing(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user, size=1024)
    workflow = await user.create_workflow("cancel", [cells(slide)])
    job_id = workflow["jobs"][0]["id"]
    await live.job(user, job_id, lambda job: job["tiles_processed"] > 0, "some tiles are done")
    assert live.pixels(job_id)  # or it would prove nothing that there are none afterwards
    assert (await user.cancel(job_id))["status"] == "CANCELLED"
    length = len(await live.events())

    async def clean() -> bool:
        return not live.pixels(job_id)

    await until(clean, "the pixels of the cancelled job are gone", 8.0)
    await asyncio.sleep(1.0)
    assert not live.pixels(job_id)
    assert not live.artifacts(job_id)
    assert len(await live.events()) <= length + 1  # the seat's release, and nothing of the job
    done = (await user.job(job_id))["status"]
    assert done == "CANCELLED"


async def test_a_job_cancelled_while_merging_publishes_nothing(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user, glass=4096)  # large previews, so that merging lasts
    workflow = await user.create_workflow("cancel", [mask(slide, "tissue")])
    job_id = workflow["jobs"][0]["id"]
    await live.merging(job_id)
    with live.paused("merger"):
        assert live.drafts(job_id), "the merger was stopped in the middle"
        await user.cancel(job_id)

    async def clean() -> bool:
        return not live.artifacts(job_id)

    await until(clean, "nothing is left of the cancelled job", 8.0)
    await asyncio.sleep(0.5)
    assert await clean()
    assert (await user.job(job_id))["status"] == "CANCELLED"
