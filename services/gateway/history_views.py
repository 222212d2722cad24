"""What the API answers about the past: events of a workflow, the timeline of a job.

Promises: as `views`. Refuses: to hold logic.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from services.gateway import views

OutcomeName = Literal["running", "succeeded", "failed", "lost", "preempted", "cancelled"]


class PastEvent(views.View):
    """A fact of the log, as a live client would have been told it."""

    position: str = Field(description="Place in the log, xid:position.")
    type: str = Field(description="Name of the message, e.g. JobStarted.")
    workflow_id: str
    job_id: str | None
    at: datetime = Field(description="When it was stored, by the database's clock.")
    data: dict[str, Any] = Field(description="The message in canonical protobuf JSON.")


class PastEventPage(views.View):
    """A part of what happened to a workflow, in the order in which it happened."""

    items: list[PastEvent]
    next_cursor: str | None = Field(description="Give it as `after` for what follows; null at the end.")


class Phase(views.View):
    """A time in which nothing changed for the job."""

    kind: Literal["running"] | views.WaitingKind = Field(description="`running`, or what it waited for.")
    detail: str
    job_id: str | None = Field(description="The job that it waited for.")
    position: int | None = Field(description="Always null: a past place in line is told to the operator only.")
    attempt: int | None
    since: datetime
    until: datetime | None = Field(description="Null while it lasts.")
    seconds: float


class Attempt(views.View):
    """One attempt at the job."""

    number: int
    slot: int
    started_at: datetime
    planned_at: datetime | None
    ended_at: datetime | None
    seconds: float
    outcome: OutcomeName
    detail: str
    tiles_total: int | None
    tiles_skipped: int | None
    workers: list[str] = Field(description="Processes that reported on it, in order.")


class Timeline(views.View):
    """The life of a job: what it waited for and how long, its attempts, what each stage took."""

    job_id: str
    workflow_id: str
    user_id: str
    key: str
    type: views.JobTypeName
    branch: str
    status: views.StatusName
    created_at: datetime
    finished_at: datetime | None
    as_of: datetime
    waited_seconds: dict[str, float] = Field(description="By what was waited for.")
    phases: list[Phase] = Field(description="One after the other, without gaps.")
    attempts: list[Attempt]
    stage_seconds: dict[str, float] = Field(description="Wall seconds of the attempt that succeeded.")
