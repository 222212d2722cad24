"""The sub-commands: from arguments to an exit status.

Promises: what only reads opens the database read-only; what writes asks, unless told `--yes`.
Refuses: to fold or draw; see the module of each.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.limits import Limits
from microtome.errors import ConfigurationError, InvalidRequest, NotFound
from microtome.eventlog.log import START
from microtome.eventlog.migrate import migrate
from microtome.replay import (
    describe,
    differences,
    differences_view,
    lookup,
    moving,
    output,
    show,
    tail,
    timeline_document,
    timeline_view,
    upkeep,
    what_if,
    what_if_view,
)
from microtome.replay.exported import open_file
from microtome.replay.fold import Past, in_use, until
from microtome.replay.moment import Moment
from microtome.replay.source import DatabaseHistory, History, find_database, open_database
from microtome.replay.timeline import Tracker

Command = Callable[[argparse.Namespace], Coroutine[Any, Any, int]]


@asynccontextmanager
async def _history(arguments: argparse.Namespace) -> AsyncIterator[History]:
    if arguments.log is not None:
        with open_file(arguments.log) as history:
            yield history
        return
    async with open_database(arguments.database) as database:
        yield DatabaseHistory(database)


async def _limits(arguments: argparse.Namespace, history: History) -> Limits:
    """The limits that were given or are in the environment; else what the log shows to have been in use."""
    workers = arguments.max_workers or _setting("MAX_WORKERS")
    users = arguments.max_active_users or _setting("MAX_ACTIVE_USERS")
    limits = Limits(max_workers=workers or 1, max_active_users=users or 1)
    if not (workers and users):
        async for event in history.events(types=["JobStarted", "SeatGranted"]):
            limits = in_use(limits, event)
    return replace(limits, max_workers=workers or limits.max_workers, max_active_users=users or limits.max_active_users)


def _setting(name: str) -> int | None:
    value = os.environ.get(name, "").strip()
    if not value:
        return None
    if not value.isdigit() or int(value) < 1:
        raise ConfigurationError(f"{name} is {value!r}; it must be a whole number from 1.")
    return int(value)


def _seconds(name: str) -> float:
    value = os.environ.get(name, "").strip() or "0"
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise ConfigurationError(f"{name} is {value!r}; it must be a number of seconds.")
    return seconds


async def run_tail(arguments: argparse.Namespace) -> int:
    """`tail`."""
    if arguments.follow and arguments.log is not None:
        raise InvalidRequest("A file does not grow; --follow needs a database.")
    async with _history(arguments) as history:
        wanted = await _filter(arguments, history)
        printer = tail.Printer(output.terminal(), history, json=arguments.json)
        cursor, first = START, arguments.first
        if first is not None:
            if first.is_end:
                # What is now the end will not be while one follows.
                first = Moment(cursor=await tail.end(history))
            async for event in tail.since(history, wanted, first, arguments.last):
                await printer.print(event, describe.document(event))
                cursor = event.cursor
        else:
            for event in await tail.last(history, wanted, arguments.lines, arguments.last):
                await printer.print(event, describe.document(event))
                cursor = event.cursor
        if arguments.follow and isinstance(history, DatabaseHistory):
            sys.stdout.flush()
            async for event in tail.follow(history.database, wanted, cursor, first or Moment(cursor=cursor)):
                await printer.print(event, describe.document(event))
                sys.stdout.flush()
    return 0


async def _filter(arguments: argparse.Namespace, history: History) -> tail.Filter:
    streams = job_id = None
    if arguments.workflow is not None:
        streams = (STREAM_PREFIX + await lookup.find_workflow(history, arguments.workflow),)
    if arguments.job is not None:
        workflow_id, job_id = await lookup.find_job(history, arguments.job)
        streams = (STREAM_PREFIX + workflow_id,)
    return tail.Filter(streams, _tuple(arguments.type), _tuple(arguments.user), job_id)


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


async def run_show(arguments: argparse.Namespace) -> int:
    """`show`."""
    async with _history(arguments) as history:
        workflow_id = await lookup.find_workflow(history, arguments.workflow)
        shown = await show.at(
            history, workflow_id, arguments.at, await _limits(arguments, history), grows=arguments.log is None
        )
    if arguments.json:
        output.print_json(show.document(shown))
    else:
        show.draw(output.terminal(), shown)
    return 0


async def run_timeline(arguments: argparse.Namespace) -> int:
    """`timeline`."""
    async with _history(arguments) as history:
        workflow_id, job_id = await lookup.find_job(history, arguments.job)
        limits = await _limits(arguments, history)
        tracker = Tracker(workflow_id, job_id, limits)
        past = Past(limits)
        async for event in until(history, arguments.at):
            tracker.take(event)
            past.at = event.at if past.at is None else max(past.at, event.at)
    timeline = tracker.finish(past.now(arguments.at, grows=arguments.log is None))
    if timeline is None:
        raise NotFound(f"The job {arguments.job!r} was not there yet ({arguments.at}).")
    if arguments.json:
        output.print_json(timeline_document.document(timeline))
    else:
        timeline_view.draw(output.terminal(), timeline)
    return 0


async def run_diff(arguments: argparse.Namespace) -> int:
    """`diff`."""
    async with _history(arguments) as history:
        found = await differences.between(history, arguments.one, arguments.other, Limits())
    if arguments.json:
        output.print_json(differences_view.document(found))
    else:
        differences_view.draw(output.terminal(), found)
    return 0


async def run_simulate(arguments: argparse.Namespace) -> int:
    """`simulate`."""
    changes = what_if.Changes(
        max_workers=arguments.max_workers,
        max_active_users=arguments.max_active_users,
        seat_tenure=arguments.seat_tenure,
        slice_seconds=arguments.slice_seconds,
        policies=dict(arguments.policy),
    )
    tenure, slice_seconds = _seconds("SEAT_TENURE"), _seconds("SLICE_SECONDS")
    known = Limits(
        max_workers=_setting("MAX_WORKERS") or 1,
        max_active_users=_setting("MAX_ACTIVE_USERS") or 1,
        seat_tenure=timedelta(seconds=tenure) if tenure else None,
        slice_seconds=slice_seconds or Limits().slice_seconds,
    )
    async with _history(arguments) as history:
        comparison = await what_if.compare(until(history, arguments.last), known, changes)
    if arguments.json:
        output.print_json(what_if.document(comparison))
    else:
        what_if_view.draw(output.terminal(), comparison)
    if arguments.svg is not None or arguments.png is not None:
        # Pillow is needed by nothing else here.
        from microtome.replay import picture

        for path, write in ((arguments.svg, picture.write_svg), (arguments.png, picture.write_png)):
            if path is not None:
                write(picture.of(comparison), path)
                output.remark(f"wrote {path}")
    return 0


async def run_verify(arguments: argparse.Namespace) -> int:
    """`verify`."""
    async with open_database(arguments.database, writable=True) as database:
        return await upkeep.verify(database, json=arguments.json)


async def run_rebuild(arguments: argparse.Namespace) -> int:
    """`rebuild`."""
    async with open_database(arguments.database, writable=True) as database:
        upkeep.ask(f"Make the tables of {upkeep.name(database.url)} anew from its log?", yes=arguments.yes)
        return await upkeep.rebuild(database, json=arguments.json)


async def run_export(arguments: argparse.Namespace) -> int:
    """`export`."""
    async with open_database(arguments.database) as database:
        count = await moving.export(database, arguments.file)
    output.remark(f"{count:,} events exported.")
    return 0


async def run_import(arguments: argparse.Namespace) -> int:
    """`import`."""
    url = find_database(arguments.database)
    upkeep.ask(f"Import {arguments.file} into the database {upkeep.name(url)}?", yes=arguments.yes)
    await migrate(url)
    async with open_database(url, writable=True) as database:
        return await moving.import_(database, arguments.file, json=arguments.json)


async def run_rebase(arguments: argparse.Namespace) -> int:
    """`rebase`."""
    async with open_database(arguments.database, writable=True) as database:
        foreign = await upkeep.foreign_events(database)
        if foreign:
            upkeep.ask(
                f"Renumber the log of {upkeep.name(database.url)}? {foreign:,} of its events are of another cluster. "
                "All services must be stopped.",
                yes=arguments.yes,
            )
        return await upkeep.rebase(database, needed=foreign > 0, json=arguments.json)


COMMANDS: Mapping[str, Command] = {
    "tail": run_tail,
    "show": run_show,
    "timeline": run_timeline,
    "diff": run_diff,
    "simulate": run_simulate,
    "export": run_export,
    "import": run_import,
    "verify": run_verify,
    "rebuild": run_rebuild,
    "rebase": run_rebase,
}
