"""What users get: cells, honest notes about empty slides, and a live view of their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from microtome.client import ApiClient, ApiProblem
from microtome.slides.pyramid import write_pyramid
from tests.acceptance.bare import bare_cells, cells_in
from tests.acceptance.conftest import TILES, Live, by_key, cells, mask


async def test_an_empty_slide_has_no_cells_and_says_why(live: Live) -> None:
    user = live.user()
    path = live.folder / "white.tif"
    white = np.full((640, 640, 3), 244, np.uint8)
    write_pyramid(path, 640, 640, [white], compression="jpeg", mpp=0.5, description="glass")
    slide = await user.upload_slide(path)
    workflow = await live.finished(user, await user.create_workflow("empty", [cells(slide)]))
    (job,) = workflow["jobs"]
    assert job["status"] == "SUCCEEDED", job["error"]
    result = job["result"]
    assert result is not None
    assert (result["cells"], result["tiles_processed"], result["tissue_mm2"]) == (0, 0, 0)
    assert result["tiles_skipped"] == result["tiles_total"] == 16
    assert any("Without tissue" in note for note in result["notes"])
    assert (await user.result(job["id"]))["summary"]["cells"] == 0
    found, _ = cells_in(await user.download(job["id"], "cells.parquet", live.folder / "cells.parquet"))
    assert found == {}
    assert (await user.cells(job["id"], (0, 0, 640, 640)))["count"] == 0


async def test_cells_are_those_of_the_bare_engine_and_none_lies_on_glass(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user, size=640, seed=3)
    workflow = await user.create_workflow("cells", [mask(slide, "tissue"), cells(slide)])
    jobs = by_key(await live.finished(user, workflow))
    result = jobs["cells"]["result"]
    assert result is not None
    assert result["tiles_cached"] == 0  # else it would be compared with an earlier run's cells
    parquet = await user.download(jobs["cells"]["id"], "cells.parquet", live.folder / "cells.parquet")
    found, ids = cells_in(parquet)
    assert len(found) == result["cells"] > 50
    bare = await asyncio.to_thread(bare_cells, live.stored(slide), tile_size=TILES["tile_size"], halo=TILES["halo"])
    assert found == bare
    summary = (await user.result(jobs["cells"]["id"]))["summary"]
    assert summary["seams"]["seam_px"] >= 640
    assert summary["seams"]["duplicates"] == 0
    assert 0 <= summary["engine_idle_fraction"] < 1

    from PIL import Image

    tissue = np.asarray(Image.open(await user.download(jobs["tissue"]["id"], "tissue_mask.png", live.folder / "m.png")))
    grown = Image.fromarray(tissue).resize((640, 640))
    near = np.asarray(grown) > 0
    outside = [
        seed
        for seed in found
        if not near[max(seed[1] - 16, 0) : seed[1] + 17, max(seed[0] - 16, 0) : seed[0] + 17].any()
    ]
    assert not outside

    # The same again is not computed again, and is the same.
    again = by_key(await live.finished(user, await user.create_workflow("again", [cells(slide)])))["cells"]
    assert again["result"] is not None
    assert again["result"]["tiles_cached"] == result["tiles_processed"]
    # And says what had computed it, and that it took no time of the network.
    assert again["result"]["engine"] == result["engine"] != ""
    assert "network" in result["stage_seconds"].keys() - again["result"]["stage_seconds"].keys()
    assert (await user.result(again["id"]))["summary"]["engine_idle_fraction"] is None
    same, same_ids = cells_in(await user.download(again["id"], "cells.parquet", live.folder / "again.parquet"))
    assert (same, same_ids) == (found, ids)
    # To the last byte of every file, but for the one that says how long it took.
    first, second = ({file["name"]: file["sha256"] for file in each["artifacts"]} for each in (result, again["result"]))
    assert first.keys() == second.keys() >= {"cells.geojson", "cells.csv", "density.tif", "combined.jpg"}
    assert {name for name in first if first[name] != second[name]} <= {"summary.json"}


async def test_a_watcher_sees_a_job_from_its_first_snapshot_to_its_last(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user, size=640)
    with live.paused("tiler"):  # until both watch; it may be done before they do otherwise
        workflow = await user.create_workflow("watched", [cells(slide)])
        (job,) = workflow["jobs"]
        watching = asyncio.Semaphore(0)
        watchers = asyncio.gather(
            watched(user, f"jobs/{job['id']}", "job", watching),
            watched(user, f"workflows/{workflow['id']}", "workflow", watching),
        )
        await watching.acquire()
        await watching.acquire()
    one, whole = await watchers
    for messages, name in ((one, "job"), (whole, "workflow")):
        kinds = [message["kind"] for message in messages]
        assert kinds[0] == kinds[-1] == "snapshot"
        assert messages[0][name]["status"] in ("PENDING", "RUNNING")
        assert messages[-1][name]["status"] == "SUCCEEDED"
        told = [message for message in messages if message["kind"] == "progress" and message["stage"] == "infer"]
        counts = [message["tiles_processed"] for message in told]
        assert counts == sorted(counts)
        # More than that depends on how fast the tiles are; the browser tests look at the bar on its way.
        assert len(set(counts)) >= 2
        assert {message["tiles_total"] for message in told if message["tiles_processed"]} == {16}
    events = [message for message in whole if message["kind"] == "event"]
    # The last snapshot may overtake the event that it shows; what is told before it is told in order.
    assert [event["type"] for event in events if event["type"] != "JobSucceeded"][-1] == "JobPlanned"
    # The submission, which is about no job, may or may not have passed when the watcher came.
    assert {event["job_id"] for event in events} - {None} == {job["id"]}
    final = one[-1]["job"]
    assert final["progress"] == 1
    assert final["result"]["cells"] == final["cells"] > 0


async def watched(user: ApiClient, path: str, name: str, watching: asyncio.Semaphore) -> list[dict[str, Any]]:
    """All messages of a websocket until the snapshot in which the job or workflow has ended.

    `watching` is released when the first message is there.
    """
    messages = []
    address = user.url.replace("http", "ws", 1)
    async with connect(f"{address}/api/v1/ws/{path}?user={user.user}", proxy=None) as socket:
        async for text in socket:
            messages.append(json.loads(text))
            if len(messages) == 1:
                watching.release()
            if messages[-1]["kind"] == "snapshot" and messages[-1][name]["finished_at"]:
                break
    return messages


async def test_other_users_see_nothing(live: Live) -> None:
    owner, other = live.user("owner"), live.user("other")
    slide = await live.slide(owner)
    workflow = await live.finished(owner, await owner.create_workflow("mine", [mask(slide, "tissue")]))
    job_id = workflow["jobs"][0]["id"]
    address = owner.url.replace("http", "ws", 1)
    for path in (f"workflows/{workflow['id']}", f"jobs/{job_id}"):
        async with connect(f"{address}/api/v1/ws/{path}?user={other.user}", proxy=None) as socket:
            with pytest.raises(ConnectionClosed) as refused:
                await socket.recv()
        assert refused.value.rcvd is not None
        assert refused.value.rcvd.code == 4404
        async with connect(f"{address}/api/v1/ws/{path}?user={owner.user}", proxy=None) as socket:
            assert json.loads(await socket.recv())["kind"] == "snapshot"
    for call in (
        other.workflow(workflow["id"]),
        other.job(job_id),
        other.slide(slide["id"]),
        other.cancel(job_id),
        other.result(job_id),
        other.download(job_id, "overlay.jpg", live.folder / "stolen.jpg"),
    ):
        with pytest.raises(ApiProblem) as problem:
            await call
        assert problem.value.problem.status == 404
    assert not (live.folder / "stolen.jpg").exists()
    assert await other.workflows() == []
    with pytest.raises(ApiProblem):  # nor can a foreign slide be worked on
        await other.create_workflow("theft", [mask(slide, "tissue")])
