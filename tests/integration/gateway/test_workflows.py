"""Workflows through the real gateway: what is accepted is a fact, what is refused leaves nothing."""

from __future__ import annotations

import json
import math
import uuid
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest

from microtome.contracts.messages import JobResult, SeatGranted
from microtome.domain.commands import ReportSuccess, Start
from microtome.eventlog.log import Append, NewEvent
from services.gateway import quota
from tests.integration.gateway.conftest import SLIDES, Running, picture, registered

Json = dict[str, Any]


def job(slide: str, key: str = "cells", **more: Any) -> Json:
    return {"key": key, "type": "SEGMENT_CELLS", "slide_id": slide, **more}


async def test_a_workflow_is_accepted_and_waits(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    jobs = (
        job(slide, "mask", type="TISSUE_MASK"),
        job(slide, depends_on=["mask"], branch="b", parameters={"halo": 112}),
    )
    trace = f"00-{uuid.uuid4().hex}-00f067aa0ba902b7-01"
    response = await gateway.submit(*jobs, headers={"traceparent": trace})
    assert response.status_code == 202, response.text
    workflow = response.json()
    assert response.headers["location"] == f"/api/v1/workflows/{workflow['id']}"
    assert (workflow["status"], workflow["percent_complete"], workflow["finished_at"]) == ("PENDING", 0, None)
    mask, cells = workflow["jobs"]
    assert cells["depends_on"] == [mask["id"]]
    assert (mask["branch"], cells["branch"]) == ("main", "b")
    assert cells["parameters"]["halo"] == 112
    assert (mask["status"], mask["stage"], mask["attempt"], mask["result"]) == ("PENDING", None, 0, None)

    shown = (
        await gateway.until(f"/jobs/{cells['id']}", lambda each: each["waiting_for"]["kind"] == "dependency")
    ).json()
    assert shown["waiting_for"]["job_id"] == mask["id"]
    assert "'mask'" in shown["waiting_for"]["detail"]
    waiting = (await gateway.until(f"/jobs/{mask['id']}", lambda each: each["waiting_for"]["kind"] == "seat")).json()
    assert waiting["waiting_for"]["position"] == 1
    (listed,) = (await gateway.get("/workflows")).json()["items"]
    assert listed["id"] == workflow["id"]
    status = (await gateway.http.get("/api/v1/status")).json()
    assert status["waiting_users"] == ["ada"]

    (stored,) = await gateway.gateway.log.read_stream(f"workflow-{workflow['id']}")
    assert stored.meta["traceparent"].split("-")[1] == trace.split("-")[1]

    for path in (f"/workflows/{workflow['id']}", f"/jobs/{mask['id']}", f"/jobs/{mask['id']}/result"):
        await gateway.assert_problem(await gateway.get(path, user="bob"), 404, "not-found")
    for path in ("/artifacts", "/artifacts/summary.json", "/cells?bbox=0,0,9,9"):
        await gateway.assert_problem(await gateway.get(f"/jobs/{mask['id']}{path}", user="bob"), 404, "not-found")
    for action in ("cancel", "retry"):
        response = await gateway.post(f"/jobs/{mask['id']}/{action}", user="bob")
        await gateway.assert_problem(response, 404, "not-found")
    assert (await gateway.get("/workflows", user="bob")).json()["items"] == []


async def test_the_same_key_gives_the_same_workflow(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    first = await gateway.submit(job(slide), headers={"Idempotency-Key": "k"})
    second = await gateway.submit(job(slide), headers={"Idempotency-Key": "k"})
    assert first.json()["id"] == second.json()["id"]
    other = await gateway.submit(job(slide, "other"), headers={"Idempotency-Key": "k"})
    await gateway.assert_problem(other, 409, "conflict")
    assert len((await gateway.get("/workflows")).json()["items"]) == 1


async def test_a_repeated_request_is_known_whatever_became_of_its_slide(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    first = await gateway.submit(job(slide, draft=True), headers={"Idempotency-Key": "w"})
    path = f"/workflows/{first.json()['id']}/jobs"
    added = await gateway.post(path, json=job(slide, "b", draft=True), headers={"Idempotency-Key": "j"})
    await gateway.post(f"/workflows/{first.json()['id']}/cancel")
    deleted = await gateway.http.delete(f"/api/v1/slides/{slide}", headers=gateway.as_user("ada"))
    assert deleted.status_code == 204, deleted.text
    again = await gateway.submit(job(slide, draft=True), headers={"Idempotency-Key": "w"})
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    more = await gateway.post(path, json=job(slide, "b", draft=True), headers={"Idempotency-Key": "j"})
    assert more.status_code == 202, more.text
    assert len(more.json()["jobs"]) == len(added.json()["jobs"]) == 2
    changed = await gateway.submit(job(slide), headers={"Idempotency-Key": "w"})
    await gateway.assert_problem(changed, 409, "conflict")
    changed = await gateway.post(path, json=job(slide, "b"), headers={"Idempotency-Key": "j"})
    await gateway.assert_problem(changed, 409, "conflict")


async def test_bad_workflows_are_refused_and_leave_nothing(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    no_mpp = await registered(gateway, mpp=None)
    dark = await registered(gateway, mpp=0.5, fluorescence=True)
    foreign = await registered(gateway, mpp=0.5, user="bob")
    before = await gateway.stored_events()

    async def refused(status: int, code: str, *jobs: Json) -> str:
        return str((await gateway.assert_problem(await gateway.submit(*jobs), status, code))["detail"])

    detail = await refused(422, "invalid-workflow", job(slide, type="COUNT_SHEEP"))
    assert all(name in detail for name in ("COUNT_SHEEP", "TISSUE_MASK", "SEGMENT_CELLS", "INSTANSEG_WSI"))
    await refused(422, "invalid-workflow", job(slide, type="UNSPECIFIED"))
    cycle = await refused(422, "invalid-workflow", job(slide, "a", depends_on=["b"]), job(slide, "b", depends_on=["a"]))
    assert "'a'" in cycle
    assert "'b'" in cycle
    assert "'a'" in await refused(422, "invalid-workflow", job(slide, "a"), job(slide, "a"))
    assert "'x'" in await refused(422, "invalid-workflow", job(slide, "a", depends_on=["x"]))
    await refused(422, "invalid-workflow", job(foreign))
    await refused(422, "invalid-workflow", job(str(uuid.uuid4())))
    detail = await refused(422, "unknown-mpp", job(no_mpp))
    assert "assume_mpp" in detail
    assert "fluorescence" in await refused(422, "unsuitable-slide", job(dark))
    assert "core" in await refused(422, "invalid-request", job(slide, parameters={"tile_size": 256, "halo": 112}))
    assert "core" in await refused(422, "invalid-request", job(slide, parameters={"tile_size": 1024, "halo": 496}))
    detail = await refused(422, "invalid-request", job(slide, parameters={"halo": 80}))
    assert "halo of at least 96" in detail
    assert "'embedded'" in await refused(422, "unknown-model", job(slide, parameters={"model": "another"}))
    keys = [f"{number:03}{'k' * 61}" for number in range(990)]
    wide = [job(slide, key, branch=key) for key in keys]
    detail = await refused(422, "invalid-workflow", *wide, *[job(slide, f"d{n}", depends_on=keys) for n in range(10)])
    assert "several workflows" in detail
    wrong: list[Json] = [
        {"tile_size": 1000},
        {"tile_size": 1 << 20},
        {"halo": 17},
        {"halo": -16},
        {"batch_size": 0},
        {"batch_size": 65},
        {"mpp": 0.01},
        {"mpp": 11},
        {"mpp": "far"},
        {"mpp": 0.5, "assume_mpp": 0.5},
        {"tilesize": 512},
        {"model": "../../etc"},
    ]
    for parameters in wrong:
        response = await gateway.submit(job(slide, parameters=parameters))
        problem = await gateway.assert_problem(response, 422, "invalid-request")
        assert problem["errors"][0]["field"].startswith("jobs.0.parameters"), problem
    await refused(422, "invalid-request")
    broken = await gateway.post("/workflows", content=b'{"name": ', headers={"Content-Type": "application/json"})
    await gateway.assert_problem(broken, 422, "invalid-request")
    deep = await gateway.post("/workflows", content=b"[" * 100_000, headers={"Content-Type": "application/json"})
    assert deep.status_code in (400, 422)
    assert await gateway.stored_events() == before
    assert (await gateway.get("/workflows")).json()["items"] == []

    # The same slides are good for what they are good for.
    accepted = await gateway.submit(
        job(no_mpp, "assumed", parameters={"assume_mpp": 0.5}),
        job(no_mpp, "mask", type="TISSUE_MASK", parameters={"halo": 0}),
        job(dark, "dark", type="TISSUE_MASK"),
    )
    assert accepted.status_code == 202, accepted.text


def square(x: float, y: float, side: float) -> Json:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    return {"type": "Polygon", "coordinates": [ring]}


async def test_drawn_tissue_is_kept_once_beside_its_slide_and_known_by_its_digest(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    folder = gateway.data_dir / "slides" / slide
    gone = await gateway.submit(job(slide, "a", parameters={"tissue": square(1, 1, 5)}))
    await gateway.assert_problem(gone, 410, "slide-deleted")
    folder.mkdir(parents=True)
    before = await gateway.stored_events()
    feature = {"type": "Feature", "geometry": square(10, 20, 300), "properties": {"classification": {"name": "Tissue"}}}
    refused = [
        (square(9000, 9000, 10), "invalid-tissue", "lies on the slide"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [5, 5], [5, 1]]]}, "invalid-tissue", "not closed"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [5, None], [5, 1], [1, 1]]]}, "invalid-tissue", "two numbers"),
        ({"type": "FeatureCollection", "features": []}, "invalid-tissue", "no polygon"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [5, 10**400], [5, 1], [1, 1]]]}, "invalid-tissue", "two numbers"),
        ({"type": "Polygon", "coordinates": [[[1, 1], [5, 1e200], [5, 1], [1, 1]]]}, "invalid-tissue", "no slide"),
        ({"type": "Polygon", "coordinates": nested(300)}, "invalid-tissue", "two numbers"),
        ({"type": "FeatureCollection", "features": nested(300)}, "invalid-tissue", "GeoJSON object"),
        (collections(300), "invalid-tissue", "deep"),
        ({"type": "Point", "coordinates": [1, 2]}, "invalid-request", "parameters.tissue"),
        ([1, 2], "invalid-request", "parameters.tissue"),
    ]
    for tissue, code, says in refused:
        response = await gateway.submit(
            job(slide, "a", parameters={"tissue": tissue}), headers={"Idempotency-Key": "refused"}
        )
        problem = await gateway.assert_problem(response, 422, code)
        assert says in str(problem), problem
        assert code != "invalid-tissue" or "'a'" in problem["detail"]
    assert await gateway.stored_events() == before
    assert not list(folder.rglob("*.geojson"))

    one = job(slide, "a", parameters={"tissue": feature, "stain": "hdab"})
    two = job(
        slide, "b", type="TISSUE_MASK", parameters={"tissue": {"type": "FeatureCollection", "features": [feature]}}
    )
    answer = await gateway.submit(one, two, headers={"Idempotency-Key": "drawn"})
    assert answer.status_code == 202, answer.text
    first, second = (each["parameters"] for each in answer.json()["jobs"])
    assert first["stain"] == "hdab"
    assert second["stain"] is None
    assert first["tissue"] == second["tissue"]
    assert (first["tissue"]["polygons"], first["tissue"]["vertices"]) == (1, 5)
    (kept,) = folder.rglob("*.geojson")
    assert kept.stem == first["tissue"]["sha256"]
    again = await gateway.submit(one, two, headers={"Idempotency-Key": "drawn"})
    assert again.json()["id"] == answer.json()["id"]
    other = job(slide, "a", parameters={"tissue": square(1, 1, 5)})
    await gateway.assert_problem(await gateway.submit(other, headers={"Idempotency-Key": "drawn"}), 409, "conflict")
    # What was drawn is no part of events, however large it is.
    ring = [[600 + 500 * math.cos(a / 700), 600 + 500 * math.sin(a / 700)] for a in range(4399)]
    large = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    answer = await gateway.post(
        f"/workflows/{answer.json()['id']}/jobs", json=job(slide, "large", parameters={"tissue": large})
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["jobs"][-1]["parameters"]["tissue"]["vertices"] == 4400
    assert len(answer.content) < 20_000


def nested(depth: int) -> Any:
    inner: Any = [1, 1]
    for _ in range(depth):
        inner = [inner]
    return inner


def collections(depth: int) -> Json:
    inner = square(1, 1, 5)
    for _ in range(depth):
        inner = {"type": "FeatureCollection", "features": [inner]}
    return inner


async def test_the_same_polygons_are_the_same_request_however_they_are_written(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    (gateway.data_dir / "slides" / slide).mkdir(parents=True)
    geometry = square(10, 20, 300)
    turned = dict(reversed(geometry.items()))
    key = {"Idempotency-Key": "again"}
    ids = []
    for tissue in (
        {"type": "Feature", "geometry": geometry, "properties": {"deep": nested(300), "large": 10**400}},
        {"properties": None, "geometry": turned, "type": "Feature", "id": "7"},
    ):
        answer = await gateway.submit(job(slide, "a", parameters={"tissue": tissue}), headers=key)
        assert answer.status_code == 202, answer.text
        ids.append(answer.json()["id"])
    assert ids[0] == ids[1]
    # What says something else is another request: one point, or polygons as two features of what was one.
    other = square(10, 20, 301)
    await gateway.assert_problem(
        await gateway.submit(job(slide, "a", parameters={"tissue": other}), headers=key), 409, "conflict"
    )


async def test_a_drawing_of_the_largest_size_can_be_given_to_two_jobs(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    (gateway.data_dir / "slides" / slide).mkdir(parents=True)
    ring = [[round(500 + 400 * math.cos(a / 6300), 2), round(500 + 400 * math.sin(a / 6300), 2)] for a in range(39_000)]
    large = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    jobs = [job(slide, key, parameters={"tissue": large}) for key in ("a", "b")]
    # As the command line writes it, with spaces.
    content = json.dumps({"name": "two", "jobs": jobs})
    assert len(content) > 1 << 20
    answer = await gateway.post("/workflows", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 202, answer.text


async def test_a_full_disk_keeps_no_drawing(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = await registered(gateway, mpp=0.5)
    folder = gateway.data_dir / "slides" / slide
    folder.mkdir(parents=True)
    before = await gateway.stored_events()
    with monkeypatch.context() as patch:
        # As much as no disk has.
        patch.setattr(quota, "_KEPT_FREE", 1 << 62)
        refused = await gateway.submit(job(slide, "a", parameters={"tissue": square(1, 1, 50)}))
        await gateway.assert_problem(refused, 507, "storage-full")
        assert (await gateway.submit(job(slide, "a"))).status_code == 202
    assert not list(folder.rglob("*"))
    assert await gateway.stored_events() > before


async def test_huge_bodies_are_refused_before_they_are_parsed(gateway: Running) -> None:
    huge = orjson.dumps({"name": "x" * (5 << 20), "jobs": []})
    response = await gateway.post("/workflows", content=huge, headers={"Content-Type": "application/json"})
    await gateway.assert_problem(response, 413, "too-large")

    async def unannounced() -> Any:
        for start in range(0, len(huge), 1 << 16):
            yield huge[start : start + (1 << 16)]

    await gateway.assert_problem(await gateway.post("/workflows", content=unannounced()), 413, "too-large")
    assert await gateway.stored_events() == 0


async def test_users_must_say_who_they_are(gateway: Running) -> None:
    for path in (
        "/slides",
        "/workflows",
        "/slides/x",
        "/jobs/x",
        "/jobs/x/artifacts",
        "/workflows/x",
        "/slides/x/thumbnail",
    ):
        await gateway.assert_problem(await gateway.http.get(f"/api/v1{path}"), 401, "user-required")
        await gateway.assert_problem(await gateway.get(path, user="a b"), 400, "invalid-user")
        await gateway.assert_problem(await gateway.get(path, user="x" * 65), 400, "invalid-user")
    for path in ("/slides", "/workflows", "/jobs/x/cancel", "/jobs/x/retry"):
        response = await gateway.http.post(f"/api/v1{path}", json={"name": "n", "jobs": [job("s")]})
        await gateway.assert_problem(response, 401, "user-required")
    assert await gateway.stored_events() == 0
    assert gateway.stored_files() == []


async def test_jobs_are_cancelled_and_retried_by_the_rules(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    first, second = (await gateway.submit(job(slide, "a"), job(slide, "b"))).json()["jobs"]
    await gateway.assert_problem(await gateway.post(f"/jobs/{first['id']}/retry"), 409, "conflict")
    cancelled = await gateway.post(f"/jobs/{first['id']}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (202, "CANCELLED")
    await gateway.assert_problem(await gateway.post(f"/jobs/{first['id']}/cancel"), 409, "conflict")
    retried = await gateway.post(f"/jobs/{first['id']}/retry")
    assert (retried.status_code, retried.json()["status"]) == (202, "PENDING")
    shown = await gateway.until(f"/jobs/{second['id']}", lambda each: each["waiting_for"]["kind"] == "branch")
    assert shown.json()["waiting_for"]["job_id"] == first["id"]
    await gateway.assert_problem(await gateway.get(f"/jobs/{first['id']}/result"), 409, "conflict")
    assert (await gateway.get(f"/jobs/{first['id']}/artifacts")).json() == []


async def test_progress_is_what_the_worker_last_reported(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = (await gateway.submit(job(slide))).json()
    job_id = workflow["jobs"][0]["id"]
    log, workflows = gateway.gateway.log, gateway.gateway.workflows
    seat = NewEvent(event_id=uuid.uuid4(), message=SeatGranted(user_id="ada", seat=0), tenant="ada")
    await log.append(Append("seats", 0, (seat,)))
    await workflows.execute(workflow["id"], Start(job_id, 0))
    running = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (running["status"], running["attempt"], running["stage"]) == ("RUNNING", 1, "queued")
    assert running["waiting_for"] is None
    connection = await asyncpg.connect(gateway.gateway.settings.microtome_database_url)
    try:
        await connection.execute(
            "insert into leases (job_id, attempt, owner, stage, expires_at, tiles_total, tiles_processed, cells) "
            "values ($1, 1, 'w', 'infer', now(), 10, 5, 700)",
            job_id,
        )
    finally:
        await connection.close()
    running = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (running["stage"], running["tiles_processed"], running["cells"]) == ("infer", 5, 700)
    assert running["progress"] == pytest.approx(0.495)
    status = (await gateway.http.get("/api/v1/status")).json()
    assert status["active_users"] == ["ada"]
    await workflows.execute(workflow["id"], ReportSuccess(job_id, 1, JobResult(tiles_total=10, cells=1234, engine="e")))
    done = (await gateway.get(f"/workflows/{workflow['id']}")).json()
    assert (done["status"], done["percent_complete"]) == ("SUCCEEDED", 100)
    assert done["jobs"][0]["cells"] == 1234
    assert done["finished_at"] is not None


async def test_a_real_fluorescence_slide_is_not_segmented(gateway: Running) -> None:
    path = SLIDES / "test3-DAPI-2-387.ndpi"
    if not path.exists():
        pytest.skip(f"the real slide {path} is not on this machine")
    slide = await gateway.upload(path)
    assert slide["stain"] == "fluorescence"
    await gateway.assert_problem(await gateway.submit(job(slide["id"])), 422, "unsuitable-slide")


async def test_a_slide_without_pixel_size_is_not_guessed(gateway: Running, tmp_path: Path) -> None:
    slide = await gateway.upload(picture(tmp_path, "plain.png"))
    await gateway.assert_problem(await gateway.submit(job(slide["id"])), 422, "unknown-mpp")
    assert (await gateway.submit(job(slide["id"], parameters={"mpp": 0.5}))).status_code == 202
