"""The processes that read slides: warm at once, and a crash costs what was in them, no more."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from microtome.errors import UnreadableSlide, WorkerLost
from services.tiler.decoders import Decoders
from services.tiler.planning import SlideSource


def leave_late(path: Path) -> None:
    time.sleep(0.5)
    path.write_bytes(b"pixels")


def refuse() -> None:
    raise UnreadableSlide("The slide is damaged.")


def busy_pid() -> int:
    time.sleep(0.3)
    return os.getpid()


def pid_of(_source: SlideSource, seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()


@pytest.fixture
async def decoders() -> AsyncIterator[Decoders]:
    decoders = Decoders(2)
    await decoders.start()
    yield decoders
    decoders.close()


async def test_decoders_work_side_by_side_and_outlive_a_crash(decoders: Decoders, tmp_path: Path) -> None:
    began = time.monotonic()
    pids = set(await asyncio.gather(decoders.call(busy_pid), decoders.call(busy_pid)))
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert time.monotonic() - began < 5

    with pytest.raises(UnreadableSlide, match="damaged"):
        await decoders.call(refuse)
    innocent = asyncio.create_task(decoders.call(busy_pid))
    with pytest.raises(WorkerLost):
        await decoders.call(os.abort)
    # The other one lives on.
    assert await innocent in pids
    with pytest.raises(WorkerLost):
        await decoders.call_whole(os.abort)
    after = await asyncio.gather(decoders.call(busy_pid), decoders.call(busy_pid))
    assert len(set(after)) == 2
    assert len(pids.intersection(after)) < 2

    # Cancelled while it runs: what it leaves is there when the caller goes on, not later.
    late = tmp_path / "late"
    running = asyncio.create_task(decoders.call_whole(leave_late, late))
    await asyncio.sleep(0.25)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert late.exists()


async def test_a_slide_goes_to_the_decoder_that_knows_it_but_waits_for_no_busy_one(decoders: Decoders) -> None:
    one, other = (SlideSource(tenant="u", path=Path(name), sha256=name, mpp=0.5) for name in ("one", "other"))
    first, second = await decoders.call(pid_of, one, 0.0), await decoders.call(pid_of, other, 0.0)
    assert first != second
    for _ in range(3):
        assert await decoders.call(pid_of, one, 0.0) == first
        assert await decoders.call(pid_of, other, 0.0) == second
    busy = asyncio.create_task(decoders.call(pid_of, one, 0.5))
    await asyncio.sleep(0.1)
    assert await decoders.call(pid_of, one, 0.0) == second
    busy.cancel()
    await asyncio.sleep(0)
    # It is busy still, though nobody waits for it.
    assert await decoders.call(pid_of, other, 0.0) == second
