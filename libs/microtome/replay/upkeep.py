"""The tables against the log: compared, made anew.

Promises: says what it did and how fast. Refuses: to write without having been told so twice.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from urllib.parse import urlsplit

import orjson

from microtome.errors import ConfigurationError
from microtome.eventlog.database import Database
from microtome.eventlog.rebase import foreign_events
from microtome.eventlog.rebase import rebase as renumber
from microtome.readmodels.rebuild import Difference
from microtome.readmodels.rebuild import rebuild as rebuild_tables
from microtome.readmodels.rebuild import verify as verify_tables
from microtome.replay import output
from microtome.replay.describe import counted, span

__all__ = ["ask", "foreign_events", "name", "rebase", "rebuild", "verify"]

_SHOWN = 20


def name(url: str) -> str:
    """A database in words, without its password."""
    parts = urlsplit(url)
    return f"{parts.path.lstrip('/')!r} at {parts.hostname or 'localhost'}{f':{parts.port}' if parts.port else ''}"


def ask(question: str, *, yes: bool) -> None:
    """Return if the answer is yes. Raises `ConfigurationError` when it is not, or when there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question} There is nobody to ask; say --yes.")
    output.remark(f"{question} [y/N] ")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ConfigurationError("Nothing was done.")


async def verify(database: Database, *, json: bool) -> int:
    """Compare the tables with the log, print the rows that differ; 1 if there are any."""
    began = time.perf_counter()
    differences = await verify_tables(database)
    seconds = time.perf_counter() - began
    if json:
        output.print_json(
            {
                "equal": not differences,
                "seconds": round(seconds, 3),
                "differences": [
                    {"table": each.table, "side": each.side, "row": orjson.loads(each.row)} for each in differences
                ],
            }
        )
    elif differences:
        _draw(differences)
    else:
        output.terminal().print(f"Every row of every table is what the log says ({span(seconds)}).")
    return 1 if differences else 0


def _draw(differences: tuple[Difference, ...]) -> None:
    console = output.terminal()
    counts = Counter(f"in {each.table} that only the {each.side} has" for each in differences)
    console.print(f"The tables and the log differ. Rows: {counted(counts)}.\n", style="bold red")
    for each in differences[:_SHOWN]:
        side = "− table" if each.side == "table" else "+ log  "
        console.print(f"{side} {each.table}: {each.row}", style="red" if each.side == "table" else "green")
    if len(differences) > _SHOWN:
        console.print(f"… and {len(differences) - _SHOWN:,} more; --json has all of them.")
    console.print("\n`rebuild` makes the tables anew from the log.")


async def rebuild(database: Database, *, json: bool) -> int:
    """Make the tables anew and say how many events that took."""
    began = time.perf_counter()
    count = await rebuild_tables(database)
    seconds = time.perf_counter() - began
    if json:
        output.print_json({"events": count, "seconds": round(seconds, 3)})
    else:
        rate = count / seconds if seconds else 0.0
        output.terminal().print(
            f"The tables are what the log says: {count:,} events in {span(seconds)}, {rate:,.0f}/s."
        )
    return 0


async def rebase(database: Database, *, needed: bool, json: bool) -> int:
    """Renumber the log if that is needed, and say what became of it."""
    if not needed:
        if json:
            output.print_json({"rebased": False, "events": 0})
        else:
            output.terminal().print("Every event is of this cluster; there is nothing to do.")
        return 0
    done = await renumber(database)
    if json:
        output.print_json(
            {"rebased": True, "events": done.events, "greatest_xid": done.greatest, "became": done.became}
        )
    else:
        output.terminal().print(
            f"{done.events:,} events renumbered; the greatest transaction id was {done.greatest} and is {done.became}. "
            "The services may start."
        )
    return 0
