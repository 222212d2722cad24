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


def leave_late(path: Path) -> None:
    time.sleep(0.5)
    path.write_bytes(b"pixels")


def refuse() -> None:
    raise UnreadableSlide("The slide is damaged.")


def busy_pid() -> int:
    time.sleep(0.3)
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
    assert await innocent not in pids
    with pytest.raises(WorkerLost):
        await decoders.call_whole(os.abort)
    assert await decoders.call(os.getpid) not in pids

    # Cancelled while it runs: what it leaves is there when the caller goes on, not later.
    late = tmp_path / "late"
    running = asyncio.create_task(decoders.call_whole(leave_late, late))
    await asyncio.sleep(0.25)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await asyncio.sleep(0)
    assert late.exists()
