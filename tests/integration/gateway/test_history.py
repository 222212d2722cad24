"""The past in the API: a workflow as it was, its events, a job's timeline; only of what is the user's own."""

from __future__ import annotations

import uuid
from typing import Any

from microtome.contracts.messages import (
    JobPlanned,
    JobResult,
    JobStarted,
    JobSucceeded,
    Message,
    SeatGranted,
    SeatReleased,
    StageSeconds,
)
from microtome.eventlog.log import Append, NewEvent
from tests.integration.gateway.conftest import Running, registered


async def append(running: Running, stream: str, *messages: Message, user: str = "ada", worker: str = "") -> None:
    """Append to a stream as a worker or the scheduler would."""
    version = len(await running.gateway.log.read_stream(stream))
    meta = {"worker": worker} if worker else {}
    events = tuple(NewEvent(event_id=uuid.uuid4(), message=each, tenant=user, meta=meta) for each in messages)
    await running.gateway.log.append(Append(stream, version, events))


async def told(running: Running) -> tuple[dict[str, Any], dict[str, Any]]:
    """bob holds the seat while ada waits, then both of ada's jobs run; only the first ends."""
    slide = await registered(running, 0.5)
    theirs = await registered(running, 0.5, user="bob")
    bob = (await running.submit({"key": "b", "type": "SEGMENT_CELLS", "slide_id": theirs}, user="bob")).json()
    await append(running, "seats", SeatGranted(user_id="bob", seat=0), user="bob")
    jobs = [{"key": key, "type": "SEGMENT_CELLS", "slide_id": slide} for key in ("first", "second")]
    ada = (await running.submit(*jobs)).json()
    stream = f"workflow-{ada['id']}"
    first = ada["jobs"][0]["id"]
    await append(running, "seats", SeatReleased(user_id="bob", seat=0), user="bob")
    await append(running, "seats", SeatGranted(user_id="ada", seat=0))
    await append(running, stream, JobStarted(job_id=first, attempt=1, slot=0))
    await append(running, stream, JobPlanned(job_id=first, attempt=1, tiles_total=12), worker="tiler-1")
    result = JobResult(
        tiles_total=12, tiles_processed=12, cells=34, stage_seconds=(StageSeconds(stage="infer", seconds=2),)
    )
    await append(running, stream, JobSucceeded(job_id=first, attempt=1, result=result), worker="merger-1")
    return ada, bob


async def test_a_workflow_can_be_seen_as_it_was_at_each_event(gateway: Running) -> None:
    ada, _ = await told(gateway)
    events = (await gateway.get(f"/workflows/{ada['id']}/events")).json()["items"]
    assert [event["type"] for event in events] == ["WorkflowSubmitted", "JobStarted", "JobPlanned", "JobSucceeded"]
    seen = [(await gateway.get(f"/workflows/{ada['id']}", params={"at": event["position"]})).json() for event in events]
    assert [[job["status"] for job in each["jobs"]] for each in seen] == [
        ["PENDING", "PENDING"],
        ["RUNNING", "PENDING"],
        ["RUNNING", "PENDING"],
        ["SUCCEEDED", "PENDING"],
    ]
    assert [each["position"] for each in seen] == [event["position"] for event in events]
    assert [each["jobs"][0]["tiles_total"] for each in seen] == [None, None, 12, 12]
    by_time = (await gateway.get(f"/workflows/{ada['id']}", params={"at": events[1]["at"]})).json()
    assert by_time["jobs"][0]["status"] == "RUNNING"
    now = (await gateway.get(f"/workflows/{ada['id']}")).json()
    assert {**seen[-1], "jobs": None} == {**now, "jobs": None}
    assert seen[-1]["jobs"][0] == now["jobs"][0]


async def test_the_past_tells_why_one_waited_but_nothing_of_others(gateway: Running) -> None:
    ada, bob = await told(gateway)
    events = (await gateway.get(f"/workflows/{ada['id']}/events")).json()["items"]
    response = await gateway.get(f"/workflows/{ada['id']}", params={"at": events[0]["position"]})
    waiting = response.json()["jobs"][0]["waiting_for"]
    assert (waiting["kind"], waiting["position"], waiting["job_id"]) == ("seat", None, None)
    timeline = await gateway.get(f"/jobs/{ada['jobs'][0]['id']}/timeline")
    kinds = [phase["kind"] for phase in timeline.json()["phases"]]
    assert kinds == ["seat", "worker", "running"]
    whole = response.text + timeline.text + (await gateway.get(f"/workflows/{ada['id']}/events")).text
    for foreign in ("bob", bob["id"], bob["jobs"][0]["id"]):
        assert foreign not in whole


async def test_a_timeline_tells_attempts_workers_and_stages(gateway: Running) -> None:
    ada, _ = await told(gateway)
    first = (await gateway.get(f"/jobs/{ada['jobs'][0]['id']}/timeline")).json()
    (attempt,) = first["attempts"]
    assert (attempt["outcome"], attempt["workers"], attempt["tiles_total"]) == (
        "succeeded",
        ["tiler-1", "merger-1"],
        12,
    )
    assert first["stage_seconds"] == {"infer": 2.0}
    assert first["phases"][-1]["until"] == first["finished_at"]
    second = (await gateway.get(f"/jobs/{ada['jobs'][1]['id']}/timeline")).json()
    assert [phase["kind"] for phase in second["phases"]] == ["branch", "worker"]
    assert second["phases"][0]["job_id"] == ada["jobs"][0]["id"]
    assert (second["phases"][1]["until"], second["attempts"]) == (None, [])


async def test_events_come_in_pages_without_gap_or_duplicate(gateway: Running) -> None:
    ada, _ = await told(gateway)
    path = f"/workflows/{ada['id']}/events"
    whole = (await gateway.get(path)).json()
    assert whole["next_cursor"] is None
    paged, after = [], {}
    for _ in range(10):
        response = await gateway.get(path, params={"limit": 3, **after})
        page = response.json()
        paged += page["items"]
        if page["next_cursor"] is None:
            break
        assert response.links["next"]["url"].startswith(f"/api/v1{path}?")
        after = {"after": page["next_cursor"]}
    assert paged == whole["items"]
    assert all(event["data"] and event["workflow_id"] == ada["id"] for event in paged)


async def test_foreign_and_unknown_ids_and_moments_are_refused_alike(gateway: Running) -> None:
    ada, bob = await told(gateway)
    for path in (
        f"/workflows/{bob['id']}?at=1:1",
        f"/workflows/{bob['id']}/events",
        f"/jobs/{bob['jobs'][0]['id']}/timeline",
    ):
        unknown = path.replace(bob["id"], str(uuid.uuid4())).replace(bob["jobs"][0]["id"], str(uuid.uuid4()))
        foreign = await gateway.assert_problem(await gateway.get(path), 404, "not-found")
        missing = await gateway.assert_problem(await gateway.get(unknown), 404, "not-found")
        assert foreign["title"] == missing["title"]
    early = await gateway.get(f"/workflows/{ada['id']}", params={"at": "2001-01-01T00:00:00Z"})
    await gateway.assert_problem(early, 404, "not-found")
    nonsense = await gateway.get(f"/workflows/{ada['id']}", params={"at": "yesterday"})
    assert nonsense.status_code in (400, 422)
    assert nonsense.json()["code"] == "invalid-request"
    assert (await gateway.get(f"/workflows/{ada['id']}/events", params={"after": "x"})).json()[
        "code"
    ] == "invalid-request"
