"""Who gets a seat, which job starts, and why every other job waits.

A job starts when, in this order: its dependencies succeeded, it is the head of its branch, its user holds a seat, a
worker slot is free.

Promises: pure; applying the decisions in their order keeps every limit, and afterwards nothing that could run is left
waiting while there is room. Seats go first come first served, and are kept until a user's runnable work is finished;
slots go to the seated user with the fewest running jobs, among equals to the one whose last start is longest ago, and
of one user's jobs to the oldest.
Refuses: to act. The scheduler turns decisions into events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from microtome.domain.cluster import Cluster
from microtome.domain.eligibility import branch_head, halted, startable, unmet_dependency
from microtome.domain.limits import Limits
from microtome.domain.state import Job, JobStatus, Workflow

__all__ = [
    "Decision",
    "GrantSeat",
    "Limits",
    "ReleaseSeat",
    "StartJob",
    "Waiting",
    "next_wakeup",
    "schedule",
    "seat_line",
    "waiting",
    "waiting_in",
]


@dataclass(frozen=True, slots=True)
class ReleaseSeat:
    """The user has nothing left that could run."""

    user_id: str
    seat: int


@dataclass(frozen=True, slots=True)
class GrantSeat:
    """The user becomes active."""

    user_id: str
    seat: int


@dataclass(frozen=True, slots=True)
class StartJob:
    """The next attempt at the job begins in this slot."""

    workflow_id: str
    job_id: str
    slot: int


Decision: TypeAlias = ReleaseSeat | GrantSeat | StartJob
WaitingKind: TypeAlias = Literal["dependency", "branch", "seat", "worker", "retry", "halted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a job does not run yet."""

    kind: WaitingKind
    detail: str
    """A sentence for people."""
    job_id: str | None = None
    """The job that is waited for (dependency, branch) or whose end halts this one (halted)."""
    position: int | None = None
    """Place in the line for a seat, from 1."""
    until: datetime | None = None
    """When the job may be tried again (retry)."""


