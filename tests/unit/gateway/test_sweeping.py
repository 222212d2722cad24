"""What is left half done is looked at in three sweeps that do not depend on each other."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from pathlib import Path

from microtome.eventlog.memory import MemoryEventLog
from microtome.tissue.store import OUTLINES
from services.gateway.sweeping import Sweeper
from services.gateway.uploads import UNRECORDED_AFTER_S, UploadStore


class Sweep:
    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.done = asyncio.Event()

    async def sweep(self) -> None:
        self.done.set()
        if self.error is not None:
            raise self.error


async def test_outlines_that_are_half_written_go_and_no_others(tmp_path: Path) -> None:
    uploads = UploadStore(tmp_path, 1000)
    uploads.open()
    folder = tmp_path / "slides" / "one" / OUTLINES
    folder.mkdir(parents=True)
    old, young, kept = (folder / name for name in ("new-old", "new-young", "ab.geojson"))
    for path in (old, young, kept):
        path.write_bytes(b"{}")
    long_ago = time.time() - 2 * UNRECORDED_AFTER_S
    for path in (old, kept):
        os.utime(path, (long_ago, long_ago))
    await Sweeper(uploads, MemoryEventLog(), Sweep(), Sweep()).sweep()  # type: ignore[arg-type]
    assert {*folder.iterdir()} == {young, kept}


async def test_a_sweep_that_fails_does_not_keep_the_next_from_being_done(tmp_path: Path) -> None:
    uploads = UploadStore(tmp_path, 1000)
    uploads.open()
    # What cannot be listed: the first of the three fails, and so does the second.
    (tmp_path / "slides").rmdir()
    completion, deletions = Sweep(OSError(errno.EIO, "Input/output error")), Sweep()
    sweeper = Sweeper(uploads, MemoryEventLog(), completion, deletions)  # type: ignore[arg-type]
    sweeper.start()
    async with asyncio.timeout(5):
        await completion.done.wait()
        await deletions.done.wait()
    await sweeper.stop()
