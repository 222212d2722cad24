"""What the scheduler knows: the workflows that may still run, who is active, who waits, what runs where.

Promises: `Cluster` is the fold of the whole log, in log order, with `evolve`; occupancy is read off the workflows and
seats and never counted up and down. A version shares almost everything with the one before, so an event costs
microseconds with 100,000 workflows as with ten.
Refuses: to remember a workflow in which every job succeeded. Failed and cancelled ones stay, since the user may retry
them; jobs that are added to a forgotten one bring along all there is to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TypeVar

from microtome.contracts.messages import (
    ArtifactsDeleted,
    JobsAdded,
    Message,
    SeatGranted,
    SeatReleased,
    WorkflowSubmitted,
)
from microtome.domain import evolution
from microtome.domain.eligibility import all_succeeded, runnable_work_left
from microtome.domain.evolution import AboutJob
from microtome.domain.persistent import PersistentMap
from microtome.domain.rates import Rates
from microtome.domain.standing import PENDING, RUNNING, SUCCEEDED
from microtome.domain.state import Job, Workflow
from microtome.errors import NotFound

V = TypeVar("V")
STREAM_PREFIX = "workflow-"


@dataclass(frozen=True, slots=True, order=True)
class Seat:
    """What makes a user active. Seats sort by their numbers."""

    number: int
    granted_at: datetime
    tiles: int = 0
    """Work that the user's jobs finished since, on top of what those who were active before had the least of: who comes
    new is level with the others, neither ahead of them nor behind.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A job that occupies a worker slot."""

    user_id: str
    workflow_id: str
    job_id: str
    attempt: int
    slot: int
    tiles: int
    """The job's work, as far as it is known."""
    started_at: datetime
    moment: int
    """When it started, in the order of the log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Everything that scheduling depends on, but for the limits and the time.

    Moments in the log are numbers of events folded so far.
    """

    moment: int = 0
    workflows: PersistentMap[Workflow] = field(default_factory=PersistentMap)
    """All workflows with a job that did not succeed, by id."""
    live: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Users with work that can run by itself: their workflows that have some, each with the moment that it came to."""
    line: Mapping[str, int] = field(default_factory=dict)
    """Users who wait for a seat, first come first, each with the moment since when."""
    seats: Mapping[str, Seat] = field(default_factory=dict)
    """Active users and the seat they hold."""
    running: Mapping[str, Running] = field(default_factory=dict)
    """Running jobs by id."""
    retries: Mapping[str, datetime] = field(default_factory=dict)
    """Pending jobs that start no earlier than a time."""
    last_started: Mapping[str, int] = field(default_factory=dict)
    """When an active user's latest job started; whose turn it is among equals follows from it."""
    rates: Rates = field(default_factory=Rates)
    """How fast jobs go."""


def evolve(cluster: Cluster, event: Message, at: datetime, stream: str) -> Cluster:
    """Return the cluster after `event` of `stream`, a fact since `at`; raises NotFound for an unknown workflow."""
    if isinstance(event, AboutJob):
        return _job(cluster, event, at, stream)
    if isinstance(event, WorkflowSubmitted):
        return _grown(cluster, evolution.evolve(None, event, at))
    if isinstance(event, JobsAdded):
        return _grown(cluster, evolution.evolve(cluster.workflows.get(event.workflow_id), event, at))
    moment = cluster.moment + 1
    if isinstance(event, SeatGranted):
        seats = {**cluster.seats, event.user_id: Seat(event.seat, at, _level(cluster, at))}
        return replace(cluster, moment=moment, seats=seats, line=_without(cluster.line, event.user_id))
    if isinstance(event, SeatReleased):
        return _stand_up(cluster, event.user_id)
    return replace(cluster, moment=moment)


def _without(mapping: Mapping[str, V], key: str) -> Mapping[str, V]:
    return {k: v for k, v in mapping.items() if k != key} if key in mapping else mapping


def _stand_up(cluster: Cluster, user: str) -> Cluster:
    # Work may be left, since the tenure of the seat is over, or because it arrived after the scheduler decided: the
    # user then joins the line, at its end.
    moment = cluster.moment + 1
    return replace(
        cluster,
        moment=moment,
        seats=_without(cluster.seats, user),
        last_started=_without(cluster.last_started, user),
        line={**cluster.line, user: moment} if user in cluster.live else cluster.line,
    )


