"""The rows of a stream by the domain's own fold.

Promises: pure; what the projection writes event by event in SQL, made here from the state that `evolve` comes to. The
two ways share no code but the domain's, so that comparing them proves something about both.
Refuses: events out of nowhere (`Conflict`, `NotFound`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from microtome.contracts.codec import to_json
from microtome.contracts.messages import (
    JobsAdded,
    Message,
    SeatGranted,
    SeatReleased,
    SlideDeleted,
    SlideRegistered,
    WorkflowSubmitted,
)
from microtome.domain import eligibility
from microtome.domain.cluster import STREAM_PREFIX
from microtome.domain.state import Job, Workflow
from microtome.domain.workflow import evolve
from microtome.errors import Conflict
from microtome.readmodels.projection import artifact_bytes, branches

SLIDE_PREFIX = "slide-"
SEATS = "seats"
Row: TypeAlias = tuple[Any, ...]
# What a stream comes to: rows by table, their values in the order of COLUMNS.
Rows: TypeAlias = Mapping[str, list[Row]]

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "slides": (
        *("slide_id", "user_id", "filename", "size_bytes", "sha256", "vendor", "width", "height", "mpp", "mpp_source"),
        *("objective_power", "stain", "levels", "notes", "path", "registered_at", "deleted_at"),
    ),
    "workflows": (
        *("workflow_id", "user_id", "name", "created_at", "version", "xid", "position", "branches", "submitted"),
        *("next_turn", "status"),
    ),
    "jobs": (
        *("job_id", "workflow_id", "user_id", "ordinal", "key", "type", "slide_id", "branch", "depends_on"),
        *("parameters", "status", "attempt", "slot", "seated_user", "failures", "not_before", "error", "planned"),
        *("result", "created_at", "started_at", "finished_at", "turn", "draft", "expected_tiles", "preemptions"),
        *("cause_job_id", "artifacts_deleted_at", "artifact_bytes", "released", "ran"),
    ),
    "seats": ("seat", "user_id", "granted_at"),
}


class Fact(NamedTuple):
    """An event as the fold needs it; a tuple, because there are many."""

    message: Message
    version: int
    xid: int
    position: int
    at: datetime


class Seats:
    """Who is active: the fold of the stream `seats`, which goes on where it stopped."""

    def __init__(self) -> None:
        self.version = 0
        self._seats: dict[int, Row] = {}

    def fold(self, facts: Iterable[Fact]) -> None:
        """Take in the next events. Raises `Conflict` for a seat that cannot be given or left."""
        for fact in facts:
            self.version = fact.version
            match fact.message:
                case SeatGranted(seat=seat, user_id=user) if seat not in self._seats:
                    self._seats[seat] = (seat, user, fact.at)
                case SeatReleased(seat=seat, user_id=user) if self._seats.get(seat, (None, None))[1] == user:
                    del self._seats[seat]
                case _:
                    raise Conflict(f"event {fact.version} of stream {SEATS} is about a seat that is not so")

    def rows(self) -> Rows:
        """Return the rows of those who are active now."""
        return {"seats": list(self._seats.values())}


def fold(stream: str, facts: Iterable[Fact]) -> Rows:
    """Return the rows of a slide's or workflow's whole stream."""
    if stream.startswith(STREAM_PREFIX):
        return _workflow(stream, facts)
    if stream.startswith(SLIDE_PREFIX):
        return _slide(stream, facts)
    raise Conflict(f"{stream} is no stream of the log")


def _slide(stream: str, facts: Iterable[Fact]) -> Rows:
    slide: SlideRegistered | None = None
    registered_at = deleted_at = None
    for fact in facts:
        match fact.message:
            case SlideRegistered():
                slide, registered_at = fact.message, fact.at
            case SlideDeleted():
                deleted_at = fact.at
            case _:
                raise Conflict(f"{type(fact.message).__name__} in {stream} says nothing about a slide")
    if slide is None:
        raise Conflict(f"{stream} is about a slide that is not there")
    row = (
        *(slide.slide_id, slide.user_id, slide.filename, slide.size_bytes, slide.sha256, slide.vendor),
        *(slide.width, slide.height, slide.mpp, int(slide.mpp_source), slide.objective_power, int(slide.stain)),
        *([to_json(level) for level in slide.levels], list(slide.notes), slide.path, registered_at, deleted_at),
    )
    return {"slides": [row]}


def _workflow(stream: str, facts: Iterable[Fact]) -> Rows:
    state: Workflow | None = None
    created: dict[str, datetime] = {}
    last: Fact | None = None
    for last in facts:
        message = last.message
        state = evolve(state, message, last.at)
        if isinstance(message, WorkflowSubmitted | JobsAdded):
            created.update((spec.job_id, last.at) for spec in message.jobs)
    if state is None or last is None:
        raise Conflict(f"{stream} is about a workflow that is not there")
    row = (
        *(state.workflow_id, state.user_id, state.name, state.submitted_at),
        *(last.version, last.xid, last.position),
        *(branches(state.policies), state.submitted, state.next_turn, eligibility.status(state).value),
    )
    return {"workflows": [row], "jobs": [_job(state, job, created[job.job_id]) for job in state.jobs.values()]}


def _job(workflow: Workflow, job: Job, created_at: datetime) -> Row:
    spec, error = job.spec, job.error
    gone = job.artifacts_deleted_at
    return (
        *(spec.job_id, workflow.workflow_id, workflow.user_id, job.order, spec.key, int(spec.type), spec.slide_id),
        *(spec.branch, spec.depends_on, None if spec.parameters is None else to_json(spec.parameters)),
        *(job.status.value, job.attempt, job.slot, None if job.slot is None else workflow.user_id, job.failures),
        job.not_before,
        None if error is None else {"code": error.code, "detail": error.detail, "transient": error.transient},
        None if job.planned is None else to_json(job.planned),
        None if job.result is None else to_json(job.result),
        *(created_at, job.started_at, job.finished_at, job.turn, spec.draft),
        *(spec.expected_tiles, job.preemptions, job.cause_job_id, gone),
        *(0 if gone is not None else artifact_bytes(job.result), spec.draft and not job.draft),
        job.ran,
    )
