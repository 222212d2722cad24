"""What is known of a running stack from outside: its lock and `stack.json`.

Promises: the lock is held exactly while any process of the stack may live (the warden shares
it), and `stack.json` is replaced, never half-written.
Refuses: to trust a file whose lock is free.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One supervised process. `pid` is None between a death and the restart."""

    pid: int | None
    restarts: int
    log: str
    metrics_url: str | None = None


@dataclass(frozen=True, slots=True)
class StackState:
    """Addresses and pids of a stack; `state` is what its supervisor is doing."""

    state: Literal["starting", "ready", "stopping"]
    supervisor_pid: int
    url: str
    database_url: str
    nats_url: str
    data_dir: str
    tile_store_dir: str
    processes: Mapping[str, ProcessState] = field(default_factory=dict)

    def write(self, home: Path) -> None:
        """Replace `stack.json` (mode 0600: it holds passwords)."""
        partial = home / "stack.json.partial"
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(asdict(self), file, indent=2)
        partial.replace(home / "stack.json")


def read_running(home: Path) -> StackState | None:
    """The state of the stack of `home`, None when none runs or none has said anything yet."""
    if not is_locked(home):
        return None
    try:
        raw: dict[str, Any] = json.loads((home / "stack.json").read_text())
    except FileNotFoundError:
        return None
    processes = {name: ProcessState(**process) for name, process in raw.pop("processes").items()}
    return StackState(**raw, processes=processes)


class StackLock:
    """The lock of one home: a lock file with the supervisor's pid, freed by the kernel when all holders are gone."""

    def __init__(self, home: Path) -> None:
        self._path = home / "stack.lock"
        self._descriptor: int | None = None

    @property
    def descriptor(self) -> int:
        """The open file, to be inherited by the warden."""
        assert self._descriptor is not None
        return self._descriptor

    def acquire(self) -> bool:
        """Take the lock if it is free."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Let go; free once the warden has gone too."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def is_locked(home: Path) -> bool:
    """Whether a stack of this home is alive, or its warden is still cleaning up."""
    path = home / "stack.lock"
    if not path.exists():
        return False
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_holder(home: Path) -> int | None:
    """The pid written into the lock, None when there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((home / "stack.lock").read_text())
    return None
