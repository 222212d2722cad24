"""The supervisor: starts NATS, Postgres and the services, keeps them alive, ends them in order.

Promises: a second stack on the same home is refused (`AlreadyRunning`); what dies is started
again; a stop ends the services before the servers they need; should the supervisor be killed,
its warden ends everything.
Refuses: to install signal handlers or to talk to the terminal; that is the command line's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import httpx

from microtome.embedded import home as folders
from microtome.embedded import warden
from microtome.embedded.child import Child, ProcessSpec
from microtome.embedded.environment import service_environment
from microtome.embedded.logfile import LogFile, last_words
from microtome.embedded.nats import Nats
from microtome.embedded.ports import LOOPBACK, Ports
from microtome.embedded.postgres import Postgres
from microtome.embedded.state import ProcessState, StackLock, StackState, lock_holder
from microtome.errors import Conflict, Unavailable
from microtome.segmentation.model import preferred_model

SERVICES = ("gateway", "scheduler", "tiler", "inference", "merger")
DEATHS_UNTIL_GIVING_UP = 3
LOCK_PATIENCE_SECONDS = 15.0


class AlreadyRunning(Conflict):
    """A stack of this home is running."""

    code = "already-running"


class StartFailed(Unavailable):
    """A part of the stack did not come up; the detail ends with its log."""

    code = "start-failed"


class EmbeddedStack:
    """The whole stack as an async context manager.

    `services` are names of `services.<name>`; a further instance is `"tiler:2"`. `ports=None`
    picks free ports. `env` goes to every service, `service_env` to one. `command` runs the
    module named after it. `durable=False` switches fsync off in Postgres, for tests.
    """

    def __init__(
        self,
        home: Path,
        *,
        ports: Ports | None = None,
        env: Mapping[str, str] | None = None,
        service_env: Mapping[str, Mapping[str, str]] | None = None,
        services: Sequence[str] = SERVICES,
        command: Sequence[str] = (sys.executable, "-m"),
        echo: bool = False,
        durable: bool = True,
        ready_seconds: float = 120.0,
    ) -> None:
        self.home = home.resolve()
        self.ports = ports or Ports.free(services)
        self.notes: list[str] = []
        self.data_dir = self.home / "data"
        self._services = tuple(services)
        # Decided once: importing a model while services start again one by one must not give them different ones.
        model = os.environ.get("INSTANSEG_MODEL") or preferred_model()
        self._environment = {"INSTANSEG_MODEL": model, **(env or {})}
        self._service_environment = service_env or {}
        self._command = tuple(command)
        self._echo = echo
        self._durable = durable
        self._ready_seconds = ready_seconds
        self._lock: StackLock | None = None
        self._warden: subprocess.Popen[bytes] | None = None
        self._children: dict[str, Child] = {}
        self._state: Literal["starting", "ready", "stopping"] = "starting"
        self._nats: Nats | None = None
        self._postgres: Postgres | None = None
        self._tile_store: tuple[Path, bool] | None = None

    # -- what is running -------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The gateway's address, without a slash at the end."""
        return f"http://{LOOPBACK}:{self.ports.gateway}"

    @property
    def database_url(self) -> str:
        """Of the database `microtome`."""
        assert self._postgres is not None, "the stack is not started"
        return self._postgres.url()

    @property
    def nats_url(self) -> str:
        """With the password."""
        assert self._nats is not None, "the stack is not started"
        return self._nats.url

    def pid(self, name: str) -> int | None:
        """The pid of a child now; None between its death and its restart."""
        return self._children[name].pid

    def restarts(self, name: str) -> int:
        """How often a child was started again."""
        return self._children[name].restarts

    def log(self, name: str) -> Path:
        """The log file of a child."""
        return self._children[name].log.path

    # -- life ------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start everything and return when it is ready.

        Raises AlreadyRunning, PortTaken, ConfigurationError, or StartFailed; in each case nothing is left running.
        """
        self.home.mkdir(parents=True, exist_ok=True)
        await self._acquire()
        try:
            self.ports.require_free(self._environment.get("GATEWAY_HOST", LOOPBACK))
            await self._start_servers()
            await self._start_services()
            self._state = "ready"
            self._publish()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the services, then NATS and Postgres; return when all are gone and the lock is free."""
        if self._lock is None:
            return
        self._state = "stopping"
        self._publish()
        await self._stop_children(self._services)
        await self._stop_children(("nats", "postgres"))
        if self._tile_store is not None and self._tile_store[1]:
            shutil.rmtree(self._tile_store[0], ignore_errors=True)
        if self._warden is not None:
            assert self._warden.stdin is not None
            self._warden.stdin.close()
            await asyncio.to_thread(self._warden.wait)
        (self.home / "stack.json").unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    async def kill(self, name: str, timeout_seconds: float = 30.0) -> int:
        """Kill a child with SIGKILL, wait for its restart, return the new pid. Raises Unavailable after the timeout."""
        old = self.pid(name)
        if old is not None:
            os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + timeout_seconds
        while (new := self.pid(name)) in (None, old):
            if time.monotonic() > deadline:
                raise Unavailable(f"{name} was not started again within {timeout_seconds:g} s.")
            await asyncio.sleep(0.01)
        assert new is not None
        return new

    def set_environment(self, name: str, additions: Mapping[str, str]) -> None:
        """Choose what a service is told besides, from its next start on; what an earlier call chose is forgotten."""
        spec = self._service_spec(name)
        self._children[name].spec = replace(spec, environment={**spec.environment, **additions})

    async def wait_ready(self, name: str, timeout_seconds: float | None = None) -> None:
        """Return when a service answers on its health page. Raises StartFailed with the end of its log."""
        child = self._children[name]
        health = self._health_url(name)
        limit = self._ready_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + limit
        deaths = child.failures
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while True:
                with contextlib.suppress(httpx.HTTPError):
                    if child.pid is not None and (await client.get(health)).status_code == httpx.codes.OK:
                        return
                if child.failures - deaths >= DEATHS_UNTIL_GIVING_UP:
                    raise StartFailed(
                        f"{name} ends again and again (exit {child.last_exit}):\n{last_words(child.log.path)}"
                    )
                if time.monotonic() > deadline:
                    raise StartFailed(f"{name} is not ready after {limit:g} s:\n{last_words(child.log.path)}")
                await asyncio.sleep(0.1)

    # -- watch: the warden's protocol --------------------------------------------------------

    def announce(self, pgid: int, number: int) -> None:
        """Tell the warden of a process group."""
        self._tell(f"+{pgid} {int(number)}\n")

    def forget(self, pgid: int) -> None:
        """Tell the warden that a group is gone."""
        self._tell(f"-{pgid}\n")

    # -- parts -----------------------------------------------------------------------------

    async def _acquire(self) -> None:
        lock = StackLock(self.home)
        deadline = time.monotonic() + LOCK_PATIENCE_SECONDS
        while not lock.acquire():
            holder = lock_holder(self.home)
            # A dead holder means that its warden is cleaning up: that is over soon.
            if holder is not None and _exists(holder) and time.monotonic() > deadline - LOCK_PATIENCE_SECONDS + 0.3:
                raise AlreadyRunning(f"A stack of {self.home} is already running (supervisor pid {holder}).")
            if time.monotonic() > deadline:
                raise AlreadyRunning(f"The lock of {self.home} is not released.")
            await asyncio.sleep(0.05)
        self._lock = lock
        self._warden = subprocess.Popen(  # noqa: ASYNC220, S603 - returns as soon as our own program is executed
            [sys.executable, "-I", "-S", warden.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=(lock.descriptor,),
        )

    async def _start_servers(self) -> None:
        self._nats = Nats(
            self.home, self.ports.nats, folders.project_root() / "deploy" / "nats.conf", self.ports.nats_monitoring
        )
        self._postgres = Postgres(self.home, self.ports.postgres, durable=self._durable)
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._tile_store = folders.tile_store(self.home, self.data_dir, self._environment)
        if self._tile_store[1]:
            self._tell(f"r{self._tile_store[0]}\n")
        await self._launch(self._nats.spec())
        note = await asyncio.to_thread(self._postgres.prepare)
        if note:
            self.notes.append(note)
        await self._launch(self._postgres.spec())
        try:
            await asyncio.gather(self._nats.wait_ready(), self._postgres.wait_ready())
        except Unavailable as error:
            logs = "\n".join(last_words(self.log(name)) for name in ("nats", "postgres"))
            raise StartFailed(f"{error.detail}\n{logs}") from error

    async def _start_services(self) -> None:
        for name in self._services:
            await self._launch(self._service_spec(name))
        waiting = [asyncio.create_task(self.wait_ready(name)) for name in self._services]
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    def _service_spec(self, name: str) -> ProcessSpec:
        assert self._tile_store is not None
        service = name.split(":", maxsplit=1)[0]
        environment = service_environment(
            service,
            root=folders.project_root(),
            addresses={
                "MICROTOME_DATABASE_URL": self.database_url,
                "MICROTOME_NATS_URL": self.nats_url,
                "MICROTOME_DATA_DIR": str(self.data_dir),
                "TILE_STORE_DIR": str(self._tile_store[0]),
                "METRICS_PORT": str(self.ports.metrics[name]),
                "GATEWAY_PORT": str(self.ports.gateway),
            },
            overrides={**self._environment, **self._service_environment.get(name, {})},
        )
        return ProcessSpec(
            name=name,
            argv=(*self._command, f"services.{service}"),
            environment=environment,
            directory=folders.project_root(),
        )

    async def _launch(self, spec: ProcessSpec) -> None:
        log = LogFile(self.home / "logs" / f"{spec.name.replace(':', '-')}.log", echo=spec.name if self._echo else None)
        child = Child(spec, log, self, self._publish)
        self._children[spec.name] = child
        await child.start()

    async def _stop_children(self, names: Iterable[str]) -> None:
        stops = [self._children[name].stop() for name in names if name in self._children]
        await asyncio.gather(*stops)

    def _health_url(self, name: str) -> str:
        if name.split(":", maxsplit=1)[0] == "gateway":
            return f"{self.url}/api/v1/health"
        return f"http://{LOOPBACK}:{self.ports.metrics[name]}/metrics"

    def _tell(self, line: str) -> None:
        assert self._warden is not None
        assert self._warden.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the warden was killed: nothing to tell it to
            self._warden.stdin.write(line.encode())
            self._warden.stdin.flush()

    def _publish(self) -> None:
        if self._lock is None or self._nats is None or self._postgres is None or self._tile_store is None:
            return
        processes = {
            name: ProcessState(
                pid=child.pid,
                restarts=child.restarts,
                log=str(child.log.path),
                metrics_url=f"http://{LOOPBACK}:{self.ports.metrics[name]}/metrics"
                if name in self.ports.metrics
                else None,
            )
            for name, child in self._children.items()
        }
        StackState(
            state=self._state,
            supervisor_pid=os.getpid(),
            url=self.url,
            database_url=self.database_url,
            nats_url=self.nats_url,
            data_dir=str(self.data_dir),
            tile_store_dir=str(self._tile_store[0]),
            processes=processes,
        ).write(self.home)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
