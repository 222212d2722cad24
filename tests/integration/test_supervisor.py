"""The supervisor with real servers: nothing dies for good, nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from microtome.embedded.child import Child, ProcessSpec
from microtome.embedded.home import project_root
from microtome.embedded.logfile import LogFile
from microtome.embedded.ports import Ports, PortTaken
from microtome.embedded.state import is_locked, read_running
from microtome.embedded.supervisor import SERVICES, AlreadyRunning, EmbeddedStack, StartFailed


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(condition, seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        await asyncio.sleep(0.02)


async def test_a_killed_child_starts_again_at_once(stack_home: Path) -> None:
    async with EmbeddedStack(stack_home, services=(), durable=False) as stack:
        for name in ("nats", "postgres"):
            old = stack.pid(name)
            began = time.monotonic()
            new = await stack.kill(name)
            assert time.monotonic() - began < 1.0
            assert new != old
            assert stack.restarts(name) == 1
            state = read_running(stack_home)
            assert state is not None
            assert (state.processes[name].pid, state.processes[name].restarts) == (new, 1)


async def test_shutdown_leaves_no_process_no_lock_and_no_shared_memory(stack_home: Path) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    async with EmbeddedStack(stack_home, services=(), durable=False) as stack:
        started = {child.pid for child in psutil.Process().children(recursive=True)} - before
        assert len(started) > 3  # NATS, Postgres with its helpers, the warden
        tiles = Path(json.loads((stack_home / "stack.json").read_text())["tile_store_dir"])
        (tiles / "tile").write_bytes(b"x")
        with pytest.raises(AlreadyRunning, match=str(os.getpid())):
            await EmbeddedStack(stack_home, services=(), durable=False).start()
        assert stack.pid("nats") is not None  # the refused second start did no harm
    assert not any(map(alive, started))
    assert not is_locked(stack_home)
    assert not (stack_home / "stack.json").exists()
    assert stack_home in tiles.parents or tiles not in set(tiles.parent.iterdir())


async def test_data_survive_a_restart(stack_home: Path) -> None:
    import asyncpg

    for expected in (None, "kept"):
        async with EmbeddedStack(stack_home, services=(), durable=False) as stack:
            connection = await asyncpg.connect(stack.database_url)
            await connection.execute("create table if not exists t (v text)")
            assert await connection.fetchval("select v from t") == expected
            await connection.execute("insert into t values ('kept')")
            await connection.close()


async def test_a_taken_port_is_named_with_its_setting_and_holder(stack_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        ports = replace(Ports.free(()), postgres=port)
        with pytest.raises(PortTaken) as refused:
            await EmbeddedStack(stack_home, ports=ports, services=(), durable=False).start()
    assert str(port) in refused.value.detail
    assert "POSTGRES_PORT" in refused.value.detail
    assert f"pid {os.getpid()}" in refused.value.detail
    assert not is_locked(stack_home)


async def test_a_service_that_cannot_start_is_reported_in_its_own_words(stack_home: Path) -> None:
    stack = EmbeddedStack(stack_home, services=("merger",), env={"LEASE_SECONDS": "never"}, durable=False)
    with pytest.raises(StartFailed, match="merger ends again and again") as failed:
        await stack.start()
    assert "LEASE_SECONDS" in failed.value.detail
    assert "Traceback" not in failed.value.detail
    assert not is_locked(stack_home)


class Silent:
    def announce(self, pgid: int, number: int) -> None:
        pass

    def forget(self, pgid: int) -> None:
        pass


async def test_grandchildren_go_with_their_parent(tmp_path: Path) -> None:
    spec = ProcessSpec("family", ("/bin/sh", "-c", "sleep 1000 & echo $!; wait"), os.environ, tmp_path)
    child = Child(spec, LogFile(tmp_path / "log"), Silent(), lambda: None)
    await child.start()
    await until(lambda: (tmp_path / "log").read_text().strip())
    grandchild = int((tmp_path / "log").read_text().split()[0])
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.pid not in (None, first))
    await until(lambda: not alive(grandchild), 2.0)
    await child.stop()


async def test_a_child_that_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    spec = ProcessSpec(
        "stubborn",
        (
            sys.executable,
            "-c",
            "import signal,time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)",
        ),
        os.environ,
        tmp_path,
        grace_seconds=0.3,
    )
    child = Child(spec, LogFile(tmp_path / "log"), Silent(), lambda: None)
    await child.start()
    pid = child.pid
    assert pid is not None
    await until((tmp_path / "log").read_text)
    await child.stop()
    assert not alive(pid)
    assert "killed" in (tmp_path / "log").read_text()


def _command_line(home: Path, ports: Ports) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(project_root() / "libs"), str(project_root()))),
        "MICROTOME_HOME": str(home),
        "GATEWAY_PORT": str(ports.gateway),
        "NATS_PORT": str(ports.nats),
        "POSTGRES_PORT": str(ports.postgres),
        "METRICS_BASE_PORT": str(min(ports.metrics.values())),
    }


def _contiguous() -> Ports:
    while True:
        ports = Ports.free(("one",))
        base = ports.metrics["one"]
        candidate = replace(ports, metrics={name: base + i for i, name in enumerate(SERVICES)})
        try:
            candidate.require_free()
        except PortTaken:
            continue
        return candidate


async def test_nothing_outlives_a_killed_supervisor_of_the_whole_stack(stack_home: Path) -> None:
    environment = _command_line(stack_home, _contiguous())

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "microtome.embedded", *arguments],
            env=environment, cwd=project_root(), capture_output=True, text=True, timeout=160, check=False,
        )  # fmt: skip

    try:
        up = await asyncio.to_thread(run, "up", "--detach")
        assert up.returncode == 0, up.stderr
        state = read_running(stack_home)
        assert state is not None
        assert set(state.processes) == {"nats", "postgres", *SERVICES}
        again = await asyncio.to_thread(run, "up")
        assert again.returncode == 0
        assert f"supervisor pid {state.supervisor_pid}" in again.stdout
        everything = {child.pid for child in psutil.Process(state.supervisor_pid).children(recursive=True)}
        assert len(everything) > 8

        merger = state.processes["merger"].pid
        assert merger is not None
        os.kill(merger, signal.SIGKILL)
        await until(lambda: (s := read_running(stack_home)) is not None and s.processes["merger"].restarts == 1)

        os.kill(state.supervisor_pid, signal.SIGKILL)
        await until(lambda: not is_locked(stack_home))
        await until(lambda: not any(map(alive, everything)), 2.0)

        assert (await asyncio.to_thread(run, "up", "--detach")).returncode == 0
    finally:
        down = await asyncio.to_thread(run, "down")
    assert down.returncode == 0, down.stderr
    assert not is_locked(stack_home)
    assert (await asyncio.to_thread(run, "status")).returncode == 3
