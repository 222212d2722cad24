"""From rows to values of the domain.

Promises: a workflow read from its rows equals the fold of its stream.
Refuses: to ask for rows; see `queries` and `listing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import asyncpg

from microtome.contracts.codec import from_json
from microtome.contracts.messages import (
    Branch,
    BranchPolicy,
    JobParameters,
    JobPlanned,
    JobResult,
    JobSpec,
    JobType,
    MppSource,
    SlideLevel,
    SlideRegistered,
    Stain,
)
from microtome.domain.evolution import policies
from microtome.domain.standing import restored
from microtome.domain.state import Job, JobError, JobStatus, Workflow
from microtome.eventlog.log import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideRecord:
    """A registered slide: its facts and when they became known."""

    facts: SlideRegistered
    registered_at: datetime
    # Since when the pixels are gone.
    deleted_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowRecord:
    """A workflow as of an event: the fold of its stream up to `version`."""

    state: Workflow
    version: int
    # The stream's last event; later events of the log say nothing new about this workflow.
    cursor: Cursor
    # When jobs were added that did not come with the submission, by id; known of what was read from the tables.
    added_at: Mapping[str, datetime] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """One job and whose it is."""

    job: Job
    workflow_id: str
    user_id: str
    created_at: datetime


def workflow_record(row: asyncpg.Record, jobs: Iterable[asyncpg.Record]) -> WorkflowRecord:
    """Return the workflow of a row of `workflows` and its rows of `jobs`, which come by ordinal."""
    read = list(jobs)
    return WorkflowRecord(
        state=_workflow(row, map(job, read)),
        version=row["version"],
        cursor=Cursor(row["xid"], row["position"]),
        added_at={each["job_id"]: each["created_at"] for each in read[row["submitted"] :]},
    )


def outline(row: asyncpg.Record, jobs: Iterable[asyncpg.Record]) -> Workflow:
    """Return as much of a workflow as its status depends on; the jobs' plans, results and parameters are left out."""
    return _workflow(row, map(_outline, jobs))


def _workflow(row: asyncpg.Record, jobs: Iterable[Job]) -> Workflow:
    return restored(
        workflow_id=row["workflow_id"],
        user_id=row["user_id"],
        name=row["name"],
        submitted_at=row["created_at"],
        jobs=jobs,
        policies=chosen_policies(row["branches"]),
        submitted=row["submitted"],
    )


def _outline(row: asyncpg.Record) -> Job:
    return Job(
        spec=JobSpec(
            job_id=row["job_id"],
            key=row["key"],
            type=JobType(row["type"]),
            slide_id=row["slide_id"],
            branch=row["branch"],
            depends_on=tuple(row["depends_on"]),
            draft=row["draft"],
        ),
        order=row["ordinal"],
        turn=row["turn"],
        draft=row["draft"] and not row["released"],
        status=JobStatus(row["status"]),
        attempt=row["attempt"],
    )


def chosen_policies(branches: Iterable[Mapping[str, Any]]) -> dict[str, BranchPolicy]:
    """Return the policies of branches in canonical JSON, by name."""
    return policies(from_json(Branch, branch) for branch in branches)


def job_record(row: asyncpg.Record) -> JobRecord:
    """Return the job of a row and whose it is."""
    return JobRecord(job=job(row), workflow_id=row["workflow_id"], user_id=row["user_id"], created_at=row["created_at"])


def job(row: asyncpg.Record) -> Job:
    """Return the job of a row of `jobs`."""
    return Job(
        spec=spec(row),
        order=row["ordinal"],
        turn=row["turn"],
        draft=row["draft"] and not row["released"],
        status=JobStatus(row["status"]),
        attempt=row["attempt"],
        slot=row["slot"],
        failures=row["failures"],
        preemptions=row["preemptions"],
        not_before=row["not_before"],
        error=None if row["error"] is None else JobError(**row["error"]),
        cause_job_id=row["cause_job_id"],
        result=None if row["result"] is None else from_json(JobResult, row["result"]),
        planned=planned(row),
        ran=row["ran"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        artifacts_deleted_at=row["artifacts_deleted_at"],
    )


def spec(row: asyncpg.Record) -> JobSpec:
    """Return what was submitted, of a row of `jobs`."""
    return JobSpec(
        job_id=row["job_id"],
        key=row["key"],
        type=JobType(row["type"]),
        slide_id=row["slide_id"],
        branch=row["branch"],
        depends_on=tuple(row["depends_on"]),
        parameters=None if row["parameters"] is None else from_json(JobParameters, row["parameters"]),
        draft=row["draft"],
        expected_tiles=row["expected_tiles"],
    )


def planned(row: asyncpg.Record) -> JobPlanned | None:
    """Return the plan of the current attempt, of a row of `jobs`."""
    return None if row["planned"] is None else from_json(JobPlanned, row["planned"])


def slide_record(row: asyncpg.Record) -> SlideRecord:
    """Return the slide of a row of `slides`."""
    return SlideRecord(
        facts=SlideRegistered(
            slide_id=row["slide_id"],
            user_id=row["user_id"],
            filename=row["filename"],
            size_bytes=row["size_bytes"],
            sha256=row["sha256"],
            vendor=row["vendor"],
            width=row["width"],
            height=row["height"],
            mpp=row["mpp"],
            mpp_source=MppSource(row["mpp_source"]),
            objective_power=row["objective_power"],
            stain=Stain(row["stain"]),
            levels=tuple(from_json(SlideLevel, level) for level in row["levels"]),
            notes=tuple(row["notes"]),
            path=row["path"],
        ),
        registered_at=row["registered_at"],
        deleted_at=row["deleted_at"],
    )
