"""The life of workflows through the real gateway: policies, drafts, additions, whole-workflow commands, pages, tags."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest

from microtome.contracts.messages import Artifact, JobResult, SeatGranted
from microtome.domain.commands import ReportFailure, ReportSuccess, Start
from microtome.eventlog.log import Append, NewEvent
from microtome.tissue.store import outline_of
from tests.integration.gateway.conftest import Running, registered
from tests.integration.gateway.test_workflows import job

Json = dict[str, Any]


async def submitted(gateway: Running, *jobs: Json, user: str = "ada", **more: Any) -> Json:
    response = await gateway.post("/workflows", user, json={"name": "test", "jobs": list(jobs), **more})
    assert response.status_code == 202, response.text
    return dict(response.json())


async def seated(gateway: Running, user: str = "ada", seat: int = 0) -> None:
    event = NewEvent(event_id=uuid.uuid4(), message=SeatGranted(user_id=user, seat=seat), tenant=user)
    stored = await gateway.gateway.log.read_stream("seats")
    await gateway.gateway.log.append(Append("seats", len(stored), (event,)))


async def fail(gateway: Running, workflow: str, job_id: str) -> None:
    run = gateway.gateway.workflows.execute
    started = await run(workflow, Start(job_id, 0))
    attempt = started[0].message.attempt  # type: ignore[union-attr]
    await run(workflow, ReportFailure(job_id, attempt, "bad", "It broke.", False, started[0].at))


async def succeed(gateway: Running, workflow: str, job_id: str, result: JobResult) -> None:
    run = gateway.gateway.workflows.execute
    await run(workflow, Start(job_id, 0))
    await run(workflow, ReportSuccess(job_id, 1, result))


async def test_a_failure_means_what_the_branch_says(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    policies = ("halt", "skip", "continue")
    workflow = await submitted(
        gateway,
        *[job(slide, f"{name}{number}", branch=name) for name in policies for number in range(2)],
        branches=[{"name": name, "policy": name} for name in policies],
    )
    assert workflow["branches"] == [{"name": name, "policy": name} for name in policies]
    ids = {each["key"]: each["id"] for each in workflow["jobs"]}
    await seated(gateway)
    for name in policies:
        await fail(gateway, workflow["id"], ids[f"{name}0"])
    shown = (await gateway.get(f"/workflows/{workflow['id']}")).json()
    jobs = {each["key"]: each for each in shown["jobs"]}
    assert [jobs[f"{name}1"]["status"] for name in policies] == ["PENDING", "SKIPPED", "PENDING"]
    assert jobs["skip1"]["cause_job_id"] == ids["skip0"]
    assert jobs["skip1"]["waiting_for"] is None
    waiting = await gateway.until(f"/jobs/{ids['halt1']}", lambda each: each["waiting_for"]["kind"] == "halted")
    assert waiting.json()["waiting_for"]["job_id"] == ids["halt0"]
    # The only work that is left is in the third branch, and none of it is begun.
    assert (shown["status"], shown["percent_complete"]) == ("RUNNING", pytest.approx(16.7))

    retried = (await gateway.post(f"/workflows/{workflow['id']}/retry-failed")).json()
    assert {each["status"] for each in retried["jobs"]} == {"PENDING"}
    again = await gateway.post(f"/workflows/{workflow['id']}/retry-failed")
    await gateway.assert_problem(again, 409, "conflict")

    cancelled = (await gateway.post(f"/workflows/{workflow['id']}/cancel")).json()
    assert {each["status"] for each in cancelled["jobs"]} == {"CANCELLED"}
    assert (cancelled["status"], cancelled["percent_complete"]) == ("CANCELLED", 100)


async def test_what_was_drawn_stays_with_a_job_that_is_cancelled_retried_and_looked_back_at(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    folder = gateway.data_dir / "slides" / slide
    folder.mkdir(parents=True)
    ring = [[10, 20], [310, 20], [310, 320], [10, 320], [10, 20]]
    tissue = {"type": "Polygon", "coordinates": [ring]}
    workflow = await submitted(
        gateway, *[job(slide, key, parameters={"tissue": tissue, "stain": "hdab"}) for key in ("a", "b")]
    )
    first, second = (each["id"] for each in workflow["jobs"])
    kept = outline_of(folder / "slide.tif", workflow["jobs"][0]["parameters"]["tissue"]["sha256"])
    assert [each.tolist() for each in kept.polygons[0]] == [ring]
    await seated(gateway)
    await fail(gateway, workflow["id"], first)
    assert (await gateway.post(f"/jobs/{first}/retry")).status_code < 300
    assert (await gateway.post(f"/jobs/{second}/cancel")).status_code < 300
    assert (await gateway.post(f"/jobs/{second}/retry")).status_code < 300
    run = gateway.gateway.workflows.execute
    started = await run(workflow["id"], Start(first, 0))
    attempt = started[0].message.attempt  # type: ignore[union-attr]
    assert attempt == 2
    await run(workflow["id"], ReportSuccess(first, attempt, JobResult(tiles_total=3, tiles_processed=3, cells=7)))

    address = f"/workflows/{workflow['id']}"
    events = (await gateway.get(f"{address}/events")).json()["items"]
    seen = [(await gateway.get(address, params={"at": event["position"]})).json() for event in events]
    statuses = [[each["status"] for each in then["jobs"]] for then in seen]
    assert [(event["type"], *those) for event, those in zip(events, statuses, strict=True)] == [
        ("WorkflowSubmitted", "PENDING", "PENDING"),
        ("JobStarted", "RUNNING", "PENDING"),
        ("JobFailed", "FAILED", "PENDING"),
        ("JobRetried", "PENDING", "PENDING"),
        ("JobCancelled", "PENDING", "CANCELLED"),
        ("JobRetried", "PENDING", "PENDING"),
        ("JobStarted", "RUNNING", "PENDING"),
        ("JobSucceeded", "SUCCEEDED", "PENDING"),
    ]
    # At every moment they are the jobs that were submitted, and what they point at is still there.
    for then in seen:
        assert [each["parameters"] for each in then["jobs"]] == [each["parameters"] for each in workflow["jobs"]]
    assert len([*folder.rglob("*.geojson")]) == 1
    # What the workers are told is what was drawn.
    state, _ = await gateway.gateway.workflows.load(workflow["id"])
    for each in state.jobs.values():
        chosen = each.spec.parameters
        assert chosen is not None
        assert chosen.tissue is not None
        assert outline_of(folder / "slide.tif", chosen.tissue.sha256).document == kept.document


async def test_two_policies_for_one_branch_are_refused(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    twice = [{"name": "main", "policy": "halt"}, {"name": "main", "policy": "skip"}]
    response = await gateway.post("/workflows", json={"name": "n", "jobs": [job(slide)], "branches": twice})
    await gateway.assert_problem(response, 422, "invalid-workflow")
    unknown = [{"name": "main", "policy": "panic"}]
    response = await gateway.post("/workflows", json={"name": "n", "jobs": [job(slide)], "branches": unknown})
    await gateway.assert_problem(response, 422, "invalid-request")
    assert (await gateway.get("/workflows")).json()["items"] == []


async def test_drafts_wait_until_they_are_started(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, job(slide, "a"), job(slide, "b"), job(slide, "c", draft=False), draft=True)
    a, b, c = workflow["jobs"]
    assert [each["status"] for each in (a, b, c)] == ["DRAFT", "DRAFT", "PENDING"]
    assert (a["draft"], a["waiting_for"]["kind"], c["draft"]) == (True, "draft", False)
    started = (await gateway.post(f"/jobs/{b['id']}/start")).json()
    assert (started["status"], started["draft"]) == ("PENDING", False)
    # It joins the line of its branch at the end.
    shown = await gateway.until(f"/jobs/{b['id']}", lambda each: each["waiting_for"]["kind"] == "branch")
    assert shown.json()["waiting_for"]["job_id"] == c["id"]
    await gateway.assert_problem(await gateway.post(f"/jobs/{c['id']}/start"), 409, "conflict")
    everything = (await gateway.post(f"/workflows/{workflow['id']}/start")).json()
    assert {each["status"] for each in everything["jobs"]} == {"PENDING"}


async def test_jobs_are_added_later_and_only_once(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, job(slide, "mask", type="TISSUE_MASK"))
    path = f"/workflows/{workflow['id']}/jobs"
    more = {"jobs": [job(slide, "x", branch="new", depends_on=["mask"]), job(slide, "y", depends_on=["x"])]}
    more["branches"] = [{"name": "new", "policy": "continue"}]
    for _ in range(2):
        added = await gateway.post(path, json=more, headers={"Idempotency-Key": "k"})
        assert added.status_code == 202, added.text
        assert [each["key"] for each in added.json()["jobs"]] == ["mask", "x", "y"]
    mask, x, y = added.json()["jobs"]
    assert (x["depends_on"], y["depends_on"]) == ([mask["id"]], [x["id"]])
    assert added.json()["branches"][-1] == {"name": "new", "policy": "continue"}
    assert x["created_at"] > mask["created_at"]
    # Of its branch one policy was chosen before, another one now.
    again = {"jobs": [job(slide, "v", branch="new"), job(slide, "u", branch="newer")]}
    again["branches"] = [{"name": "newer", "policy": "skip"}]
    for key in ("p", "p", None):
        added = await gateway.post(path, json=again, headers={"Idempotency-Key": key} if key else {})
        assert added.status_code == 202, added.text
        assert [each["key"] for each in added.json()["jobs"]] == ["mask", "x", "y", "v", "u"]
    other = await gateway.post(path, json={"jobs": [job(slide, "z")]}, headers={"Idempotency-Key": "k"})
    await gateway.assert_problem(other, 409, "conflict")

    single = await gateway.post(path, json=job(slide, "single", depends_on=["y"]))
    assert single.json()["jobs"][-1]["depends_on"] == [y["id"]]
    through_jobs = {"workflow_id": workflow["id"], **job(slide, "by-job")}
    created = await gateway.post("/jobs", json=through_jobs, headers={"Idempotency-Key": "j"})
    assert (created.status_code, created.json()["key"]) == (202, "by-job")
    assert created.headers["location"] == f"/api/v1/jobs/{created.json()['id']}"
    repeated = await gateway.post("/jobs", json=through_jobs, headers={"Idempotency-Key": "j"})
    assert repeated.json()["id"] == created.json()["id"]

    before = await gateway.stored_events()
    for wrong in (
        [job(slide, "x")],
        [job(slide, "w", depends_on=["nobody"])],
        [job(str(uuid.uuid4()), "w")],
        [job(slide, "w"), job(slide, "w")],
    ):
        await gateway.assert_problem(await gateway.post(path, json={"jobs": wrong}), 422, "invalid-workflow")
    await gateway.assert_problem(await gateway.post(path, json={"jobs": []}), 422, "invalid-request")
    bare = await gateway.assert_problem(await gateway.post(path, json=job(slide, "a b")), 422, "invalid-request")
    assert [each["field"] for each in bare["errors"]] == ["jobs.0.key"]
    assert await gateway.stored_events() == before


async def test_many_add_at_once_and_nothing_is_lost(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, job(slide, "first"))
    path = f"/workflows/{workflow['id']}/jobs"
    answers = await asyncio.gather(*(gateway.post(path, json={"jobs": [job(slide, f"k{n}")]}) for n in range(8)))
    assert {answer.status_code for answer in answers} == {202}
    shown = (await gateway.get(f"/workflows/{workflow['id']}")).json()
    assert {each["key"] for each in shown["jobs"]} == {"first", *(f"k{n}" for n in range(8))}


async def test_parameters_are_checked_and_tiles_are_counted(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)  # 1000 x 800
    coarse = await registered(gateway, mpp=2.0)
    region = {"x": 100, "y": 0, "width": 900, "height": 800}
    clear = {"low": [10, 20.5, 30], "high": [200, 210, 255]}
    workflow = await submitted(
        gateway,
        job(slide, "a", parameters={"overlap": 128, "tile_size": 512, "region": region, "normalisation": clear}),
        job(slide, "b", parameters={"tile_size": 512}),
        job(coarse, "c", parameters={"tile_size": 512}),
        job(coarse, "d", parameters={"tile_size": 512, "mpp": 1.0}),
        job(slide, "e", type="TISSUE_MASK"),
    )
    jobs = {each["key"]: each for each in workflow["jobs"]}
    assert jobs["a"]["parameters"]["halo"] == 128
    assert jobs["a"]["parameters"]["region"] == region
    assert jobs["a"]["parameters"]["normalisation"] == clear
    # Cores of 256 and of 288 model pixels of 0.5 µm.
    assert [jobs[key]["expected_tiles"] for key in "abcde"] == [4 * 4, 4 * 3, 14 * 12, 7 * 6, 1]
    wrong: list[Json] = [
        {"region": {**region, "width": 901}},
        {"region": {"x": 0, "y": 0, "width": 10, "height": 801}},
        {"region": {**region, "x": -1}},
        {"region": {**region, "width": 0}},
        {"normalisation": {"low": [1, 2, 3], "high": [1, 3, 4]}},
        {"normalisation": {"low": [1, 2], "high": [3, 4]}},
        {"normalisation": {"low": [1, 2, 3], "high": [4, 5, 256]}},
        {"halo": 96, "overlap": 96},
    ]
    for parameters in wrong:
        response = await gateway.submit(job(slide, parameters=parameters))
        await gateway.assert_problem(response, 422, "invalid-request")


async def test_progress_counts_tiles_not_jobs(gateway: Running) -> None:
    slide = await registered(gateway, mpp=2.0)
    workflow = await submitted(
        gateway, job(slide, "mask", type="TISSUE_MASK"), job(slide, "big", parameters={"tile_size": 512})
    )
    mask, big = workflow["jobs"]
    assert (mask["expected_tiles"], big["expected_tiles"]) == (1, 168)
    await seated(gateway)
    await succeed(gateway, workflow["id"], mask["id"], JobResult(tiles_total=1, engine="e", model="m"))
    assert (await gateway.get(f"/workflows/{workflow['id']}")).json()["percent_complete"] == pytest.approx(0.6)


async def test_lists_come_in_pages_that_miss_nothing(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    other = await registered(gateway, mpp=0.5)
    old = [(await submitted(gateway, job(slide, f"k{n}"), name=f"old {n}"))["id"] for n in range(7)]
    elsewhere = await submitted(gateway, job(other, "o", branch="side"), name="Else_where")
    await gateway.post(f"/jobs/{elsewhere['jobs'][0]['id']}/cancel")

    seen: list[str] = []
    url = "/workflows?limit=3&name=OLD"
    while url:
        page = await gateway.get(url)
        seen += [each["id"] for each in page.json()["items"]]
        # What comes in between is newer than where we are, and must not shift the pages.
        await submitted(gateway, job(slide, "new"), name="old too")
        link = page.headers.get("link", "")
        assert bool(link) == (page.json()["next_cursor"] is not None)
        url = link.partition(">")[0].removeprefix("</api/v1") if link else ""
        assert not link or "name=OLD" in url
    assert seen == list(reversed(old))

    async def found(path: str) -> list[str]:
        return [each.get("name") or each["key"] for each in (await gateway.get(path)).json()["items"]]

    assert await found("/workflows?status=CANCELLED") == ["Else_where"]
    assert await found(f"/workflows?slide_id={other}") == ["Else_where"]
    assert await found("/workflows?name=e_w") == ["Else_where"]
    assert await found("/workflows?branch=side&status=PENDING") == []
    assert len(await found("/workflows?status=PENDING&status=CANCELLED&limit=200")) == 11
    assert await found(f"/jobs?workflow_id={old[3]}") == ["k3"]
    assert await found("/jobs?status=CANCELLED") == ["o"]
    assert await found("/jobs?name=K&limit=2") == ["k6", "k5"]
    for wrong in (
        "/workflows?cursor=x",
        "/jobs?cursor=%00",
        "/workflows?status=LOST",
        "/jobs?limit=0",
        "/jobs?limit=201",
    ):
        await gateway.assert_problem(await gateway.get(wrong), 422, "invalid-request")
    foreign = (await gateway.get("/workflows?limit=1")).json()["next_cursor"]
    assert (await gateway.get(f"/workflows?cursor={foreign}", user="bob")).json()["items"] == []


async def test_who_has_an_answer_is_not_sent_it_again(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, job(slide))
    job_id = workflow["jobs"][0]["id"]
    await gateway.until(f"/jobs/{job_id}", lambda each: each["waiting_for"]["kind"] == "seat")
    changing = (f"/workflows/{workflow['id']}", f"/jobs/{job_id}", "/workflows", "/jobs", "/users", "/users/me")
    tags = {}
    for path in (*changing, "/slides", f"/slides/{slide}", f"/jobs/{job_id}/artifacts"):
        first = await gateway.get(path)
        tags[path] = first.headers["etag"]
        assert tags[path].startswith('"'), path
        assert first.headers["cache-control"] == "private, no-cache"
        assert first.headers["vary"] == "X-User-ID"
        again = await gateway.get(path, headers={"If-None-Match": f'"x", W/{tags[path]}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tags[path]), path
    await gateway.post(f"/jobs/{job_id}/cancel")
    # At once: whoever wrote reads what was written.
    for path in changing[:4]:
        assert (await gateway.get(path, headers={"If-None-Match": tags[path]})).status_code == 200, path


async def test_whoever_wrote_reads_it_under_load(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, *[job(slide, f"k{n}", branch=f"b{n}") for n in range(12)])
    path = f"/workflows/{workflow['id']}"

    async def cancel(job_id: str) -> None:
        assert (await gateway.post(f"/jobs/{job_id}/cancel")).json()["status"] == "CANCELLED"
        shown = (await gateway.get(path)).json()
        assert next(each for each in shown["jobs"] if each["id"] == job_id)["status"] == "CANCELLED"

    await asyncio.gather(*(cancel(each["id"]) for each in workflow["jobs"]))


async def test_users_see_where_they_stand(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    await registered(gateway, mpp=0.5, user="bob")
    workflow = await submitted(gateway, job(slide))
    me = (await gateway.until("/users/me", lambda each: each["state"] == "waiting")).json()
    assert (me["position"], me["seat"], me["pending_jobs"]) == (1, None, 1)
    assert (me["usage"]["slides"], me["usage"]["workflows"], me["usage"]["jobs"]["PENDING"]) == (1, 1, 1)
    assert me["submissions"] is None
    await seated(gateway)
    await gateway.gateway.workflows.execute(workflow["id"], Start(workflow["jobs"][0]["id"], 0))
    await gateway.until("/users", lambda each: each["active"] and each["active"][0]["running_jobs"] == 1)
    me = (await gateway.get("/users/me")).json()
    assert (me["state"], me["seat"], me["running_jobs"]) == ("active", 0, 1)
    seen = (await gateway.get("/users", user="bob")).json()
    assert ([each["id"] for each in seen["active"]], seen["waiting"]) == (["ada"], [])
    limits = (await gateway.http.get("/api/v1/status")).json()["limits"]
    assert (limits["slice_seconds"], limits["seat_tenure_seconds"], limits["model_mpp"]) == (60, None, 0.5)


async def test_the_files_of_a_whole_workflow_are_deleted(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    workflow = await submitted(gateway, job(slide, "a", type="TISSUE_MASK"), job(slide, "b"))
    done, pending = workflow["jobs"]
    store = gateway.gateway.artifacts
    with store.draft(done["id"], 1) as draft:
        (draft / "summary.json").write_text('{"tissue_mm2": 1.5}')
        (draft / "overlay.jpg").write_bytes(b"\xff\xd8picture")
        published = store.publish(draft, done["id"], 1)
    await seated(gateway)
    listed = tuple(
        Artifact(name=each.name, media_type=each.media_type, size_bytes=each.size_bytes, sha256=each.sha256)
        for each in published
    )
    await succeed(gateway, workflow["id"], done["id"], JobResult(engine="e", model="m", artifacts=listed))
    preview = await gateway.get(f"/jobs/{done['id']}/preview")
    assert (preview.headers["content-type"], preview.content) == ("image/jpeg", b"\xff\xd8picture")
    await gateway.assert_problem(await gateway.get(f"/jobs/{pending['id']}/preview"), 409, "conflict")
    assert (await gateway.get("/users/me")).json()["usage"]["artifact_bytes"] == sum(each.size_bytes for each in listed)

    for _ in range(2):
        deleted = await gateway.http.delete(
            f"/api/v1/workflows/{workflow['id']}/artifacts", headers={"X-User-ID": "ada"}
        )
        assert (deleted.status_code, deleted.content) == (204, b"")
    manifest = (await gateway.get(f"/jobs/{done['id']}/result")).json()
    assert manifest["artifacts_deleted_at"] is not None
    assert (manifest["summary"], len(manifest["result"]["artifacts"])) == (None, 2)
    assert (await gateway.get(f"/jobs/{done['id']}/preview")).status_code == 410
    assert (await gateway.get(f"/jobs/{done['id']}/artifacts")).json() == []
    assert (await gateway.get("/users/me")).json()["usage"]["artifact_bytes"] == 0


async def test_a_page_of_workflows_ends_after_so_many_jobs(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    sizes = (900, 1, 900, 900, 2)
    for size in sizes:
        await submitted(gateway, *[job(slide, f"j{number}", type="TISSUE_MASK") for number in range(size)])
    pages: list[list[int]] = []
    path: str | None = "/workflows"
    while path is not None:
        response = await gateway.get(path)
        pages.append([len(each["jobs"]) for each in response.json()["items"]])
        cursor = response.json()["next_cursor"]
        path = cursor and f"/workflows?cursor={cursor}"
        assert ("link" in response.headers) == (cursor is not None)
    assert pages == [[2, 900, 900, 1], [900]]
