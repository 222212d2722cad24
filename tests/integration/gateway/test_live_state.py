"""What a live client makes of snapshots that are older than facts it was told before them."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from microtome.eventlog.log import Cursor
from services.gateway.facts import Interest
from services.gateway.snapshots import Snapshot, Snapshots
from tests.integration.gateway.conftest import Running
from tests.integration.gateway.test_live import live, positions, workflow

JOBS = 24


class Folding:
    """Which jobs are cancelled, as a client knows it that takes snapshots and puts facts on top."""

    def __init__(self) -> None:
        self.as_of = Cursor(0, 0)
        self.cancelled: set[str] = set()
        self._facts: list[tuple[Cursor, str]] = []

    @property
    def known(self) -> Cursor:
        """The newest fact that it knows of."""
        return max([self.as_of, *(at for at, _ in self._facts)])

    def take(self, message: dict[str, Any]) -> None:
        if message["kind"] == "event" and message["type"] == "JobCancelled":
            at = Cursor.parse(message["position"])
            if at > self.as_of:
                assert message["job_id"] not in self.cancelled
                self._facts.append((at, message["job_id"]))
                self.cancelled.add(message["job_id"])
        elif message["kind"] == "snapshot":
            self.as_of = Cursor.parse(message["as_of"])
            shown = message["workflow"]["jobs"] if "workflow" in message else [message["job"]]
            self.cancelled = {job["id"] for job in shown if job["status"] == "CANCELLED"}
            self._facts = [(at, job) for at, job in self._facts if at > self.as_of]
            # A fact that the snapshot held although it says that it is from before would be here twice.
            assert not self.cancelled & {job for _, job in self._facts}
            self.cancelled |= {job for _, job in self._facts}


@pytest.mark.parametrize("view", ["workflows", "jobs"])
async def test_a_snapshot_that_is_behind_says_so_and_takes_nothing_back(
    gateway: Running, monkeypatch: pytest.MonkeyPatch, view: str
) -> None:
    submitted = await workflow(gateway, jobs=JOBS)
    jobs = [job["id"] for job in submitted["jobs"]]
    stream = f"workflow-{submitted['id']}"
    make = Snapshots._make

    async def slow(self: Snapshots, interest: Interest) -> Snapshot:
        made = await make(self, interest)
        await asyncio.sleep(0.15)
        return made

    monkeypatch.setattr(Snapshots, "_make", slow)
    client, behind, shown = Folding(), 0, [Cursor(0, 0)]
    heard: list[tuple[Cursor, set[str]]] = []
    path = f"/workflows/{submitted['id']}" if view == "workflows" else f"/jobs/{jobs[-1]}"
    async with live(gateway, f"{path}?user=ada") as socket, asyncio.timeout(30):
        client.take(orjson.loads(await socket.recv()))

        async def cancel() -> None:
            for job in jobs:
                await gateway.post(f"/jobs/{job}/cancel")

        cancelling = asyncio.create_task(cancel())
        last: Cursor | None = None
        while last is None or client.as_of < last:
            message = orjson.loads(await socket.recv())
            told = client.known
            client.take(message)
            if message["kind"] == "snapshot":
                behind += client.as_of < told
                shown.append(client.as_of)
            heard.append((client.known, set(client.cancelled)))
            if cancelling.done() and last is None:
                last = Cursor.parse((await positions(gateway, stream))[-1])
    # What it shows is what the log says up to the newest thing that it knows of.
    events = (await gateway.get(f"/workflows/{submitted['id']}/events?limit=200")).json()["items"]
    facts = [(Cursor.parse(event["position"]), event["job_id"]) for event in events if event["type"] == "JobCancelled"]
    assert len(facts) == JOBS
    watched = set(jobs) if view == "workflows" else {jobs[-1]}
    for known, cancelled in heard:
        assert cancelled == {job for at, job in facts if at <= known} & watched
    assert client.cancelled == watched
    # Snapshots alone go forward, and in a workflow of many facts some were behind.
    assert shown == sorted(shown)
    assert behind > 0 or view == "jobs"
