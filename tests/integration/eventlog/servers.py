"""A Postgres and a NATS of the test's own, which it may stop, kill and start again."""

from __future__ import annotations

import contextlib
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
        # Durable: what was acknowledged must survive a kill.
        self.postgres = Postgres(home, self.port, durable=True)
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
