"""The warden: outlives a supervisor that was killed, and kills what it left behind.

A program of its own, run by path with nothing but the standard library. The supervisor holds
the write end of its standard input; when that ends, the supervisor is gone, however it died.
Lines: `+<pgid> <signal>` (watch a process group), `-<pgid>` (forget it), `r<path>` (a folder in
shared memory to remove). It inherits the lock of the stack, so that the lock is free only when
nothing of the stack is left.

Promises: no process group that was announced survives its supervisor by more than the grace time.
Refuses: to touch anything that was not announced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time

GRACE_SECONDS = 5.0


def main() -> None:
    """Follow standard input until it ends, then clean up."""
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    groups: dict[int, int] = {}
    folders: list[str] = []
    for line in sys.stdin:
        kind, rest = line[0], line[1:].rstrip("\n")
        if kind == "+":
            pgid, number = rest.split()
            groups[int(pgid)] = int(number)
        elif kind == "-":
            groups.pop(int(rest), None)
        elif kind == "r":
            folders.append(rest)
    # Services first: they get SIGKILL, which their design survives; the servers get their own polite signal.
    for pgid, number in sorted(groups.items(), key=lambda item: item[1] != signal.SIGKILL):
        _signal(pgid, number)
    deadline = time.monotonic() + GRACE_SECONDS
    while any(map(_alive, groups)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pgid in groups:
        _signal(pgid, signal.SIGKILL)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _signal(pgid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, number)


def _alive(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pgid)


def _is_zombie(pid: int) -> bool:
    # In a container whose first process reaps nobody, the dead stay listed.
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - pathlib would double the start time
            return file.read().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False


if __name__ == "__main__":
    main()
