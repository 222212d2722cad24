"""The named semaphores of the decoding processes, which outlive a tiler that is killed.

Promises: those of tilers that are gone from this machine are removed at the next start of one.
Refuses: to touch a semaphore that does not carry a tiler's name and process id.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from pathlib import Path

import psutil

# Where Linux keeps them; other systems show them nowhere.
FOLDER = Path("/dev/shm")  # noqa: S108 - the kernel's place, not one that was chosen
_PREFIX = "microtome-tiler"


def name_own() -> None:
    """Let every semaphore that multiprocessing makes from now on begin with the name and id of this process."""
    config: dict[str, object] = getattr(multiprocessing.current_process(), "_config", {})
    config["semprefix"] = f"/{_PREFIX}-{os.getpid()}"


def clear(folder: Path = FOLDER) -> int:
    """Remove what tilers left behind that do not run any more; return how many. Call before any is made here."""
    cleared = 0
    for path in folder.glob(f"sem.{_PREFIX}-*-*"):
        pid = path.name.removeprefix(f"sem.{_PREFIX}-").partition("-")[0]
        # One with this process's id was left by another before it, in a container that begins to count anew.
        if pid.isdecimal() and (int(pid) == os.getpid() or not psutil.pid_exists(int(pid))):
            with contextlib.suppress(FileNotFoundError, PermissionError):
                path.unlink()
                cleared += 1
    return cleared
