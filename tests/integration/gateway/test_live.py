"""Live views: a snapshot first, then every fact exactly once, also when the bus is silent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from microtome.bus import subjects
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobProgress
from microtome.eventlog.log import Cursor
from tests.integration.gateway.conftest import Running, Start, registered


@asynccontextmanager
async def live(gateway: Running, path: str) -> AsyncIterator[ClientConnection]:
    async with connect(f"{gateway.url.replace('http', 'ws')}/api/v1/ws{path}") as socket:
        yield socket


async def told(socket: ClientConnection, kind: str) -> dict[str, Any]:
    async with asyncio.timeout(10):
        while True:
            message = orjson.loads(await socket.recv())
            if message["kind"] == kind:
                return dict(message)


async def workflow(gateway: Running, jobs: int = 2) -> dict[str, Any]:
    slide = await registered(gateway, mpp=0.5)
    wanted = [{"key": f"{key}", "type": "SEGMENT_CELLS", "slide_id": slide} for key in range(jobs)]
    return dict((await gateway.submit(*wanted)).json())


async def positions(gateway: Running, stream: str | None = None) -> list[str]:
    """What the log holds, in its order."""
    connection = await asyncpg.connect(gateway.gateway.settings.microtome_database_url)
    try:
        rows = await connection.fetch(
            "select xid, position from events where stream = $1 or $1 is null order by xid, position", stream
        )
    finally:
        await connection.close()
    return [str(Cursor(row["xid"], row["position"])) for row in rows]


async def sse(response: httpx.Response) -> AsyncIterator[dict[str, str]]:
    """Server-sent events; comments are passed on as such."""
    event: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name or "comment"] = value
        elif event:
            yield event
            event = {}


async def test_changes_are_told_also_when_the_bus_is_silent(gateway: Running) -> None:
    # No relay runs here: whatever is told comes from the log.
    submitted = await workflow(gateway)
    first, second = (job["id"] for job in submitted["jobs"])
    async with (
        live(gateway, f"/workflows/{submitted['id']}?user=ada") as whole,
        live(gateway, f"/jobs/{second}?user=ada") as one,
        live(gateway, "/me?user=ada") as mine,
    ):
        snapshot = orjson.loads(await whole.recv())
        assert (snapshot["kind"], snapshot["workflow"]["id"]) == ("snapshot", submitted["id"])
        assert snapshot["position"] == snapshot["workflow"]["position"]
        assert orjson.loads(await one.recv())["job"]["id"] == second
        me = orjson.loads(await mine.recv())["me"]
        assert (me["user"], me["workflows"][0]["id"], me["workflows"][0]["jobs"]) == (
            "ada",
            submitted["id"],
            {"PENDING": 2},
        )
        await gateway.post(f"/jobs/{first}/cancel")
        event = await told(whole, "event")
        assert (event["type"], event["job_id"], event["data"]) == ("JobCancelled", first, {"jobId": first})
        assert event["workflow_id"] == submitted["id"]
        assert event["at"].endswith("Z")
        assert event["position"] == (await positions(gateway))[-1]
        assert (await told(mine, "event"))["position"] == event["position"]
        while (snapshot := await told(whole, "snapshot"))["workflow"]["jobs"][0]["status"] != "CANCELLED":
            pass
        assert snapshot["position"] == event["position"]
        await gateway.post(f"/jobs/{second}/cancel")
        # A snapshot may be ahead of the facts that are told, never behind them.
        heard = [orjson.loads(await one.recv())]
        while heard[-1]["kind"] != "event" or not any(message.get("job", {}).get("finished_at") for message in heard):
            heard.append(orjson.loads(await one.recv()))
            if heard[-1].get("job", {}).get("status") == "CANCELLED" and any(m["kind"] == "event" for m in heard):
                break
        # The other job's fact is none of this one's.
        assert [message["job_id"] for message in heard if message["kind"] == "event"] == [second]
        while (await told(mine, "snapshot"))["me"]["workflows"][0]["jobs"] != {"CANCELLED": 2}:
            pass
    delay = gateway.gateway.metrics.commit_to_client
    assert delay._sum.get() / 5 < 2


async def test_everything_of_mine_is_mine_alone(gateway: Running) -> None:
    async with live(gateway, "/me?user=ada") as ada, live(gateway, "/me?user=bob") as bob:
        await told(ada, "snapshot")
        await told(bob, "snapshot")
        await registered(gateway, mpp=0.5, user="bob")
        submitted = await workflow(gateway)
        seen = [await told(ada, "event"), await told(ada, "event")]
        assert [event["type"] for event in seen] == ["SlideRegistered", "WorkflowSubmitted"]
        assert seen[1]["workflow_id"] == submitted["id"]
        assert (await told(bob, "event"))["data"]["userId"] == "bob"
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await told(bob, "event")


async def test_a_crowd_of_strangers_hears_its_own_facts_only(gateway: Running) -> None:
    users = [f"user{number}" for number in range(6)]
    slides = {user: await registered(gateway, mpp=0.5, user=user) for user in users}
    jobs = 8
    submitted = {}
    for user in users:
        wanted = [{"key": str(key), "type": "TISSUE_MASK", "slide_id": slides[user]} for key in range(jobs)]
        submitted[user] = (await gateway.submit(*wanted, user=user)).json()
    heard: dict[tuple[str, str], list[str]] = {}

    async def hear(user: str, path: str, expected: int) -> None:
        async with live(gateway, f"{path}?user={user}") as socket:
            await told(socket, "snapshot")
            ready.release()
            facts = [await told(socket, "event") for _ in range(expected)]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await told(socket, "event")
        heard[user, path] = [fact["job_id"] for fact in facts]
        assert {fact["workflow_id"] for fact in facts} == {submitted[user]["id"]}

    ready = asyncio.Semaphore(0)
    listening = []
    for user in users:
        one = submitted[user]["jobs"][3]["id"]
        for path, expected in (("/me", jobs), (f"/workflows/{submitted[user]['id']}", jobs), (f"/jobs/{one}", 1)):
            listening.append(asyncio.create_task(hear(user, path, expected)))
    async with asyncio.timeout(20):
        for _ in listening:
            await ready.acquire()
        # All at once, so that everybody's facts lie side by side in memory.
        await asyncio.gather(
            *[gateway.post(f"/jobs/{job['id']}/cancel", user) for user in users for job in submitted[user]["jobs"]]
        )
        await asyncio.gather(*listening)
    for (user, path), found in heard.items():
        mine = [job["id"] for job in submitted[user]["jobs"]]
        assert sorted(found) == sorted(mine if not path.startswith("/jobs/") else [path.removeprefix("/jobs/")])


async def test_only_the_latest_progress_waits(gateway: Running) -> None:
    submitted = await workflow(gateway)
    first, second = (job["id"] for job in submitted["jobs"])
    bus = gateway.gateway.bus
    async with (
        live(gateway, f"/workflows/{submitted['id']}?user=ada") as whole,
        live(gateway, f"/jobs/{second}?user=ada") as one,
    ):
        await told(whole, "snapshot")
        await told(one, "snapshot")
        for tiles in range(1, 101):
            for job_id in (first, second):
                progress = JobProgress(
                    job_id=job_id,
                    workflow_id=submitted["id"],
                    attempt=1,
                    stage="infer",
                    tiles_processed=tiles,
                    tiles_total=100,
                )
                await bus.announce(subjects.progress("ada", submitted["id"], job_id), to_bytes(progress))
        reports: list[dict[str, Any]] = []
        while {report["job_id"] for report in reports if report["tiles_processed"] == 100} != {first, second}:
            reports.append(await told(whole, "progress"))
        assert len(reports) < 50
        for job_id in (first, second):
            seen = [report["tiles_processed"] for report in reports if report["job_id"] == job_id]
            assert seen == sorted(set(seen))
        assert reports[-1] | {"job_id": ""} == {
            "kind": "progress",
            "workflow_id": submitted["id"],
            "job_id": "",
            "attempt": 1,
            "stage": "infer",
            "tiles_processed": 100,
            "tiles_total": 100,
            "tiles_skipped": 0,
            "cells": 0,
        }
        assert (await told(one, "progress"))["job_id"] == second


async def test_server_sent_events_say_the_same(gateway: Running) -> None:
    submitted = await workflow(gateway)
    first, second = (job["id"] for job in submitted["jobs"])
    address = f"/api/v1/workflows/{submitted['id']}/live"
    async with asyncio.timeout(15), gateway.http.stream("GET", address, headers=gateway.as_user("ada")) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        events = sse(response)
        assert await anext(events) == {"retry": "1000"}
        snapshot = await anext(events)
        assert snapshot["event"] == "snapshot"
        assert orjson.loads(snapshot["data"])["workflow"]["id"] == submitted["id"]
        await gateway.post(f"/jobs/{first}/cancel")
        while (event := await anext(events))["event"] != "event":
            assert "id" not in event
        last = event["id"]
        assert orjson.loads(event["data"])["position"] == last
        await gateway.post(f"/jobs/{second}/cancel")
    # What was missed comes first, then how things are; a browser names the place in a header, others may in the query.
    for more in ({"headers": {"Last-Event-ID": last}}, {"params": {"after": last}}):
        again: dict[str, Any] = {"headers": {}, **more}
        again["headers"] = {**gateway.as_user("ada"), **again["headers"]}
        async with asyncio.timeout(15), gateway.http.stream("GET", address, **again) as response:
            events = sse(response)
            assert await anext(events) == {"retry": "1000"}
            event = await anext(events)
            assert (event["event"], orjson.loads(event["data"])["job_id"]) == ("event", second)
            assert (await anext(events))["event"] == "snapshot"
    for path in (f"/jobs/{first}/live", "/me/live"):
        async with gateway.http.stream("GET", f"/api/v1{path}?user=ada") as response:
            assert response.status_code == 200
            events = sse(response)
            await anext(events)
            assert (await anext(events))["event"] == "snapshot"


async def test_strangers_and_nonsense_are_sent_away(gateway: Running) -> None:
    submitted = await workflow(gateway)
    mine = (f"/workflows/{submitted['id']}", f"/jobs/{submitted['jobs'][0]['id']}")
    nowhere = "18446744073709551615:1"
    for path, query, code, status, name in (
        *((path, "user=bob", 4404, 404, "not-found") for path in mine),
        (mine[0], "user=", 4401, 401, "user-required"),
        (mine[1], "user=a%20b", 4401, 400, "invalid-user"),
        ("/me", "user=", 4401, 401, "user-required"),
        ("/me", "user=ada&after=yesterday", 4400, 422, "invalid-request"),
        (mine[0], f"user=ada&after={nowhere}", 4409, 409, "conflict"),
    ):
        async with live(gateway, f"{path}?{query}") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await told(socket, "never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code, path
        response = await gateway.http.get(f"/api/v1{path}/live?{query}")
        await gateway.assert_problem(response, status, name)


async def test_clients_leave_without_a_trace(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    submitted = await workflow(gateway)
    for _ in range(5):
        async with live(gateway, f"/workflows/{submitted['id']}?user=ada") as socket:
            await socket.recv()
            socket.transport.abort()
        async with gateway.http.stream("GET", "/api/v1/me/live?user=ada") as response:
            await anext(response.aiter_bytes())
    hub = gateway.gateway.hub
    async with asyncio.timeout(5):
        while gateway.gateway.metrics.live_clients._value.get() or hub.clients or hub._listeners:
            await asyncio.sleep(0.02)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_one_client_too_many_is_told_to_come_back(start_gateway: Start) -> None:
    async with start_gateway(max_live_clients=2) as gateway:
        async with live(gateway, "/me?user=ada") as first, live(gateway, "/me?user=ada") as second:
            await told(first, "snapshot")
            await told(second, "snapshot")
            with pytest.raises(InvalidStatus) as refused:
                async with live(gateway, "/me?user=ada"):
                    pass
            assert refused.value.response.status_code == 503
            assert refused.value.response.headers["Retry-After"]
            response = await gateway.get("/me/live")
            await gateway.assert_problem(response, 503, "overloaded")
            assert response.headers["Retry-After"]
        async with asyncio.timeout(5):
            while gateway.gateway.hub.clients:
                await asyncio.sleep(0.02)
        async with live(gateway, "/me?user=ada") as third:
            await told(third, "snapshot")


async def test_one_user_does_not_take_all_the_room(start_gateway: Start) -> None:
    async with start_gateway(max_live_clients_per_user=1) as gateway:
        async with live(gateway, "/me?user=ada") as first, live(gateway, "/me?user=bob") as other:
            await told(first, "snapshot")
            await told(other, "snapshot")
            with pytest.raises(InvalidStatus) as refused:
                async with live(gateway, "/me?user=ada"):
                    pass
            assert refused.value.response.status_code == 429
            response = await gateway.get("/me/live")
            await gateway.assert_problem(response, 429, "too-many-clients")
        async with asyncio.timeout(5):
            while gateway.gateway.hub.clients:
                await asyncio.sleep(0.02)
        async with live(gateway, "/me?user=ada") as again:
            await told(again, "snapshot")


async def test_clients_are_told_when_the_gateway_stops(start_gateway: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with start_gateway() as gateway:
        submitted = await workflow(gateway)
        socket = await connect(f"{gateway.url.replace('http', 'ws')}/api/v1/ws/workflows/{submitted['id']}?user=ada")
        await told(socket, "snapshot")
        request = gateway.http.build_request("GET", "/api/v1/me/live?user=ada")
        stream = await gateway.http.send(request, stream=True)
        lines = sse(stream)
        await anext(lines)
        began = asyncio.get_running_loop().time()
        gateway.stop()
        # The stream ends in order, so that a browser comes back with its last id.
        async with asyncio.timeout(5):
            async for _ in lines:
                pass
    assert asyncio.get_running_loop().time() - began < 5
    with pytest.raises(ConnectionClosed) as closed:
        await told(socket, "never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_unknown_workflow_has_no_live_view(gateway: Running) -> None:
    await gateway.assert_problem(await gateway.get(f"/workflows/{uuid.uuid4()}/live"), 404, "not-found")