def _grown(cluster: Cluster, workflow: Workflow) -> Cluster:
    moment = cluster.moment + 1
    live, line = _work(cluster, workflow, moment)
    known = cluster.workflows.set(workflow.workflow_id, workflow)
    return replace(cluster, moment=moment, workflows=known, live=live, line=line)


def _job(cluster: Cluster, event: AboutJob, at: datetime, stream: str) -> Cluster:
    workflow_id = stream.removeprefix(STREAM_PREFIX)
    workflow = cluster.workflows.get(workflow_id)
    moment = cluster.moment + 1
    if isinstance(event, ArtifactsDeleted) and (workflow is None or event.job_id not in workflow.jobs):
        return replace(cluster, moment=moment)
    if workflow is None:
        raise NotFound(f"A {type(event).__name__} in {stream} belongs to no workflow that could still change.")
    following = evolution.evolve(workflow, event, at)
    before, job = workflow.jobs[event.job_id], following.jobs[event.job_id]
    done = job.status is SUCCEEDED and all_succeeded(following)
    known = cluster.workflows.drop(workflow_id) if done else cluster.workflows.set(workflow_id, following)
    live, line = _work(cluster, following, moment)
    user = workflow.user_id
    finishes = job.status is SUCCEEDED and before.status is RUNNING
    starts = job.status is RUNNING and before.status is not RUNNING
    tiles = before.tiles if finishes else cluster.rates.tiles(job, job.ran) if job.ran != before.ran else 0
    return Cluster(
        moment=moment,
        workflows=known,
        live=live,
        line=line,
        seats=_credited(cluster.seats, user, tiles - cluster.rates.tiles(before, before.ran))
        if tiles
        else cluster.seats,
        running=_running(cluster, following, job, moment),
        retries=_retries(cluster.retries, job),
        last_started={**cluster.last_started, user: moment} if starts else cluster.last_started,
        rates=cluster.rates.after(replace(before, result=job.result), at) if finishes else cluster.rates,
    )


def _level(cluster: Cluster, at: datetime) -> int:
    """Return the least work that an active user has finished."""
    work = {user: seat.tiles for user, seat in cluster.seats.items()}
    for running in cluster.running.values():
        job = cluster.workflows[running.workflow_id].jobs[running.job_id]
        before, now = job.ran, job.ran + max(at - running.started_at, timedelta(0))
        work[running.user_id] += cluster.rates.tiles(job, now) - cluster.rates.tiles(job, before)
    return min(work.values(), default=0)


def _credited(seats: Mapping[str, Seat], user: str, tiles: int) -> Mapping[str, Seat]:
    seat = seats.get(user)
    if seat is None:
        return seats
    return {**seats, user: Seat(seat.number, seat.granted_at, seat.tiles + tiles)}


def _running(cluster: Cluster, workflow: Workflow, job: Job, moment: int) -> Mapping[str, Running]:
    running = cluster.running
    if job.status is not RUNNING:
        return _without(running, job.job_id)
    known = running.get(job.job_id)
    if known is not None:
        return running if known.tiles == job.tiles else {**running, job.job_id: replace(known, tiles=job.tiles)}
    assert job.slot is not None
    assert job.started_at is not None
    started = Running(
        user_id=workflow.user_id,
        workflow_id=workflow.workflow_id,
        job_id=job.job_id,
        attempt=job.attempt,
        slot=job.slot,
        tiles=job.tiles,
        started_at=job.started_at,
        moment=moment,
    )
    return {**running, job.job_id: started}


def _retries(retries: Mapping[str, datetime], job: Job) -> Mapping[str, datetime]:
    if job.status is PENDING and job.not_before is not None:
        return {**retries, job.job_id: job.not_before}
    return _without(retries, job.job_id)


def _work(
    cluster: Cluster, workflow: Workflow, moment: int
) -> tuple[Mapping[str, Mapping[str, int]], Mapping[str, int]]:
    """Return `live` and `line` after the workflow changed."""
    user, workflow_id = workflow.user_id, workflow.workflow_id
    theirs = cluster.live.get(user, {})
    live, line = cluster.live, cluster.line
    if runnable_work_left(workflow) == (workflow_id in theirs):
        return live, line
    theirs = _without(theirs, workflow_id) if workflow_id in theirs else {**theirs, workflow_id: moment}
    if not theirs:
        return _without(live, user), _without(line, user)
    if user not in cluster.seats and user not in line:
        line = {**line, user: moment}
    return {**live, user: theirs}, line
