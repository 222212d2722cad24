"""One supervised child process.

Promises: a child that dies is started again, the first time at once, then with a capped
backoff; each child leads its own process group, and the whole group is gone before the next
start and after a stop.
Refuses: to know what the child is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from microtome.embedded.logfile import LogFile

STEADY_SECONDS = 30.0
BACKOFF_CAP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """How to start and stop one child. `user` and `group` are ids to run under, None for our own."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: Path
    stop_signal: signal.Signals = signal.SIGTERM
    orphan_signal: signal.Signals = signal.SIGKILL
    grace_seconds: float = 10.0
    user: int | None = None
    group: int | None = None


class Watch(Protocol):
    """Who must know of every process group: the warden's side of the supervisor."""

    def announce(self, pgid: int, number: int) -> None:
        """A group was started; `number` is the signal for it should we die."""

    def forget(self, pgid: int) -> None:
        """The group is gone."""


def backoff_seconds(failures: int) -> float:
    """Wait before the restart after `failures` deaths in a row: 0, 0.5, 1, 2, … at most 10 s."""
    if failures <= 1:
        return 0.0
    return min(BACKOFF_CAP_SECONDS, 0.5 * 2.0 ** min(failures - 2, 10))


class Child:
    """A process that is kept alive until `stop`."""

    def __init__(self, spec: ProcessSpec, log: LogFile, watch: Watch, changed: Callable[[], None]) -> None:
        self.spec = spec
        self.log = log
        self.restarts = 0
        self.failures = 0
        self.last_exit: int | None = None
        self._watch = watch
        self._changed = changed
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._stopping = False
        self._read_ends: set[int] = set()

    @property
    def pid(self) -> int | None:
        """The pid of the running process, None between a death and the restart."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Start the process and keep it alive from now on. Raises OSError if it cannot be executed."""
        started = time.monotonic()
        await self._spawn()
        self._keeper = asyncio.create_task(self._keep(started), name=f"keep {self.spec.name}")

    async def stop(self) -> None:
        """Ask the process to end, kill its group after the grace time, return when it is gone."""
        self._stopping = True
        process, keeper = self._process, self._keeper
        if keeper is None:
            self.log.close()
            return
        if process is None:
            keeper.cancel()
        else:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(self.spec.stop_signal)
            await asyncio.wait({keeper}, timeout=self.spec.grace_seconds)
            if not keeper.done():
                self.log.write(f"[supervisor] no end within {self.spec.grace_seconds:g} s, killed\n".encode())
                _kill_group(process.pid)
        with contextlib.suppress(asyncio.CancelledError):
            await keeper
        if self._process is not None:  # cancelled in the middle of a restart
            _kill_group(self._process.pid)
            await self._process.wait()
            self._watch.forget(self._process.pid)
            self._process = None
        self._unfollow()
        self.log.close()

    async def _spawn(self) -> None:
        read_end, write_end = os.pipe()
        identity: dict[str, object] = {}
        if self.spec.user is not None:
            identity = {"user": self.spec.user, "group": self.spec.group, "extra_groups": []}
        try:
            process = await asyncio.create_subprocess_exec(
                *self.spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_end,
                stderr=write_end,
                env=dict(self.spec.environment),
                cwd=self.spec.directory,
                start_new_session=True,
                **identity,  # type: ignore[arg-type]
            )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        self._process = process
        self._watch.announce(process.pid, self.spec.orphan_signal)
        self._follow(read_end)
        self._changed()

    def _follow(self, read_end: int) -> None:
        # Our own pipe, not asyncio's: a grandchild that holds it open must not delay the news of a death.
        os.set_blocking(read_end, False)
        self._read_ends.add(read_end)
        loop = asyncio.get_running_loop()

        def readable() -> None:
            try:
                chunk = os.read(read_end, 65_536)
            except BlockingIOError:
                return
            if chunk:
                self.log.write(chunk)
            else:
                self._unfollow(read_end)

        loop.add_reader(read_end, readable)

    def _unfollow(self, *read_ends: int) -> None:
        for read_end in read_ends or tuple(self._read_ends):
            self._read_ends.discard(read_end)
            asyncio.get_running_loop().remove_reader(read_end)
            os.close(read_end)

    async def _keep(self, started: float) -> None:
        while True:
            process = self._process
            assert process is not None
            self.last_exit = await process.wait()
            _kill_group(process.pid)
            self._process = None
            self._watch.forget(process.pid)
            await asyncio.sleep(0.01)  # the last output is in the pipe: let its reader run
            if self._stopping:
                return
            self.failures = 1 if time.monotonic() - started > STEADY_SECONDS else self.failures + 1
            pause = backoff_seconds(self.failures)
            self.log.write(f"[supervisor] ended with {self.last_exit}, starts again in {pause:g} s\n".encode())
            self._changed()
            started = await self._respawn(pause)
            self.restarts += 1
            self._changed()

    async def _respawn(self, pause: float) -> float:
        while True:
            await asyncio.sleep(pause)
            started = time.monotonic()
            try:
                await self._spawn()
            except OSError as error:
                self.failures += 1
                pause = backoff_seconds(self.failures)
                self.log.write(f"[supervisor] cannot start: {error}; again in {pause:g} s\n".encode())
            else:
                return started


def _kill_group(pgid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pgid, signal.SIGKILL)
