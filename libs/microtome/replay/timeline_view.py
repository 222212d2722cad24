"""A timeline on the terminal.

Promises: the chart's lanes share one axis of time; nothing is shown that the timeline does not say.
Refuses: to fold anything; see `timeline`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from rich.console import Console
from rich.text import Text

from microtome.replay import output
from microtome.replay.bars import bar, lane
from microtome.replay.describe import short, span
from microtome.replay.timeline import Phase, Timeline

_STYLES = {"running": "cyan", "seat": "yellow", "worker": "blue", "halted": "red", "retry": "magenta", "draft": "dim"}
_OUTCOMES = {"succeeded": "green", "failed": "bold red", "lost": "red", "preempted": "yellow", "cancelled": "magenta"}


def draw(console: Console, timeline: Timeline) -> None:
    """Print the chart, the attempts and the stages."""
    job = timeline.job
    console.print(
        Text.assemble(
            (job.key, "bold"),
            f"  {job.spec.type.name} on slide {short(job.spec.slide_id)}, branch {job.spec.branch!r}, "
            f"of workflow {timeline.workflow_name!r} ({short(timeline.workflow_id)}) of {timeline.user_id}",
        )
    )
    console.print(Text.assemble(output.status(job.status.value), f" {_summary(timeline)}"))
    console.print()
    _chart(console, timeline)
    if timeline.attempts:
        console.print()
        _attempts(console, timeline)
    if timeline.stage_seconds:
        console.print()
        _stages(console, timeline)


def _summary(timeline: Timeline) -> str:
    end = timeline.job.finished_at or timeline.now
    waited = timeline.waited_seconds
    ran = sum(phase.seconds(timeline.now) for phase in timeline.phases if phase.kind == "running")
    parts = [f"{'after' if timeline.job.finished_at else 'since'} {span(end - timeline.created_at)}"]
    if waited:
        kinds = ", ".join(
            f"{kind} {span(seconds)}" for kind, seconds in sorted(waited.items(), key=lambda item: -item[1])
        )
        parts.append(f"waited {span(sum(waited.values()))} ({kinds})")
    if timeline.attempts:
        attempts = len(timeline.attempts)
        parts.append(f"ran {span(ran)} in {attempts} attempt{'' if attempts == 1 else 's'}")
    return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class _Lane:
    label: str
    style: str
    detail: str
    since: datetime
    until: datetime


def _chart(console: Console, timeline: Timeline) -> None:
    begin = timeline.created_at
    end = timeline.job.finished_at or timeline.now
    whole = max((end - begin).total_seconds(), 1e-6)
    width = max(20, min(60, console.width - 66))
    chart = output.table("phase", "when", "seconds", "why", right=("seconds",))
    chart.show_header = False
    axis = f"{begin:%H:%M:%S}"
    last = f"{end:%H:%M:%S}"
    chart.add_row("", Text(axis + last.rjust(width - len(axis)), style="dim"), "", Text(f"{begin:%Y-%m-%d} UTC", "dim"))
    for each in _lanes(timeline.phases, timeline.now):
        since, until = ((at - begin).total_seconds() / whole for at in (each.since, each.until))
        line = Text(lane(since, until, width), style=each.style)
        chart.add_row(Text(each.label, each.style), line, span(each.until - each.since), each.detail)
    console.print(chart)


def _lanes(phases: Iterable[Phase], now: datetime) -> list[_Lane]:
    """One lane a phase; but moving up in the line for a seat is one."""
    lanes: list[_Lane] = []
    first: int | None = None
    for phase in phases:
        label = f"attempt {phase.attempt}" if phase.kind == "running" else phase.kind
        detail, since = phase.detail, phase.since
        if phase.kind == "seat" and lanes and lanes[-1].label == "seat" and lanes[-1].until == phase.since:
            since = lanes.pop().since
            if first is not None and phase.position is not None and first != phase.position:
                detail = f"From place {first} in the line to place {phase.position}."
        elif phase.kind == "seat":
            first = phase.position
        lanes.append(_Lane(label, _STYLES.get(phase.kind, "default"), detail, since, phase.until or now))
    return lanes


def _attempts(console: Console, timeline: Timeline) -> None:
    listed = output.table(
        "attempt", "slot", "started", "planned after", "ran for", "outcome", "tiles", "worked on by", "",
        right=("attempt", "slot", "planned after", "ran for", "tiles"),
    )  # fmt: skip
    for attempt in timeline.attempts:
        planned = "–" if attempt.planned_at is None else span(attempt.planned_at - attempt.started_at)
        tiles = "–" if attempt.tiles_total is None else f"{attempt.tiles_total:,}"
        listed.add_row(
            str(attempt.number),
            str(attempt.slot),
            f"{attempt.started_at:%H:%M:%S}",
            planned,
            span(attempt.seconds(timeline.now)),
            Text(attempt.outcome, _OUTCOMES.get(attempt.outcome, "cyan")),
            tiles,
            ", ".join(attempt.workers) or "–",
            attempt.detail,
        )
    console.print(listed)


def _stages(console: Console, timeline: Timeline) -> None:
    stages = timeline.stage_seconds
    most = max(stages.values(), default=0.0) or 1.0
    width = max(10, min(40, console.width - 40))
    listed = output.table("stage", "", "took", right=("took",))
    for stage, seconds in stages.items():
        listed.add_row(stage, Text(bar(seconds / most, width), "cyan"), span(seconds))
    console.print(listed)
