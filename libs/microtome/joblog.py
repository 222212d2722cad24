"""What happened to a job, in words for the user who submitted it.

One file for each attempt, `<data dir>/logs/<job_id>/<attempt>.jsonl`: a JSON object a line with `time` (RFC 3339, UTC),
`level` (info, warning, error), `service`, `message`, and whatever else a line is about.
Promises: lines of several processes do not mix; a file is at most a megabyte long, and says so when lines are missing.
Logs stay when a job's artifacts are deleted, as its history and its numbers do.
Refuses: to fail a job. A line that cannot be written is a warning in the service's own log.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson

log = logging.getLogger(__name__)

FOLDER = "logs"
LONGEST_FILE = 1_000_000
# Kept free for the line that says that lines are missing.
_RESERVE = 400
LONGEST_MESSAGE = 4_000

Level = Literal["info", "warning", "error"]


@dataclass(frozen=True, slots=True)
class JobLine:
    """One line: of which attempt it is, and what it says."""

    attempt: int
    content: dict[str, Any]


class JobLog:
    """The logs of all jobs, below `<data_dir>/logs`."""

    def __init__(self, data_dir: Path, service: str = "") -> None:
        """`service`: who writes here."""
        self._root = data_dir / FOLDER
        self._service = service

    def write(self, job_id: str, attempt: int, message: str, /, *, level: Level = "info", **about: object) -> None:
        """Add a line. `about`: what JSON can hold; anything else is written as its repr."""
        content = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "service": self._service,
            "message": message[:LONGEST_MESSAGE],
            **about,
        }
        try:
            self._append(self._file(job_id, attempt), content)
        except (OSError, ValueError, TypeError) as error:
            log.warning("a line of a job's log is lost: %s", error, extra={"job_id": job_id, "attempt": attempt})

    def read(self, job_id: str) -> Iterator[JobLine]:
        """Yield the lines of all attempts in their order; none for a job that never started."""
        folder = self._root / _checked(job_id)
        files = [(int(path.stem), path) for path in folder.glob("*.jsonl") if path.stem.isdecimal()]
        for attempt, path in sorted(files):
            for line in path.read_bytes().splitlines():
                try:
                    content = orjson.loads(line)
                except orjson.JSONDecodeError:  # a crash in the middle of a line
                    continue
                if isinstance(content, dict):
                    yield JobLine(attempt, content)

    def _file(self, job_id: str, attempt: int) -> Path:
        return self._root / _checked(job_id) / f"{attempt}.jsonl"

    def _append(self, path: Path, content: dict[str, Any]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            # A stale attempt may still write a line while the next one begins.
            fcntl.flock(handle, fcntl.LOCK_EX)
            line = _line(content)
            left = LONGEST_FILE - _RESERVE - os.fstat(handle).st_size
            if left < 0:
                return
            if len(line) > left:
                full = {"level": "warning", "message": "This log is full; what happened later is not in it."}
                # With spaces over the border, so that it is the last.
                line = _line({key: content[key] for key in ("time", "service")} | full)[:-1].ljust(left) + b"\n"
            os.write(handle, line)
        finally:
            os.close(handle)


def _line(content: dict[str, Any]) -> bytes:
    return orjson.dumps(content, default=repr, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)


def _checked(job_id: str) -> str:
    if not job_id or job_id in (".", "..") or "/" in job_id or "\0" in job_id:
        raise ValueError(f"not a job id: {job_id!r}")
    return job_id
