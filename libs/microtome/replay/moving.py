"""The log out of a database and into another, as files.

Promises: an export that did not end leaves no file behind; after an import the tables say what the log says.
Refuses: to mix two logs; see `eventlog.transfer`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from microtome.errors import NotFound
from microtome.eventlog.database import Database
from microtome.eventlog.transfer import export_lines, import_lines
from microtome.readmodels.rebuild import rebuild
from microtome.replay import output

STANDARD = Path("-")


async def export(database: Database, path: Path) -> int:
    """Write the log to a file, which is there only once it is whole, or to standard output. Returns how many events."""
    if path == STANDARD:
        count = await _write(database, sys.stdout.buffer)
        sys.stdout.buffer.flush()
        return count
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            count = await _write(database, file)
        partial.replace(path)
    except OSError as error:
        raise NotFound(f"{path} cannot be written: {error.strerror}.") from error
    finally:
        partial.unlink(missing_ok=True)
    return count


async def _write(database: Database, file: IO[bytes]) -> int:
    count = 0
    async for text in export_lines(database):
        file.write(text)
        count += 1
    return count


async def import_(database: Database, path: Path, *, json: bool) -> int:
    """Read a file into an empty log and make the tables from it."""
    with _opened(path) as file:
        came = await import_lines(database, file)
    await rebuild(database)
    if json:
        output.print_json({"events": came.events, "streams": came.streams})
    else:
        output.terminal().print(
            f"{came.events:,} events of {came.streams:,} streams imported; the tables say what they say."
        )
    return 0


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    if path == STANDARD:
        yield sys.stdin.buffer
        return
    try:
        file = path.open("rb")
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}.") from error
    with file:
        yield file
