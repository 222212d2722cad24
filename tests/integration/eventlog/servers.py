"""A Postgres and a NATS of the test's own, which it may stop, kill and start again."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from microtome.embedded.postgres import Postgres


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class PostgresProcess:
    def __init__(self, home: Path) -> None:
        self.home = home
        self.port = free_port()
        self.postgres = Postgres(home, self.port, durable=False)
        self.postgres.prepare()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        spec = self.postgres.spec()
        identity = {"user": spec.user, "group": spec.group, "extra_groups": []} if spec.user is not None else {}
        with (self.home / "log").open("ab") as log:
            self.process = subprocess.Popen(
                spec.argv, cwd=spec.directory, env=dict(spec.environment), stdout=log, stderr=log, **identity
            )

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        # As the supervisor does: the backends end by themselves when their parent is gone.
        time.sleep(0.2)

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.postgres.spec().stop_signal)
            self.process.wait(30)


@contextlib.contextmanager
def home_folder() -> Iterator[Path]:
    # Not pytest's folder: that is closed to the user that Postgres runs as when the tests run as root.
    home = Path(tempfile.mkdtemp(prefix="microtome-test-"))
    home.chmod(0o755)
    try:
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)


class NatsProcess:
    def __init__(self, home: Path, binary: Path) -> None:
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._argv = [str(binary), "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(home / "nats")]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            self._argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ)
        )
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                if connection.recv(4) == b"INFO":
                    return
            time.sleep(0.02)
        raise AssertionError("NATS did not start")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(10)
