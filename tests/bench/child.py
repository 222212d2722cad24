"""A process that a benchmark asks for runs, one JSON line for each, and whose memory it watches."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.bench import machine

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A process that answers one JSON line with another, and whose memory is watched."""

    def __init__(self, *command: str) -> None:
        self._command = " ".join(command)
        environment = {**os.environ, "PYTHONPATH": f"libs{os.pathsep}.", "TQDM_DISABLE": "1"}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.hello = self._read()
        self.idle_mb = machine.peak_rss_mb(psutil.Process(self._process.pid))

    def ask(self, **wish: object) -> dict[str, Any]:
        """Run something; the answer has `peak_mb`, the largest resident set until now."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(wish) + "\n")
        self._process.stdin.flush()
        answer = self._read()
        return {**answer, "peak_mb": machine.peak_rss_mb(psutil.Process(self._process.pid))}

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            text = self._log.read().decode(errors="replace")[-2000:]
            raise SystemExit(f"{self._command} failed:\n{text}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        self._log.close()
