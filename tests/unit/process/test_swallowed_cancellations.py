"""Before Python 3.12 `asyncio.wait_for` can swallow a cancellation; what must end, ends all the same."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from microtome import process
from microtome.errors import StaleAttempt
from microtome.leases import lease


async def swallows_once() -> None:
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.sleep(60)
    await asyncio.sleep(60)


async def test_end_cancels_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_AGAIN_S", 0.05)
    deaf, failed = asyncio.create_task(swallows_once()), asyncio.create_task(asyncio.sleep(0, None))
    await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        await process.end(deaf, failed)
    assert deaf.cancelled()
    assert failed.done()


async def test_until_ends_a_deaf_task_when_it_is_told_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "CANCEL_AGAIN_S", 0.05)
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, stop.set)
    async with asyncio.timeout(5):
        await process.until(stop, swallows_once())


async def test_a_body_that_lost_its_lease_is_cancelled_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "CANCEL_AGAIN_S", 0.05)

    async def beat() -> None:
        raise StaleAttempt

    async def body() -> None:
        async with lease._beating(beat, 0.01):
            await swallows_once()

    with pytest.raises(StaleAttempt):
        async with asyncio.timeout(5):
            await body()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0  # whoever cancels from outside must still be heard
    await asyncio.sleep(0)
