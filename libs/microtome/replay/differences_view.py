"""Differences on the terminal and as JSON.

Promises: seats, line and running jobs are those at the two moments, not what happened between them.
Refuses: to compute anything; see `differences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from microtome.domain import workflow as workflows
from microtome.domain.scheduling import seat_line
from microtome.domain.state import Job
from microtome.replay import output
from microtome.replay.describe import counted, short, span, stamp
from microtome.replay.differences import Changed, Differences
from microtome.replay.fold import Past

ROWS = 100
"""Jobs that are listed on a terminal; JSON has all of them."""


def document(found: Differences) -> dict[str, Any]:
    """The differences as JSON."""
    return {
        "before": _state(found.before),
        "after": _state(found.after),
        "seconds": round(found.seconds, 6),
        "events": dict(found.events),
        "slides_added": found.slides_added,
        "slides_deleted": found.slides_deleted,
        "workflows": [_workflow(changed) for changed in found.workflows.values()],
    }


def _state(past: Past) -> dict[str, Any]:
    return {
        "position": str(past.cursor),
        "at": stamp(past.at),
        "events": past.count,
        "seats": _seats(past),
        "line": list(seat_line(past.cluster)),
        "running_jobs": len(past.cluster.running),
    }


def _workflow(changed: Changed) -> dict[str, Any]:
    after = changed.after
    return {
        "workflow_id": after.workflow_id,
        "user_id": after.user_id,
        "name": after.name,
        "before": _status(changed),
        "after": workflows.status(after).value,
        "jobs": [
            {
                "job_id": job.job_id,
                "key": job.key,
                "before": None if before is None else before.status.value,
                "after": job.status.value,
                "attempt_before": None if before is None else before.attempt,
                "attempt_after": job.attempt,
            }
            for before, job in changed.jobs()
        ],
    }


def _status(changed: Changed) -> str | None:
    return None if changed.before is None else workflows.status(changed.before).value


def _seats(past: Past) -> dict[str, int]:
    held = sorted((seat.number, user) for user, seat in past.cluster.seats.items())
    return {user: number for number, user in held}


def draw(console: Console, found: Differences) -> None:
    """Print the differences."""
    before, after = found.before, found.after
    count = sum(found.events.values())
    console.print(f"from {before.cursor}  {_time(before)}\n  to {after.cursor}  {_time(after)}", style="bold")
    console.print(f"{count:,} event{'' if count == 1 else 's'} in {span(found.seconds)}: {counted(found.events)}")
    if not count:
        return
    console.print()
    for what, one, other in (
        ("seats", _people(_seats(before)), _people(_seats(after))),
        ("in line", _people(seat_line(before.cluster)), _people(seat_line(after.cluster))),
        ("running", _count(before), _count(after)),
    ):
        console.print(f"{what:<10}{one}" + ("" if one == other else f"  →  {other}"))
    if found.slides_added or found.slides_deleted:
        console.print(f"{'slides':<10}+{found.slides_added} −{found.slides_deleted}")
    console.print()
    _jobs(console, list(found.workflows.values()))


def _jobs(console: Console, changes: Sequence[Changed]) -> None:
    listed = output.table("workflow", "of", "", "job", "before", "", "after", "attempts", right=("attempts",))
    rows = left = 0
    for changed in changes:
        name = f"{changed.after.name} ({short(changed.after.workflow_id)})"
        earlier, later = _status(changed) or "new", workflows.status(changed.after).value
        status = later if earlier == later else f"{earlier} → {later}"
        for before, job in changed.jobs():
            if rows >= ROWS:
                left += 1
                continue
            listed.add_row(
                name, changed.after.user_id, status, job.key,
                Text("–", "dim") if before is None else output.status(before.status.value),
                "→", output.status(job.status.value), _attempts(before, job),
            )  # fmt: skip
            name = status = ""
            rows += 1
    if rows:
        console.print(listed)
    if left:
        console.print(f"… and {left:,} more jobs; --json has all of them.", style="dim")


def _attempts(before: Job | None, after: Job) -> str:
    first = 0 if before is None else before.attempt
    return str(after.attempt) if first == after.attempt else f"{first} → {after.attempt}"


def _people(users: Sequence[str] | dict[str, int]) -> str:
    return ", ".join(users) or "nobody"


def _count(past: Past) -> str:
    running = len(past.cluster.running)
    return f"{running} job{'' if running == 1 else 's'}"


def _time(past: Past) -> str:
    return "the beginning" if past.at is None else f"{past.at:%Y-%m-%d %H:%M:%S.%f} UTC"
