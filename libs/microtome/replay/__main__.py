"""`python -m microtome.replay COMMAND`: see `--help`.

Promises: errors are one line on standard error and exit status 2; a reader that closes the pipe early (`| head`) ends
it quietly. Refuses: to write to a log or its tables without being told twice.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

import asyncpg

from microtome.errors import MicrotomeError
from microtome.replay import output
from microtome.replay.arguments import PROGRAM, parser
from microtome.replay.commands import COMMANDS

# What a shell reports of a program that SIGPIPE or SIGINT ended.
_BROKEN_PIPE = 141
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return the exit status."""
    try:
        try:
            status = _run(parser().parse_args(arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes standard output once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except KeyboardInterrupt:
        return _INTERRUPTED
    return status


def _run(arguments: argparse.Namespace) -> int:
    try:
        return asyncio.run(COMMANDS[arguments.command](arguments))
    except MicrotomeError as error:
        output.remark(f"{PROGRAM}: {error.detail}")
    except asyncpg.PostgresError as error:
        output.remark(f"{PROGRAM}: the database is not as this version of the program needs it: {error}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
