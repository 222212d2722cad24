"""Where everybody stands is known soon after a start, however long the log is, and said to be late until then."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from microtome.domain.limits import Limits
from microtome.eventlog.log import START, Cursor, StoredEvent
from microtome.eventlog.snapshots import PostgresSnapshots
from services.gateway import places as gateway_places
from services.gateway.beginning import at_snapshot
from services.gateway.places import Places
from services.scheduler import folding
from tests.integration.gateway.conftest import Running, registered
from tests.integration.gateway.test_workflow_life import seated
from tests.integration.gateway.test_workflows import job


class Watched:
    """The gateway's log, and from where it was read; the pages come one by one."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self.asked: list[Cursor] = []
        self.go_on = asyncio.Semaphore(0)

    async def read_all(self, after: Cursor, limit: int) -> tuple[StoredEvent, ...]:
        self.asked.append(after)
        await self.go_on.acquire()
        return tuple(await self._log.read_all(after, limit))

    async def wait(self, timeout: float) -> bool:
        return bool(await self._log.wait(timeout))


async def followed(gateway: Running, *, pages: int = 100) -> tuple[Places, Watched]:
    log = Watched(gateway.gateway.log)
    places = Places(log, Limits(), lambda: None, lambda: at_snapshot(gateway.gateway.database))  # type: ignore[arg-type]
    places.start()
    async with asyncio.timeout(5):
        while not log.asked:
            await asyncio.sleep(0.005)
        assert places.lagging
        for number in range(1, pages + 1):
            log.go_on.release()
            while len(log.asked) == number and places.lagging:
                await asyncio.sleep(0.005)
            if not places.lagging:
                break
    return places, log


async def test_a_start_goes_on_from_the_schedulers_snapshot(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slide = await registered(gateway, mpp=0.5)
    for _ in range(4):
        assert (await gateway.submit(job(slide))).status_code == 202
    # Two events to a page, and nothing counts as new.
    monkeypatch.setattr(gateway_places, "_PAGE", 2)
    monkeypatch.setattr(gateway_places, "_LAGGING", gateway_places._LAGGING * 0)
    from_start, log = await followed(gateway)
    assert log.asked[0] == START
    assert len(log.asked) >= 3
    assert len(from_start.cluster.workflows) == 4
    await from_start.stop()

    snapshots = PostgresSnapshots(gateway.gateway.database, folding.NAME, folding.FORMAT)
    state = folding.State()
    for event in await gateway.gateway.log.read_all():
        state.take(event)
    await folding.Keeping(state, snapshots).keep()
    await seated(gateway)
    resumed, log = await followed(gateway)
    assert log.asked[0] == state.cursor
    assert set(resumed.cluster.seats) == {"ada"}
    assert resumed.cluster.workflows == from_start.cluster.workflows
    await resumed.stop()

    # What cannot be read is left alone.
    await snapshots.discard()
    await snapshots.store(state.cursor, b"rubbish")
    anew, log = await followed(gateway)
    assert log.asked[0] == START
    assert anew.cluster == resumed.cluster
    await anew.stop()
