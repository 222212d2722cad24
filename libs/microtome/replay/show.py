"""A workflow as it was: its jobs, what each waited for, who had the seats.

Promises: all of it is one moment of the log. Refuses: to show what had not happened by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.text import Text

from microtome.domain import workflow as workflows
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.limits import Limits
from microtome.domain.scheduling import Waiting, seat_line, waiting_in
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.errors import NotFound
from microtome.replay import output
from microtome.replay.describe import short, span, stamp
from microtome.replay.fold import Past, until
from microtome.replay.moment import Moment
from microtome.replay.source import History


@dataclass(frozen=True, slots=True)
class Shown:
    """A workflow at a moment, and what was around it."""

    workflow: Workflow
    past: Past
    now: datetime
    waiting: dict[str, Waiting]


async def at(history: History, workflow_id: str, moment: Moment, limits: Limits, *, grows: bool = True) -> Shown:
    """Return the workflow as it was. Raises `NotFound` when it had not been submitted by then.

    `grows`: the end of the log is now, as it is not in a file.
    """
    past, workflow = Past(limits), None
    async for event in until(history, moment):
        past.take(event)
        if event.stream == STREAM_PREFIX + workflow_id:
            workflow = workflows.evolve(workflow, event.message, event.at)
    if workflow is None:
        raise NotFound(f"The workflow {short(workflow_id)} was not there yet ({moment}).")
    now = past.now(moment, grows=grows)
    return Shown(workflow, past, now, waiting_in(past.cluster, workflow, past.limits, now))


def document(shown: Shown) -> dict[str, Any]:
    """The same as JSON."""
    workflow, cluster = shown.workflow, shown.past.cluster
    return {
        "workflow_id": workflow.workflow_id,
        "user_id": workflow.user_id,
        "name": workflow.name,
        "status": workflows.status(workflow).value,
        "submitted_at": stamp(workflow.submitted_at),
        "position": str(shown.past.cursor),
        "as_of": stamp(shown.now),
        "jobs": [_job_document(job, shown.waiting.get(job_id)) for job_id, job in workflow.jobs.items()],
        "seats": [{"seat": seat, "user_id": user} for user, seat in _seats(shown)],
        "line": list(seat_line(cluster)),
        "running_jobs": len(cluster.running),
    }


def _job_document(job: Job, waiting: Waiting | None) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "key": job.key,
        "type": job.spec.type.name,
        "branch": job.spec.branch,
        "depends_on": list(job.spec.depends_on),
        "status": job.status.value,
        "attempt": job.attempt,
        "slot": job.slot,
        "failures": job.failures,
        "preemptions": job.preemptions,
        "cause_job_id": job.cause_job_id,
        "tiles_total": None if job.planned is None else job.planned.tiles_total,
        "started_at": stamp(job.started_at),
        "finished_at": stamp(job.finished_at),
        "error": None
        if job.error is None
        else {"code": job.error.code, "detail": job.error.detail, "transient": job.error.transient},
        "waiting_for": None
        if waiting is None
        else {
            "kind": waiting.kind,
            "detail": waiting.detail,
            "job_id": waiting.job_id,
            "position": waiting.position,
            "until": stamp(waiting.until),
        },
    }


def _seats(shown: Shown) -> list[tuple[str, int]]:
    return sorted(((user, seat.number) for user, seat in shown.past.cluster.seats.items()), key=lambda held: held[1])


def draw(console: Console, shown: Shown) -> None:
    """Print it."""
    workflow, past = shown.workflow, shown.past
    console.print(
        Text.assemble(
            (workflow.name, "bold"),
            f"  workflow {workflow.workflow_id} of {workflow.user_id}, "
            f"submitted {workflow.submitted_at:%Y-%m-%d %H:%M:%S} UTC",
        )
    )
    console.print(
        Text.assemble(
            output.status(workflows.status(workflow).value),
            f" as of {shown.now:%Y-%m-%d %H:%M:%S} UTC, log position {past.cursor} ({past.count:,} events)",
        )
    )
    console.print()
    listed = output.table("job", "id", "type", "branch", "status", "attempt", "for", "", right=("attempt", "for"))
    for job_id, job in workflow.jobs.items():
        listed.add_row(
            job.key,
            short(job_id),
            job.spec.type.name,
            job.spec.branch,
            output.status(job.status.value),
            str(job.attempt or "–"),
            _duration(job, shown.now),
            _remark(workflow, job, shown.waiting.get(job_id)),
        )
    console.print(listed)
    console.print()
    seats = ", ".join(f"{seat}: {user}" for user, seat in _seats(shown)) or "nobody"
    console.print(f"seats       {seats}   (of {past.limits.max_active_users})")
    console.print(f"in line     {', '.join(seat_line(past.cluster)) or 'nobody'}")
    console.print(f"running     {len(past.cluster.running)} of {past.limits.max_workers} jobs")


def _duration(job: Job, now: datetime) -> str:
    if job.started_at is None:
        return "–"
    if job.status is JobStatus.RUNNING:
        return span(now - job.started_at)
    return "–" if job.finished_at is None else span(job.finished_at - job.started_at)


def _remark(workflow: Workflow, job: Job, waiting: Waiting | None) -> str:
    if waiting is not None:
        return waiting.detail
    if job.status is JobStatus.RUNNING:
        planned = "" if job.planned is None else f", {job.planned.tiles_total:,} tiles"
        return f"In slot {job.slot}{planned}."
    if job.result is not None and job.result.cells is not None:
        return f"{job.result.cells:,} cells."
    cause = workflow.jobs.get(job.cause_job_id or "")
    if job.status is JobStatus.SKIPPED and cause is not None:
        return f"Because of job {cause.key!r}."
    return "" if job.error is None else f"{job.error.code}: {job.error.detail}"
