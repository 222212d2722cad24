"""Lists and single things as tables.

Promises: ids are whole, so that they can be copied; what the server did not say is shown as "–".
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from microtome.client import ApiClient, ApiProblem, Job, Slide, Workflow
from microtome.commandline.display import slide_line
from microtome.errors import InvalidRequest

_TEXTS = ("name", "file", "what about it")
COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "RUNNING": "cyan", "CANCELLED": "dim", "SKIPPED": "dim"}


async def find(api: ApiClient, wanted: str) -> tuple[str, Any]:
    """Return what an id belongs to: ("workflow" | "job" | "slide", the thing). Raises InvalidRequest."""
    for kind, ask in (("workflow", api.workflow), ("job", api.job), ("slide", api.slide)):
        try:
            return kind, await ask(wanted)
        except ApiProblem as problem:
            if problem.problem.status != 404:
                raise
    raise InvalidRequest(f"You have no workflow, job or slide with the id {wanted!r}; `microtome list` shows yours.")


def workflows(console: Console, items: Iterable[Workflow]) -> None:
    """Print workflows as a table."""
    table = _table("id", "name", "status", "done", "jobs", "submitted")
    for item in items:
        table.add_row(
            item["id"],
            item["name"],
            _coloured(item["status"]),
            f"{item['percent_complete']:.0f} %",
            str(len(item["jobs"])),
            _moment(item["created_at"]),
        )
    _print(console, table, "You have no workflows. `microtome submit slide.svs` makes one.")


def jobs(console: Console, items: Iterable[Job]) -> None:
    """Print jobs as a table."""
    table = _table("id", "key", "branch", "type", "status", "done", "what about it")
    for item in items:
        table.add_row(
            item["id"],
            item["key"],
            item["branch"],
            item["type"],
            _coloured(item["status"]),
            f"{100 * item['progress']:.0f} %",
            _about(item),
        )
    _print(console, table, "There are no such jobs.")


def slides(console: Console, items: Iterable[Slide]) -> None:
    """Print slides as a table."""
    table = _table("id", "file", "pixels", "µm/px", "bytes", "uploaded")
    for item in items:
        table.add_row(
            item["id"],
            item["filename"],
            f"{item['width']:,} x {item['height']:,}",
            "–" if item["mpp"] is None else f"{item['mpp']:.4g}",
            f"{item['size_bytes']:,}",
            _moment(item["registered_at"]),
        )
    _print(console, table, "You have no slides.")


def one(console: Console, kind: str, thing: Any) -> None:  # noqa: ANN401 - one of three shapes
    """Print a workflow with its jobs, a job, or a slide."""
    if kind == "workflow":
        workflows(console, [thing])
        jobs(console, thing["jobs"])
    elif kind == "job":
        jobs(console, [thing])
        _result(console, thing)
    else:
        console.print(slide_line(thing, thing["id"]), markup=False, soft_wrap=True)
        for note in thing["notes"]:
            console.print(f"  {note}", style="yellow", markup=False)


def _result(console: Console, job: Job) -> None:
    result = job["result"]
    if result is None:
        return
    if result["cells"] is not None:
        console.print(f"{result['cells']:,} cells, by {result['model']} on {result['engine']}")
    for note in result["notes"]:
        console.print(f"  {note}", style="yellow", markup=False)
    for artifact in result["artifacts"]:
        console.print(f"  {artifact['name']:<20} {artifact['size_bytes']:>12,} B", markup=False)


def server(console: Console, status: dict[str, Any], me: dict[str, Any]) -> None:
    """Print how the server is doing and what is used."""
    console.print(f"Microtome {status['version']}, model {status['model']}, engine {status['engine'] or '–'}")
    limits = status["limits"]
    console.print(
        f"{limits['max_workers']} jobs at once, {limits['max_active_users']} active users; tiles of "
        f"{limits['tile_size']} with a halo of {limits['halo']} (--json has all limits)"
    )
    for service in status["services"]:
        colour = "green" if service["state"] == "ok" else "yellow"
        console.print(f"  [{colour}]{service['name']:<10}[/{colour}] {service['state']}: {service['detail']}")
    console.print(f"active: {', '.join(status['active_users']) or 'nobody'}")
    console.print(f"waiting for a seat: {', '.join(status['waiting_users']) or 'nobody'}")
    _me(console, me)


def _me(console: Console, me: dict[str, Any]) -> None:
    """Print one's own standing and usage."""
    place = f", number {me['position']} in line for a seat" if me["position"] else ""
    console.print(f"you ({me['id']}): {me['state']}{place}; {me['running_jobs']} running, {me['pending_jobs']} waiting")
    usage, quota = me["usage"], me["limits"]["quota_bytes"]
    room = f" of {quota:,}" if quota else ""
    console.print(
        f"  {usage['slides']:,} slides, {usage['workflows']:,} workflows, {usage['bytes_stored']:,}{room} bytes stored"
    )
    if me["submissions"] is not None:
        console.print(
            f"  {me['submissions']['remaining']} of {me['submissions']['limit']} submissions possible at once"
        )


def _about(job: Job) -> str:
    if job["waiting_for"] is not None:
        return job["waiting_for"]["detail"]
    if job["error"] is not None and job["status"] != "SUCCEEDED":
        return f"{job['error']['detail']} ({job['error']['code']})"
    if job["cells"]:
        return f"{job['cells']:,} cells"
    return "–"


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        # What does not fit is cut in the columns that are text for people, never in an id.
        table.add_column(column, no_wrap=column not in _TEXTS, overflow="fold")
    return table


def _print(console: Console, table: Table, nothing: str) -> None:
    console.print(table if table.row_count else nothing)


def _coloured(status: str) -> str:
    colour = COLOURS.get(status)
    return f"[{colour}]{status}[/{colour}]" if colour else status


def _moment(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M")
