"""`microtome submit`: from files and options to a workflow.

Promises: what can be wrong on this side is said before anything is uploaded. Refuses: to guess the size of a pixel.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from microtome.client import ApiClient, JobIn, Slide, Workflow
from microtome.commandline.declaring import read_geojson
from microtome.commandline.display import slide_line
from microtome.errors import InvalidRequest

ON_SERVER = "slide:"
DEFAULT_TYPES = ("TISSUE_MASK", "SEGMENT_CELLS")
# Above this, losing the connection would hurt.
RESUMABLE_BYTES = 64 * 1024 * 1024


async def submit(console: Console, api: ApiClient, options: argparse.Namespace) -> Workflow:
    """Upload what has to be uploaded, submit the workflow and return it. Raises InvalidRequest, ApiProblem."""
    if options.file is not None:
        if options.slides:
            raise InvalidRequest("Give slides or --file, not both.")
        document = await asyncio.to_thread(_document, options.file)
        return await api.create_workflow(
            document.pop("name", options.name or options.file.stem),
            document.pop("jobs", []),
            branches=document.pop("branches", ()),
            draft=bool(document.pop("draft", options.draft)),
        )
    if not options.slides:
        raise InvalidRequest("Name at least one slide, or a workflow with --file.")
    await asyncio.to_thread(_check_files, options.slides)
    parameters = await asyncio.to_thread(_parameters, options)
    slides = [await _slide(console, api, name, options) for name in options.slides]
    branches = _branch_names(slides)
    jobs = [
        job
        for slide, branch in zip(slides, branches, strict=True)
        for job in _jobs(slide, branch, options.types or DEFAULT_TYPES, parameters)
    ]
    policies = [{"name": branch, "policy": options.policy} for branch in branches] if options.policy else []
    name = options.name or slides[0]["filename"][:200]
    return await api.create_workflow(name, jobs, branches=policies, draft=options.draft)


def _check_files(names: Sequence[str]) -> None:
    for name in names:
        if not name.startswith(ON_SERVER) and not Path(name).is_file():
            raise InvalidRequest(f"There is no file {name}; a slide on the server is named slide:<its id>.")


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidRequest(f"{path} must hold one JSON object with a name and jobs.")
    unknown = set(document) - {"name", "jobs", "branches", "draft"}
    if unknown:
        raise InvalidRequest(f"{path}: there is no field {min(unknown)!r}; a workflow has name, jobs, branches, draft.")
    return document


async def _slide(console: Console, api: ApiClient, name: str, options: argparse.Namespace) -> Slide:
    if name.startswith(ON_SERVER):
        return await api.slide(name.removeprefix(ON_SERVER))
    path = Path(name)
    size = (await asyncio.to_thread(path.stat)).st_size
    columns = TextColumn("{task.description}"), BarColumn(bar_width=36), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(f"Uploading {path.name}", total=size)
        upload = api.upload_resumably if size > RESUMABLE_BYTES else api.upload_slide
        slide = await upload(
            path,
            mpp=options.mpp,
            assume_mpp=options.assume_mpp,
            progress=lambda done, _total: bars.update(task, completed=done),
        )
    console.print(slide_line(slide, slide["id"]), markup=False, soft_wrap=True)
    for note in slide["notes"]:
        console.print(f"  {note}", style="yellow", markup=False)
    return slide


def _branch_names(slides: Sequence[Slide]) -> list[str]:
    return ["main"] if len(slides) == 1 else [f"slide-{number}" for number in range(1, len(slides) + 1)]


def _jobs(slide: Slide, branch: str, types: Sequence[str], parameters: dict[str, Any]) -> list[JobIn]:
    jobs: list[JobIn] = []
    for number, kind in enumerate(types):
        suffix = "" if types.count(kind) == 1 else f"-{number + 1}"
        prefix = "" if branch == "main" else f"{branch}-"
        job: dict[str, Any] = {
            "key": f"{prefix}{kind.lower().replace('_', '-')}{suffix}",
            "type": kind,
            "slide_id": slide["id"],
            "branch": branch,
        }
        if parameters:
            job["parameters"] = parameters
        jobs.append(cast("JobIn", job))
    return jobs


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    names = ("mpp", "assume_mpp", "model", "tile_size", "halo", "batch_size", "stain", "region")
    chosen = {name: value for name in names if (value := getattr(options, name)) is not None}
    return chosen if options.tissue is None else {**chosen, "tissue": read_geojson(options.tissue)}
