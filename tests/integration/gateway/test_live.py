"""Live websockets: a snapshot first, then every change, also when the bus lost it."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from microtome.bus import subjects
from microtome.bus.headers import CloudEvent
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobCancelled, JobProgress
from services.gateway.hub import MAX_EVENTS, Outbox
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


async def workflow(gateway: Running) -> dict[str, Any]:
    slide = await registered(gateway, mpp=0.5)
    jobs = [{"key": key, "type": "SEGMENT_CELLS", "slide_id": slide} for key in ("a", "b")]
    return dict((await gateway.submit(*jobs)).json())


async def test_changes_are_told_also_when_the_bus_is_silent(gateway: Running) -> None:
    # No relay runs here: as far as the gateway can see, JetStream lost every event.
    submitted = await workflow(gateway)
    first, second = (job["id"] for job in submitted["jobs"])
    async with (
        live(gateway, f"/workflows/{submitted['id']}?user=ada") as whole,
        live(gateway, f"/jobs/{second}?user=ada") as one,
    ):
        snapshot = orjson.loads(await whole.recv())
        assert snapshot["kind"] == "snapshot"
        assert snapshot["workflow"]["id"] == submitted["id"]
        assert orjson.loads(await one.recv())["job"]["id"] == second
        await gateway.post(f"/jobs/{first}/cancel")
        while (snapshot := await told(whole, "snapshot"))["workflow"]["jobs"][0]["status"] != "CANCELLED":
            pass
        await gateway.post(f"/jobs/{second}/cancel")
        while (await told(one, "snapshot"))["job"]["status"] != "CANCELLED":
            pass


async def test_events_and_progress_are_passed_on(gateway: Running) -> None:
    submitted = await workflow(gateway)
    first, second = (job["id"] for job in submitted["jobs"])
    bus = gateway.gateway.bus
    async with (
        live(gateway, f"/workflows/{submitted['id']}?user=ada") as whole,
        live(gateway, f"/jobs/{second}?user=ada") as one,
    ):
        await told(whole, "snapshot")
        await told(one, "snapshot")
        for number, job_id in enumerate((first, second)):
            about = CloudEvent(
                id=str(uuid.uuid4()),
                type="microtome.v1.JobCancelled",
                source="test",
                subject=f"workflow-{submitted['id']}",
                time=datetime(2026, 1, 1, tzinfo=UTC),
                cursor=(7, number),
            )
            subject = subjects.event("ada", "workflow", submitted["id"], "JobCancelled")
            payload = to_bytes(JobCancelled(job_id=job_id))
            await bus.publish(subject, payload, message_id=about.id, headers=about.to_headers())
        event = await told(whole, "event")
        assert event["position"] == "7:0"
        assert (event["type"], event["job_id"], event["data"]) == ("JobCancelled", first, {"jobId": first})
        assert event["at"] == "2026-01-01T00:00:00Z"
        assert (await told(whole, "event"))["job_id"] == second
        assert (await told(one, "event"))["job_id"] == second

        for job_id in (first, second):
            progress = JobProgress(
                job_id=job_id, workflow_id=submitted["id"], attempt=1, stage="infer", tiles_processed=3, tiles_total=9
            )
            await bus.announce(subjects.progress("ada", submitted["id"], job_id), to_bytes(progress))
        report = await told(whole, "progress")
        assert report == {
            "kind": "progress",
            "job_id": first,
            "attempt": 1,
            "stage": "infer",
            "tiles_processed": 3,
            "tiles_total": 9,
            "tiles_skipped": 0,
            "cells": 0,
        }
        assert (await told(one, "progress"))["job_id"] == second


@pytest.mark.parametrize(("user", "code"), [("bob", 4404), ("", 4401), ("a%20b", 4401)])
async def test_strangers_are_sent_away(gateway: Running, user: str, code: int) -> None:
    submitted = await workflow(gateway)
    for path in (f"/workflows/{submitted['id']}", f"/jobs/{submitted['jobs'][0]['id']}"):
        async with live(gateway, f"{path}?user={user}") as socket:
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(socket.recv(), 5)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


async def test_clients_leave_without_a_trace(gateway: Running, caplog: pytest.LogCaptureFixture) -> None:
    submitted = await workflow(gateway)
    for _ in range(5):
        async with live(gateway, f"/workflows/{submitted['id']}?user=ada") as socket:
            await socket.recv()
            socket.transport.abort()
    async with asyncio.timeout(5):
        while gateway.gateway.metrics.live_clients._value.get():
            await asyncio.sleep(0.02)
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_an_outbox_is_bounded_and_keeps_the_latest() -> None:
    outbox = Outbox("w", None)
    for number in range(5):
        outbox.add_progress({"job_id": "j", "tiles_processed": number})
        outbox.add_event({"job_id": "j", "number": number})
    events, stale, progress = await outbox.take()
    assert [event["number"] for event in events] == [0, 1, 2, 3, 4]
    assert stale
    assert progress == [{"job_id": "j", "tiles_processed": 4}]
    for _ in range(MAX_EVENTS):
        outbox.add_event({"job_id": "j"})
    assert not outbox.overflowed
    for _ in range(1000):
        outbox.add_event({"job_id": "j"})
    assert outbox.overflowed
    assert len((await outbox.take())[0]) == MAX_EVENTS


async def test_a_client_that_is_too_far_behind_is_sent_away(gateway: Running) -> None:
    submitted = await workflow(gateway)
    async with live(gateway, f"/workflows/{submitted['id']}?user=ada") as socket:
        await told(socket, "snapshot")
        (outbox,) = gateway.gateway.hub._outboxes[submitted["id"]]
        for number in range(MAX_EVENTS + 1):
            outbox.add_event({"kind": "event", "job_id": None, "number": number})
        with pytest.raises(ConnectionClosed) as closed:
            await told(socket, "never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1013


async def test_clients_are_told_when_the_gateway_stops(start_gateway: Start, caplog: pytest.LogCaptureFixture) -> None:
    async with start_gateway() as gateway:
        submitted = await workflow(gateway)
        socket = await connect(f"{gateway.url.replace('http', 'ws')}/api/v1/ws/workflows/{submitted['id']}?user=ada")
        await told(socket, "snapshot")
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < 5
    with pytest.raises(ConnectionClosed) as closed:
        await told(socket, "never")
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
