"""Why a job does not run yet.

Promises: every job that is a draft or pending has exactly one reason, the very one that keeps `schedule` from starting
it; failed and finished workflows cost nothing.
Refuses: to guess when; estimates come from `forecast` and are only passed on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, TypeAlias

from microtome.domain.cluster import Cluster
from microtome.domain.eligibility import branch_head, halted, unmet_dependency
from microtome.domain.limits import Limits
from microtome.domain.seating import leaving
from microtome.domain.standing import DRAFT, FAILED, PENDING, SKIPPED
from microtome.domain.state import Job, Workflow

WaitingKind: TypeAlias = Literal["dependency", "branch", "seat", "worker", "retry", "halted", "draft"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job does not run yet."""

    kind: WaitingKind
    detail: str
    """A sentence for people."""
    job_id: str | None = None
    """The job that is waited for (dependency, branch), whose end halts this one (halted), or the draft that has to be
    started first (draft; None for a draft itself).
    """
    position: int | None = None
    """Place in the line for a seat, from 1."""
    until: datetime | None = None
    """When the job may be tried again (retry)."""
    estimated_start: datetime | None = None
    """When the job will start, if all goes on as it does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """What is the same for all jobs of a cluster at a time."""

    cluster: Cluster
    limits: Limits
    now: datetime
    positions: Mapping[str, int]
    leaving: frozenset[str]
    estimates: Mapping[str, datetime] = field(default_factory=dict)


def positions(cluster: Cluster) -> dict[str, int]:
    """Return the place in the line for a seat of every user who waits for one, from 1."""
    return {user: position for position, user in enumerate(cluster.line, start=1)}


def waiting(
    cluster: Cluster, limits: Limits, now: datetime, estimates: Mapping[str, datetime] | None = None
) -> dict[str, Waiting]:
    """Return for every job that is a draft or pending why it waits, by job id. For one workflow, ask `waiting_in`."""
    view = _view(cluster, limits, now, estimates)
    return {
        job_id: reason
        for workflow in cluster.workflows.values()
        for job_id, reason in _reasons(view, workflow, workflow.jobs.values())
    }


def waiting_in(
    cluster: Cluster,
    workflow: Workflow,
    limits: Limits,
    now: datetime,
    estimates: Mapping[str, datetime] | None = None,
    *,
    job_id: str | None = None,
) -> dict[str, Waiting]:
    """Return the same for the jobs of one workflow, or one of them. `estimates`: what `forecast` says, by job id."""
    if not workflow.by_status[PENDING] | workflow.by_status[DRAFT]:
        return {}
    jobs = workflow.jobs.values() if job_id is None else (workflow.jobs[job_id],)
    return dict(_reasons(_view(cluster, limits, now, estimates), workflow, jobs))


def _view(cluster: Cluster, limits: Limits, now: datetime, estimates: Mapping[str, datetime] | None) -> _View:
    return _View(
        cluster=cluster,
        limits=limits,
        now=now,
        positions=positions(cluster),
        leaving=leaving(cluster, limits, now),
        estimates=estimates or {},
    )


def _reasons(view: _View, workflow: Workflow, jobs: Iterable[Job]) -> Iterator[tuple[str, Waiting]]:
    if not workflow.by_status[PENDING] | workflow.by_status[DRAFT]:
        return
    causes = halted(workflow)
    heads: dict[str, Job | None] = {}
    capacity: Waiting | None = None
    for job in jobs:
        if job.status is DRAFT:
            yield job.job_id, Waiting(kind="draft", detail="A draft: it waits until you start it.")
        if job.status is not PENDING:
            continue
        branch = job.spec.branch
        if branch not in heads:
            heads[branch] = branch_head(workflow, branch)
        reason: Waiting
        if job.job_id in causes:
            reason = _halt(job, workflow.jobs[causes[job.job_id]])
        elif (needed := unmet_dependency(workflow, job)) is not None:
            detail = f"Waits for job {needed.key!r}, which it depends on."
            reason = Waiting(kind="dependency", job_id=needed.job_id, detail=detail)
        elif (head := heads[branch]) is not None and head is not job:
            detail = f"Behind job {head.key!r} in branch {branch!r}."
            reason = Waiting(kind="branch", job_id=head.job_id, detail=detail)
        elif job.not_before is not None and job.not_before > view.now:
            reason = _pause(job, job.not_before)
        else:
            reason = capacity = capacity or _capacity(view, workflow.user_id)
        estimate = view.estimates.get(job.job_id)
        yield job.job_id, reason if estimate is None else replace(reason, estimated_start=estimate)


def _halt(job: Job, cause: Job) -> Waiting:
    if cause.status is DRAFT:
        detail = f"Waits for the draft {cause.key!r}; start it to go on."
        return Waiting(kind="draft", job_id=cause.job_id, detail=detail)
    how = {FAILED: "failed", SKIPPED: "was skipped"}.get(cause.status, "was cancelled")
    # Giving a failed job up lets its branch go on, but never what depends on it.
    cancelling_helps = (
        cause.status is FAILED and cause.spec.branch == job.spec.branch and cause.job_id not in job.spec.depends_on
    )
    remedy = "retry or cancel it to go on" if cancelling_helps else "retry it to go on"
    return Waiting(kind="halted", job_id=cause.job_id, detail=f"Halted: job {cause.key!r} {how}; {remedy}.")


def _pause(job: Job, until: datetime) -> Waiting:
    why = f" after: {job.error.detail}" if job.error else ""
    detail = f"Attempt {job.attempt + 1} starts at {until:%H:%M:%S} UTC{why}"
    return Waiting(kind="retry", until=until, detail=detail)


def _capacity(view: _View, user: str) -> Waiting:
    limits = view.limits
    position = view.positions.get(user)
    if position is not None:
        detail = f"{ordinal(position)} in line for one of {limits.max_active_users} seats for active users."
        return Waiting(kind="seat", position=position, detail=detail)
    if user in view.leaving:
        detail = "The tenure of the seat is over and others wait: it goes on from the end of the line."
        return Waiting(kind="seat", detail=detail)
    if len(view.cluster.running) >= limits.max_workers:
        return Waiting(kind="worker", detail=f"All {limits.max_workers} workers are busy.")
    return Waiting(kind="worker", detail="A worker is free; the job starts in a moment.")


def ordinal(number: int) -> str:
    """Return the ordinal of a number: 1st, 2nd, 3rd, 4th."""
    tens = number % 100
    ending = "th" if tens in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
