"""Command line of the embedded stack: `python -m microtome.embedded up|down|status`.

Promises: `up` of a stack that runs says where it is and succeeds; `down` returns when nothing is left.
Refuses: to end a stack of another home.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from microtome.embedded.home import default_home, project_root
from microtome.embedded.logfile import tail
from microtome.embedded.ports import Ports
from microtome.embedded.state import StackState, is_locked, lock_holder, read_running
from microtome.embedded.supervisor import SERVICES, AlreadyRunning, EmbeddedStack
from microtome.errors import MicrotomeError

UP_SECONDS = 150.0
DOWN_SECONDS = 60.0


def main() -> int:
    """Run one command; the exit status is 0 if what was asked for holds."""
    parser = argparse.ArgumentParser(prog="python -m microtome.embedded", description="The embedded Microtome stack.")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start the stack and keep it up until Ctrl-C")
    up.add_argument("--detach", action="store_true", help="return when it is ready; `down` ends it")
    commands.add_parser("down", help="stop the stack")
    commands.add_parser("status", help="say what runs where; exit status 3 if nothing runs")
    arguments = parser.parse_args()
    home = default_home()
    try:
        if arguments.command == "down":
            return down(home)
        if arguments.command == "status":
            return status(home)
        return up_detached(home) if arguments.detach else asyncio.run(up_here(home))
    except MicrotomeError as error:
        print(f"error: {error.detail}", file=sys.stderr)
        return 1


async def up_here(home: Path) -> int:
    """Run the stack in this process until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, stop.set)
    stack = EmbeddedStack(home, ports=Ports.from_environment(os.environ, SERVICES), echo=sys.stderr.isatty())
    starting = asyncio.create_task(stack.start())
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            return 0
        await starting
        for note in stack.notes:
            print(note)
        print(f"Microtome is up: {stack.url}   (logs: {home / 'logs'})", flush=True)
        await stopping
        print("Stopping …", flush=True)
    except AlreadyRunning:
        return report_running(home)
    finally:
        stopping.cancel()
        await stack.stop()
    return 0


def up_detached(home: Path) -> int:
    """Start the stack in a process of its own and return when it is ready."""
    if is_locked(home) and read_running(home) is not None:
        return report_running(home)
    log = home / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "microtome.embedded", "up"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=project_root(),
            start_new_session=True,
        )
    deadline = time.monotonic() + UP_SECONDS
    while time.monotonic() < deadline:
        state = read_running(home)
        if state is not None and state.state == "ready":
            return report_running(home)
        if process.poll() is not None:
            print(tail(log, 40), file=sys.stderr)
            return 1
        time.sleep(0.1)
    print(f"error: not ready after {UP_SECONDS:g} s; see {home / 'logs'}", file=sys.stderr)
    return 1


def down(home: Path) -> int:
    """Stop the stack of `home` and wait until its lock is free."""
    if not is_locked(home):
        print("Nothing is running.")
        return 0
    holder = lock_holder(home)
    if holder is not None:
        # A supervisor that is gone was killed: its warden is cleaning up, the lock says when it is done.
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_SECONDS
    while is_locked(home):
        if time.monotonic() > deadline:
            print(f"error: still running after {DOWN_SECONDS:g} s (supervisor pid {holder})", file=sys.stderr)
            return 1
        time.sleep(0.05)
    print("Stopped.")
    return 0


def status(home: Path) -> int:
    """Print what runs."""
    state = read_running(home)
    if state is None:
        print("Nothing is running.")
        return 3
    print(f"{state.state}: {state.url}   supervisor pid {state.supervisor_pid}, home {home}")
    for name, process in state.processes.items():
        running = f"pid {process.pid}" if process.pid else "starting again"
        print(f"  {name:<12} {running:<16} restarts {process.restarts:<4} {process.log}")
    return 0


def report_running(home: Path) -> int:
    """Wait for a stack that somebody else started and say where it is."""
    state = wait_running(home)
    if state is None:
        print(
            f"error: a stack of {home} holds the lock but does not become ready; see {home / 'logs'}", file=sys.stderr
        )
        return 1
    print(f"Microtome is up: {state.url}   (supervisor pid {state.supervisor_pid}, logs: {home / 'logs'})")
    return 0


def wait_running(home: Path, timeout_seconds: float = UP_SECONDS) -> StackState | None:
    """The state of a running stack once it is ready; None if it is gone or not ready in time."""
    deadline = time.monotonic() + timeout_seconds
    while is_locked(home) and time.monotonic() < deadline:
        state = read_running(home)
        if state is not None and state.state == "ready":
            return state
        time.sleep(0.1)
    return None


if __name__ == "__main__":
    sys.exit(main())
