"""The messages of the live views, as the AsyncAPI document shows them.

Promises: what goes out over a websocket or as a server-sent event is one of these. Refuses: to hold logic.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from microtome.contracts.messages import JobProgress
from services.gateway import views

_POSITION = "Place in the log, xid:position. To go on from here, connect with ?after= or Last-Event-ID."
_AS_OF = (
    "All facts up to here are in it and none after it, whatever was told already: facts that you have from after it "
    "hold on top of it, and one more snapshot, with them, follows."
)


class WorkflowSnapshot(views.View):
    """A workflow as it is: first, and again whenever something that it shows has changed."""

    kind: Literal["snapshot"] = "snapshot"
    position: str = Field(description=_POSITION)
    as_of: str = Field(description=_AS_OF)
    workflow: views.Workflow


class JobSnapshot(views.View):
    """A job as it is: first, and again whenever something that it shows has changed."""

    kind: Literal["snapshot"] = "snapshot"
    position: str = Field(description=_POSITION)
    as_of: str = Field(description=_AS_OF)
    job: views.Job


class WorkflowBrief(views.View):
    """One workflow among many."""

    id: str
    name: str
    created_at: datetime
    position: str = Field(description="Place in the log of its newest fact, xid:position.")
    jobs: dict[str, int] = Field(description="How many of its jobs are in each status.")


class Mine(views.View):
    """Everything of a user, in brief."""

    user: str
    active: bool = Field(description="Whether the user holds a seat.")
    place_in_line: int | None = Field(description="Place in line for a seat, 1 is next; null when not in line.")
    workflows: list[WorkflowBrief] = Field(description="The newest ones, newest first.")
    more: bool = Field(description="Whether there are older workflows than these.")


class MySnapshot(views.View):
    """Everything of a user as it is: first, and again whenever something that it shows has changed."""

    kind: Literal["snapshot"] = "snapshot"
    position: str = Field(description=_POSITION)
    me: Mine


class Event(views.View):
    """A fact: each one exactly once, in the order of the log."""

    kind: Literal["event"] = "event"
    position: str = Field(description=_POSITION)
    type: str = Field(description="Name of the message, e.g. JobStarted.")
    workflow_id: str | None
    job_id: str | None
    at: datetime = Field(description="When it was stored, by the database's clock.")
    data: dict[str, Any] = Field(description="The message in canonical protobuf JSON.")


class Progress(views.View):
    """How far a job is; only the latest of each job is told."""

    kind: Literal["progress"] = "progress"
    workflow_id: str
    job_id: str
    attempt: int
    stage: str
    tiles_processed: int
    tiles_total: int
    tiles_skipped: int
    cells: int

    @classmethod
    def of(cls, progress: JobProgress) -> Progress:
        """What a worker said, as clients are told it."""
        return cls(
            workflow_id=progress.workflow_id,
            job_id=progress.job_id,
            attempt=progress.attempt,
            stage=progress.stage,
            tiles_processed=progress.tiles_processed,
            tiles_total=progress.tiles_total,
            tiles_skipped=progress.tiles_skipped,
            cells=progress.cells,
        )
