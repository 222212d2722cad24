"""Runs one command.

Promises: exit status 0 if what was asked for holds, 1 if not, 2 for what cannot be understood, 3 if a watched workflow
did not succeed, 130 after Ctrl-C; errors are one sentence on stderr that says what to do, and never a traceback.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from microtome.client import ApiClient, Job, Workflow
from microtome.commandline import showing
from microtome.commandline.arguments import parser
from microtome.commandline.display import LiveJobs, progress_bars, summary
from microtome.commandline.submit import submit
from microtome.errors import InvalidRequest, MicrotomeError, Unavailable

DID_NOT_SUCCEED = 3
INTERRUPTED = 130
WIDE = 200
# How long a server that is busy is asked again.
PATIENCE_S = 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        here = getattr(options, "run_here", None)
        status = here(options) if here is not None else asyncio.run(_run(options))
        sys.stdout.flush()
    except BrokenPipeError:
        # Somebody closed our output (`| head`); nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except MicrotomeError as error:
        hint = " Is it running (`make up`), and is --url right?" if isinstance(error, Unavailable) else ""
        print(f"error: {error.detail.removesuffix('.')}.{hint}", file=sys.stderr)
        return 1
    except OSError as error:
        # A disk, a folder or a file that does not let us: nothing that a traceback would explain.
        print(f"error: {_why(error)}", file=sys.stderr)
        return 1
    return status


def _why(error: OSError) -> str:
    """What the system refused, and what to do about it."""
    where = f"{error.filename}: " if error.filename is not None else ""
    what = f"{where}{(error.strerror or str(error)).removesuffix('.')}."
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{what} Make room, then type the same command again."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"{what} Choose a place that you may write to and files that you may read."
    return what


async def _run(options: argparse.Namespace) -> int:
    if not options.user:
        raise InvalidRequest("Say who you are: --user NAME, or MICROTOME_USER (letters, digits, '-' and '_').")
    async with ApiClient(options.url, options.user, patience_seconds=PATIENCE_S) as api:
        return await Commands(api, options).run()


class Commands:
    """The commands, against one server."""

    def __init__(self, api: ApiClient, options: argparse.Namespace) -> None:
        self._api = api
        self._options = options
        # A table in a file or a pipe is not squeezed into the 80 columns of a terminal that is not there.
        self._out = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
        # What is not the answer itself goes to stderr, so that --json can be piped.
        self._aside = Console(stderr=True, highlight=False) if options.json else self._out

    async def run(self) -> int:
        """Run the command that was typed."""
        match self._options.command:
            case "submit":
                return await self._submit()
            case "list":
                return await self._list()
            case "show":
                return await self._show()
            case "watch":
                return await self._watch(await self._api.workflow(self._options.id))
            case "logs":
                return await self._logs()
            case "status":
                return await self._status()
            case "download":
                return await self._download()
            case "delete":
                return await self._delete()
            case _:
                return await self._act()

    async def _submit(self) -> int:
        workflow = await submit(self._aside, self._api, self._options)
        if self._options.watch or self._options.download:
            status = await self._watch(workflow)
            if self._options.download and status == 0:
                finished = await self._api.workflow(workflow["id"])
                await self._fetch(finished["jobs"], self._options.download)
            return status
        self._say(workflow, lambda: self._out.print(f"Submitted as workflow {workflow['id']}"))
        if not self._options.json:
            self._out.print(f"  microtome watch {workflow['id']}")
        return 0

    async def _watch(self, workflow: Workflow) -> int:
        with progress_bars(self._aside) as bars:
            live = LiveJobs(bars)
            live.show({"kind": "snapshot", "workflow": workflow})
            try:
                async for message in self._api.watch(workflow["id"]):
                    live.show(message)
            except asyncio.CancelledError:
                self._aside.print(f"It goes on without you: microtome watch {workflow['id']}")
                raise
        finished = await self._api.workflow(workflow["id"])
        slide = await self._api.slide(finished["jobs"][0]["slide_id"])
        self._say(finished, lambda: summary(self._out, slide, slide["id"], finished, self._api.url, None))
        return 0 if finished["status"] == "SUCCEEDED" else DID_NOT_SUCCEED

    async def _list(self) -> int:
        filters = {"status": self._options.status} if self._options.status else {}
        limit = self._options.limit
        match self._options.what:
            case "jobs":
                jobs = await self._api.jobs(limit=limit, **filters)
                self._say(jobs, lambda: showing.jobs(self._out, jobs))
            case "slides":
                if filters:
                    raise InvalidRequest("Slides have no status.")
                slides = await self._api.slides(limit=limit)
                self._say(slides, lambda: showing.slides(self._out, slides))
            case _:
                workflows = await self._api.workflows(limit=limit, **filters)
                self._say(workflows, lambda: showing.workflows(self._out, workflows))
        return 0

    async def _show(self) -> int:
        if self._options.at:
            kind, thing = "workflow", await self._api.workflow(self._options.id, at=self._options.at)
        else:
            kind, thing = await showing.find(self._api, self._options.id)
        self._say(thing, lambda: showing.one(self._out, kind, thing))
        return 0

    async def _act(self) -> int:
        kind, thing = await showing.find(self._api, self._options.id)
        calls = {
            ("workflow", "start"): self._api.start_workflow,
            ("workflow", "cancel"): self._api.cancel_workflow,
            ("workflow", "retry"): self._api.retry_failed,
            ("job", "start"): self._api.start,
            ("job", "cancel"): self._api.cancel,
            ("job", "retry"): self._api.retry,
        }
        call: Any = calls.get((kind, self._options.command))
        if call is None:
            raise InvalidRequest(
                f"{thing['id']} is a {kind}; only jobs and workflows can be told to {self._options.command}."
            )
        after = await call(self._options.id)
        self._say(after, lambda: showing.one(self._out, kind, after))
        return 0

    async def _delete(self) -> int:
        if self._options.what == "slide":
            await self._api.delete_slide(self._options.id)
        else:
            await self._api.delete_artifacts(self._options.id)
        self._say({"deleted": self._options.id}, lambda: self._out.print(f"Deleted: {self._options.id}"))
        return 0

    async def _logs(self) -> int:
        filters = {"attempt": self._options.attempt} if self._options.attempt is not None else {}
        answer = await self._api.logs(self._options.id, **filters)

        def lines() -> None:
            for line in answer["items"]:
                about = " ".join(f"{name}={value}" for name, value in line["about"].items())
                what = f"{line['time']}  attempt {line['attempt']}  {line['level']:<7}  {line['message']}  {about}"
                self._out.print(what.rstrip(), markup=False, soft_wrap=True)

        self._say(answer, lines)
        return 0

    async def _status(self) -> int:
        status, me = await self._api.status(), await self._api.me()
        self._say({"server": status, "me": me}, lambda: showing.server(self._out, status, me))
        return 0

    async def _download(self) -> int:
        kind, thing = await showing.find(self._api, self._options.id)
        if kind == "slide":
            raise InvalidRequest("That is a slide; files belong to jobs and workflows.")
        jobs = [thing] if kind == "job" else [job for job in thing["jobs"] if job["result"] is not None]
        written = await self._fetch(jobs, self._options.out)
        if not written:
            raise InvalidRequest("There are no such files (yet); `microtome show` says how far it is.")
        return 0

    async def _fetch(self, jobs: Sequence[Job], out: Path) -> list[Path]:
        """Fetch the files of jobs, each job's into a folder of its key when there are several."""
        only, whole = getattr(self._options, "only", None), getattr(self._options, "zip", False)
        written: list[Path] = []
        for job in jobs:
            folder = out / job["key"] if len(jobs) > 1 else out
            await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
            if whole:
                written.append(await self._api.download_all(job["id"], folder / f"{job['key']}.zip"))
                continue
            names = [artifact["name"] for artifact in await self._api.artifacts(job["id"])]
            chosen = [name for name in names if not only or name in only]
            written += await self._api.download_files(job["id"], chosen, folder)
        for path in written:
            self._aside.print(str(path), markup=False, soft_wrap=True)
        return written

    def _say(self, answer: object, show: Any) -> None:  # noqa: ANN401 - a callable without arguments
        if self._options.json:
            self._out.print(json.dumps(answer, ensure_ascii=False), markup=False, soft_wrap=True)
        else:
            show()
