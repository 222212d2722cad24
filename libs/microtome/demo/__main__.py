"""`make demo`: start the stack or use the running one, segment a slide, show what came out.

Reads MICROTOME_SLIDE, MICROTOME_MPP and MICROTOME_EXIT (the Makefile's SLIDE, MPP and EXIT).
Promises: exit status 0 only if the workflow succeeded; a stack it did not start is left running.
Refuses: to show a traceback for what the user can put right.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from microtome.client import ApiClient, JobIn, Slide, Workflow
from microtome.commandline.display import LiveJobs, progress_bars, slide_line, summary
from microtome.demo.source import DemoSlide, choose
from microtome.embedded.__main__ import wait_running
from microtome.embedded.home import default_home
from microtome.embedded.ports import Ports
from microtome.embedded.state import is_locked
from microtome.embedded.supervisor import SERVICES, EmbeddedStack
from microtome.errors import ConfigurationError, MicrotomeError, Unavailable, UnknownMpp

USER = "demo"


@dataclass(frozen=True, slots=True)
class Server:
    """A running stack; `ours` if it ends with the demo."""

    url: str
    data_dir: Path
    ours: bool


def main() -> int:
    """Run the demo."""
    console = Console(highlight=False)
    try:
        return asyncio.run(run(console))
    except MicrotomeError as error:
        console.print("[bold red]error:[/bold red]", end=" ")
        console.print(error.detail, markup=False, soft_wrap=True)
        return 1


async def run(console: Console) -> int:
    """Run the demo until it is done, or until SIGINT or SIGTERM."""
    mpp = _mpp(os.environ.get("MICROTOME_MPP", ""))
    leave = os.environ.get("MICROTOME_EXIT", "") not in ("", "0")
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    work = asyncio.create_task(demonstrate(console, mpp, stop, leave=leave))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not work.done():
        console.print("Stopping …")
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            return await work
        return 130
    return await work


async def demonstrate(console: Console, mpp: float | None, stop: asyncio.Event, *, leave: bool) -> int:
    """Do everything; return the exit status."""
    home = default_home()
    slide = await asyncio.to_thread(choose, os.environ.get("MICROTOME_SLIDE", ""), home / "cache", console.print)
    async with server(console, home) as running, ApiClient(running.url, USER) as client:
        registered = await register(console, client, slide, mpp)
        workflow = await segment(console, client, registered)
        summary(console, registered, slide.origin, workflow, running.url, running.data_dir)
        status = 0 if workflow["status"] == "SUCCEEDED" else 1
        if running.ours and not leave:
            console.print("The stack stays up: open the dashboard; Ctrl-C stops it.")
            # The result is shown: from here on Ctrl-C is the normal end.
            with contextlib.suppress(asyncio.CancelledError):
                await stop.wait()
        return status


@contextlib.asynccontextmanager
async def server(console: Console, home: Path) -> AsyncIterator[Server]:
    """Use the stack that runs, else one of our own for as long as the context lasts."""
    if await asyncio.to_thread(is_locked, home):
        state = await asyncio.to_thread(wait_running, home)
        if state is not None:
            console.print(f"Using the running stack at {state.url}")
            yield Server(state.url, Path(state.data_dir), ours=False)
            return
    began = time.monotonic()
    with console.status("Starting NATS, Postgres and the services …"):
        stack = EmbeddedStack(home, ports=Ports.from_environment(os.environ, SERVICES))
        await stack.start()
    try:
        for note in stack.notes:
            console.print(note)
        console.print(f"Stack started in {time.monotonic() - began:.1f} s: {stack.url}")
        yield Server(stack.url, stack.data_dir, ours=True)
    finally:
        await stack.stop()


async def register(console: Console, client: ApiClient, slide: DemoSlide, mpp: float | None) -> Slide:
    """Upload the slide. Raises UnknownMpp, saying what to do, if nobody knows its pixel size."""
    columns = TextColumn("{task.description}"), BarColumn(bar_width=36), DownloadColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("Uploading", total=slide.path.stat().st_size)
        registered = await client.upload_slide(
            slide.path, mpp=mpp, progress=lambda done, _total: bars.update(task, completed=done)
        )
    console.print(slide_line(registered, slide.origin))
    for note in registered["notes"]:
        console.print(f"  [yellow]{note}[/yellow]")
    if registered["mpp"] is None:
        raise UnknownMpp(
            f"{registered['filename']} does not say how large its pixels are. Say it: "
            f"make demo SLIDE={slide.path} MPP=0.25 (µm per pixel; scans at 40x have about 0.25, at 20x about 0.5)"
        )
    return registered


async def segment(console: Console, client: ApiClient, slide: Slide) -> Workflow:
    """Find the tissue, then the cells, and show the progress."""
    tissue: JobIn = {"key": "tissue", "type": "TISSUE_MASK", "slide_id": slide["id"]}
    cells: JobIn = {"key": "cells", "type": "SEGMENT_CELLS", "slide_id": slide["id"], "depends_on": ["tissue"]}
    workflow = await client.create_workflow(f"Demo: {slide['filename']}"[:100], [tissue, cells])
    with progress_bars(console) as bars:
        live = LiveJobs(bars)
        live.show({"kind": "snapshot", "workflow": workflow})
        async for message in client.watch(workflow["id"]):
            live.show(message)
    finished = await client.workflow(workflow["id"])
    if not finished["jobs"]:
        raise Unavailable("The server lost the workflow's jobs.")
    return finished


def _mpp(text: str) -> float | None:
    if not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value <= 100:
        raise ConfigurationError(f"MPP={text} is not a pixel size in µm, such as 0.25.")
    return value


if __name__ == "__main__":
    sys.exit(main())
