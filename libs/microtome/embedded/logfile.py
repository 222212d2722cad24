"""Log files of bounded size.

Promises: at most `2 * limit` bytes on disk for each child process: the current file and the one before.
Refuses: to interpret what it writes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import BinaryIO

LIMIT = 5 * 1024 * 1024


class LogFile:
    """The output of one child process; with `echo` also shown on stderr, each line prefixed."""

    def __init__(self, path: Path, *, limit: int = LIMIT, echo: str | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._limit = limit
        self._prefix = None if echo is None else f"{echo:<9} | ".encode()
        self._partial = b""
        self._file: BinaryIO = path.open("ab")

    def write(self, chunk: bytes) -> None:
        """Append a chunk; move the file to `<name>.1` when it is full."""
        if self._file.closed:
            return
        if self._file.tell() + len(chunk) > self._limit:
            self._file.close()
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            self._file = self.path.open("ab")
        self._file.write(chunk)
        self._file.flush()
        if self._prefix is not None:
            self._show(chunk)

    def _show(self, chunk: bytes) -> None:
        *lines, self._partial = (self._partial + chunk).split(b"\n")
        for line in lines:
            sys.stderr.buffer.write((self._prefix or b"") + line + b"\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Close the file; later writes are dropped."""
        self._file.close()


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for error messages; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 16_384))
        text = file.read().decode(errors="replace")
    return "\n".join(text.splitlines()[-lines:])


def last_words(path: Path, lines: int = 8) -> str:
    """Return the end of the log for a person: the last run only, records as text, tracebacks as their last line."""
    words: list[str] = []
    ended: list[str] = []
    for line in tail(path, 60).splitlines():
        if line.startswith("[supervisor] ended"):
            ended = words
            words = []
        else:
            words.append(_text(line))
    return "\n".join((words or ended)[-lines:])


def _text(line: str) -> str:
    try:
        record = json.loads(line)
    except ValueError:
        return line[:500]
    if not isinstance(record, dict):
        return line[:500]
    message = str(record.get("message", ""))
    if message.startswith("Traceback"):
        message = message.strip().splitlines()[-1]
    exception = str(record.get("exception", "")).strip().splitlines()[-1:]
    return f"{record.get('level', '')}: {': '.join([message, *exception])}"[:500]
