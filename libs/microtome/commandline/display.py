"""What is shown on the terminal while a workflow runs, and when it is over.

Promises: every number is one the server gave; what it did not give is shown as "–".
Refuses: to compute results.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from microtome.client.live import LiveMessage
from microtome.client.shapes import Job, Slide, Workflow

TITLES = {"TISSUE_MASK": "Tissue", "SEGMENT_CELLS": "Cells"}
MPP_SOURCES = {
    "vendor": "from the scanner's metadata",
    "resolution_tag": "from the TIFF resolution",
    "user": "given by you",
    "assumed": "assumed",
    "unknown": "unknown",
}


def progress_bars(console: Console) -> Progress:
    """One line for each job."""
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(bar_width=36),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
    )


class LiveJobs:
    """Feeds the bars from websocket messages."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def show(self, message: LiveMessage) -> None:
        """Draw what one message says."""
        if message["kind"] == "snapshot":
            for job in message["workflow"]["jobs"]:
                self._job(job)
        elif message["kind"] == "progress" and (task := self._tasks.get(message.get("job_id") or "")) is not None:
            total = message.get("tiles_total")
            done = message.get("tiles_processed", 0)
            self._bars.update(
                task,
                completed=done if total else None,
                total=total or None,
                note=_note(message.get("stage"), done, total, message.get("cells")),
            )

    def _job(self, job: Job) -> None:
        if job["id"] not in self._tasks:
            title = TITLES.get(job["type"], job["key"])
            self._tasks[job["id"]] = self._bars.add_task(title, total=1.0, start=False, note="")
        task = self._tasks[job["id"]]
        if job["started_at"] is not None:
            self._bars.start_task(task)
        self._bars.update(task, total=1.0, completed=job["progress"], note=_job_note(job))
        if job["finished_at"] is not None:
            self._bars.stop_task(task)


def _job_note(job: Job) -> str:
    if job["status"] == "PENDING" and job["waiting_for"] is not None:
        return f"[dim]waits: {job['waiting_for']['detail']}[/dim]"
    if job["status"] == "FAILED" and job["error"] is not None:
        return f"[red]{job['error']['detail']}[/red]"
    if job["status"] == "RUNNING":
        return _note(job["stage"], job["tiles_processed"], job["tiles_total"], job["cells"])
    return job["status"].lower()


def _note(stage: str | None, done: int, total: int | None, cells: int | None) -> str:
    parts = [stage or ""]
    if total:
        parts.append(f"{done}/{total} tiles")
    if cells:
        parts.append(f"{cells:,} cells")
    return "  ".join(part for part in parts if part)


def slide_line(slide: Slide, origin: str) -> str:
    """One line about the slide."""
    mpp = f"{slide['mpp']:.4g} µm/px" if slide["mpp"] is not None else "pixel size unknown"
    return (
        f"{slide['filename']} ({origin}): {slide['width']:,} x {slide['height']:,} px, "
        f"{mpp} ({MPP_SOURCES.get(slide['mpp_source'], slide['mpp_source'])})"
    )


def summary(console: Console, slide: Slide, origin: str, workflow: Workflow, url: str, data_dir: Path | None) -> None:
    """Print what came out of a workflow."""
    table = Table(title=f"Workflow {workflow['status'].lower()}", title_justify="left", show_header=False, box=None)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    table.add_row("Slide", slide_line(slide, origin))
    for job in workflow["jobs"]:
        _job_rows(table, job)
    console.print(table)
    for job in workflow["jobs"]:
        _artifact_rows(console, job, url, data_dir)
    console.print(f"\nDashboard: [link={url}]{url}[/link]")


def _job_rows(table: Table, job: Job) -> None:
    title = TITLES.get(job["type"], job["key"])
    if job["error"] is not None and job["status"] != "SUCCEEDED":
        table.add_row(title, f"[red]{job['error']['detail']}[/red] ({job['error']['code']})")
    result = job["result"]
    if result is None:
        return
    if result["tiles_total"]:
        table.add_row(
            f"{title}: tiles",
            f"{result['tiles_total']:,} in the grid, {result['tiles_skipped']:,} skipped as background, "
            f"{result['tiles_processed']:,} processed, {result['tiles_cached']:,} of them known from earlier runs",
        )
    if result["tissue_mm2"] is not None:
        table.add_row(f"{title}: area", f"{result['tissue_mm2']:.3f} mm² of tissue")
    if result["cells"] is not None and job["type"] != "TISSUE_MASK":
        table.add_row(f"{title}: found", f"[bold green]{result['cells']:,}[/bold green] ({_density(result)})")
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in result["stage_seconds"].items())
    table.add_row(f"{title}: time", stages or "–")
    if result["engine"] or result["model"]:
        table.add_row(f"{title}: by", f"{result['model'] or '–'} on {result['engine'] or '–'}")
    for note in result["notes"]:
        table.add_row(f"{title}: note", f"[yellow]{note}[/yellow]")


def _density(result: Any) -> str:  # noqa: ANN401 - a TypedDict field
    density = result["cells_per_mm2"]
    return "cells per mm² not known" if density is None else f"{density:,.0f} per mm²"


def _artifact_rows(console: Console, job: Job, url: str, data_dir: Path | None) -> None:
    if job["result"] is None:
        return
    console.print(f"\n[bold]{TITLES.get(job['type'], job['key'])}: files[/bold]")
    for artifact in job["result"]["artifacts"]:
        console.print(
            f"  {artifact['name']:<18} {artifact['size_bytes']:>11,} B   {url}{artifact['url']}", soft_wrap=True
        )
        if data_dir is not None:
            path = data_dir / "artifacts" / job["id"] / str(job["attempt"]) / artifact["name"]
            if path.is_file():
                console.print(f"  {'':<18} {'':>13}   {path}", soft_wrap=True)