def schedule(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    """Return what to do now, to be applied together and in this order."""
    released = [ReleaseSeat(user, seat) for user, seat in cluster.seats.items() if user not in cluster.live]
    gone = {decision.user_id for decision in released}
    seats = {user: seat for user, seat in cluster.seats.items() if user not in gone}
    granted: list[GrantSeat] = []
    for user in cluster.line:
        seat = _lowest_free(seats, limits.max_active_users)
        if seat is None:
            break
        seats[user] = seat
        granted.append(GrantSeat(user, seat))
    return (*released, *granted, *_starts(cluster, seats, limits, now))


def _lowest_free(taken: Mapping[str, int], size: int) -> int | None:
    """Return the lowest free number; none when as many are taken as there may be, whatever their numbers."""
    if len(taken) >= size:
        return None
    numbers = set(taken.values())
    return next(number for number in range(size) if number not in numbers)


def _starts(cluster: Cluster, seats: Mapping[str, int], limits: Limits, now: datetime) -> Iterator[StartJob]:
    slots = {job_id: running.slot for job_id, running in cluster.running.items()}
    busy = dict.fromkeys(seats, 0)
    for running in cluster.running.values():
        busy[running.user_id] = busy.get(running.user_id, 0) + 1
    last = {user: cluster.last_started.get(user, 0) for user in seats}
    queues = {user: _candidates(cluster, user, now) for user in seats}
    heads = {user: head for user, queue in queues.items() if (head := next(queue, None))}
    turn = cluster.moment
    while heads and (slot := _lowest_free(slots, limits.max_workers)) is not None:
        user = min(heads, key=lambda user: (busy[user], last[user], heads[user][0]))
        _, workflow_id, job = heads[user]
        yield StartJob(workflow_id, job.job_id, slot)
        slots[job.job_id] = slot
        turn += 1
        busy[user] += 1
        last[user] = turn
        following = next(queues[user], None)
        if following is None:
            del heads[user]
        else:
            heads[user] = following


def _candidates(cluster: Cluster, user: str, now: datetime) -> Iterator[tuple[int, str, Job]]:
    """Yield the user's startable jobs, oldest first; lazily, for only a few slots can be free."""
    for workflow_id, moment in cluster.live.get(user, {}).items():
        for job in startable(cluster.workflows[workflow_id], now):
            yield moment, workflow_id, job


def seat_line(cluster: Cluster) -> tuple[str, ...]:
    """Return the users who wait for a seat, first in line first."""
    return tuple(cluster.line)


def next_wakeup(cluster: Cluster, now: datetime) -> datetime | None:
    """Return the next time after `now` at which a job may be tried again."""
    return min((at for at in cluster.retries.values() if at > now), default=None)


def waiting(cluster: Cluster, limits: Limits, now: datetime) -> dict[str, Waiting]:
    """Return for every job that neither runs nor ended why it waits, by job id."""
    positions = _positions(cluster)
    return {
        job_id: reason
        for workflow in cluster.workflows.values()
        for job_id, reason in _reasons(cluster, workflow, positions, limits, now)
    }


def waiting_in(cluster: Cluster, workflow: Workflow, limits: Limits, now: datetime) -> dict[str, Waiting]:
    """Return the same for the jobs of one workflow."""
    return dict(_reasons(cluster, workflow, _positions(cluster), limits, now))


def _positions(cluster: Cluster) -> dict[str, int]:
    return {user: position for position, user in enumerate(cluster.line, start=1)}


def _reasons(
    cluster: Cluster, workflow: Workflow, positions: Mapping[str, int], limits: Limits, now: datetime
) -> Iterator[tuple[str, Waiting]]:
    causes = halted(workflow)
    heads = {branch: branch_head(workflow, branch) for branch in workflow.graph.branches}
    capacity: Waiting | None = None
    for job in workflow.jobs.values():
        if job.status is not JobStatus.PENDING:
            continue
        if job.job_id in causes:
            yield job.job_id, _halt(job, workflow.jobs[causes[job.job_id]])
        elif (needed := unmet_dependency(workflow, job)) is not None:
            detail = f"Waits for job {needed.key!r}, which it depends on."
            yield job.job_id, Waiting(kind="dependency", job_id=needed.job_id, detail=detail)
        elif (head := heads[job.spec.branch]) is not None and head is not job:
            detail = f"Behind job {head.key!r} in branch {job.spec.branch!r}."
            yield job.job_id, Waiting(kind="branch", job_id=head.job_id, detail=detail)
        elif job.not_before is not None and job.not_before > now:
            yield job.job_id, _pause(job, job.not_before)
        else:
            capacity = capacity or _capacity(cluster, positions.get(workflow.user_id), limits)
            yield job.job_id, capacity


def _halt(job: Job, cause: Job) -> Waiting:
    failed = cause.status is JobStatus.FAILED
    # Giving a failed job up lets its branch go on, but never what depends on it.
    cancelling_helps = failed and cause.spec.branch == job.spec.branch and cause.job_id not in job.spec.depends_on
    remedy = "retry or cancel it to go on" if cancelling_helps else "retry it to go on"
    detail = f"Halted: job {cause.key!r} {'failed' if failed else 'was cancelled'}; {remedy}."
    return Waiting(kind="halted", job_id=cause.job_id, detail=detail)


def _pause(job: Job, until: datetime) -> Waiting:
    why = f" after: {job.error.detail}" if job.error else ""
    detail = f"Attempt {job.attempt + 1} starts at {until:%H:%M:%S} UTC{why}"
    return Waiting(kind="retry", until=until, detail=detail)


def _capacity(cluster: Cluster, position: int | None, limits: Limits) -> Waiting:
    if position is not None:
        detail = f"{_ordinal(position)} in line for one of {limits.max_active_users} seats for active users."
        return Waiting(kind="seat", position=position, detail=detail)
    if len(cluster.running) >= limits.max_workers:
        return Waiting(kind="worker", detail=f"All {limits.max_workers} workers are busy.")
    return Waiting(kind="worker", detail="A worker is free; the job starts in a moment.")


def _ordinal(number: int) -> str:
    tens = number % 100
    ending = "th" if tens in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
