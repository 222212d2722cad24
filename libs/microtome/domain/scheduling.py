"""Which job starts, and which one gives its slot to another user.

A job starts when, in this order: its dependencies succeeded, it is the head of its branch, its user holds a seat, a
worker slot is free. A slot goes to the seated user who has no running job; among several, and when everybody has one,
to the one with the least work (tiles of running jobs and those finished, see `Seat.tiles`), then to the one whose last
start is longest ago, then to the oldest work. Of one user's jobs the oldest goes first.

When a seated user could start a job, has none running, and no slot is free, somebody gives one up: the user with the
most running jobs, if more than one, their youngest; else the job that has run longest, if its time slice is over.

Promises: pure; applying the decisions in their order keeps every limit, and afterwards nothing that could run is left
waiting while there is room. A slot is taken only to be given at once to a user who has none.
Refuses: to act. The scheduler turns decisions into events.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from microtome.domain.cluster import Cluster, Running, Seat
from microtome.domain.graph import members
from microtome.domain.limits import Limits
from microtome.domain.seating import GrantSeat, ReleaseSeat, leaving, lowest_free, seat_line, seating
from microtome.domain.state import Job
from microtome.domain.waiting import Waiting, positions, waiting, waiting_in

__all__ = [
    "Decision",
    "GrantSeat",
    "Limits",
    "PreemptJob",
    "ReleaseSeat",
    "StartJob",
    "Waiting",
    "leaving",
    "next_wakeup",
    "positions",
    "schedule",
    "seat_line",
    "waiting",
    "waiting_in",
]


@dataclass(frozen=True, slots=True)
class PreemptJob:
    """The attempt gives its slot to the job that the next decision starts."""

    workflow_id: str
    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class StartJob:
    """The next attempt at the job begins in this slot."""

    workflow_id: str
    job_id: str
    slot: int


Decision: TypeAlias = ReleaseSeat | GrantSeat | PreemptJob | StartJob


def schedule(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    """Return what to do now, to be applied together and in this order."""
    seated, seats = seating(cluster, limits, now)
    return (*seated, *_Slots(cluster, seats, limits, now).decisions())


class _Slots:
    """One sharing out of the worker slots."""

    def __init__(self, cluster: Cluster, seats: Mapping[str, Seat], limits: Limits, now: datetime) -> None:
        self._limits = limits
        self._now = now
        self._running = dict(cluster.running)
        self._slots = {job_id: running.slot for job_id, running in cluster.running.items()}
        self._busy = dict.fromkeys(seats, 0)
        self._work = {user: seat.tiles for user, seat in seats.items()}
        for running in cluster.running.values():
            self._busy[running.user_id] = self._busy.get(running.user_id, 0) + 1
            self._work[running.user_id] = self._work.get(running.user_id, 0) + running.tiles
        self._last = {user: cluster.last_started.get(user, 0) for user in seats}
        self._turn = cluster.moment
        self._queues = {user: _candidates(cluster, user, now) for user in seats}
        self._heads = {user: head for user, queue in self._queues.items() if (head := next(queue, None))}

    def decisions(self) -> Iterator[PreemptJob | StartJob]:
        while self._heads:
            user = min(self._heads, key=self._claim)
            if len(self._slots) >= self._limits.max_workers:
                victim = None if self._busy[user] else self._victim()
                if victim is None:
                    return
                self._give_up(victim)
                yield PreemptJob(victim.workflow_id, victim.job_id, victim.attempt)
            slot = lowest_free(self._slots, self._limits.max_workers)
            assert slot is not None
            yield self._start(user, slot)

    def _claim(self, user: str) -> tuple[bool, int, int, int]:
        """Whose turn it is: the user for whom this is least."""
        return self._busy[user] > 0, self._work[user], self._last[user], self._heads[user][0]

    def _start(self, user: str, slot: int) -> StartJob:
        _, workflow_id, job = self._heads[user]
        self._slots[job.job_id] = slot
        self._turn += 1
        self._busy[user] += 1
        self._work[user] += job.tiles
        self._last[user] = self._turn
        following = next(self._queues[user], None)
        if following is None:
            del self._heads[user]
        else:
            self._heads[user] = following
        return StartJob(workflow_id, job.job_id, slot)

    def _victim(self) -> Running | None:
        """Return the job whose slot goes to a user who has none. None when everybody has few and has them shortly.

        Users without a job come before all others, so none of the jobs that run was started just now.
        """
        if len(self._slots) > self._limits.max_workers or not self._running:
            return None
        owners = {running.user_id for running in self._running.values()}
        richest = max(owners, key=lambda user: (self._busy[user], self._work[user], user))
        if self._busy[richest] > 1:
            theirs = (running for running in self._running.values() if running.user_id == richest)
            return max(theirs, key=lambda running: running.moment)
        longest = min(self._running.values(), key=lambda running: running.moment)
        return longest if self._now - longest.started_at >= self._limits.time_slice else None

    def _give_up(self, victim: Running) -> None:
        user = victim.user_id
        del self._slots[victim.job_id], self._running[victim.job_id]
        self._busy[user] -= 1
        self._work[user] -= victim.tiles
        if not self._busy[user]:
            # Their next claim is a new one, for the next look; else two users could take turns within this one.
            self._heads.pop(user, None)


def _candidates(cluster: Cluster, user: str, now: datetime) -> Iterator[tuple[int, str, Job]]:
    """Yield the user's startable jobs, oldest first; lazily, for only a few slots can be free."""
    for workflow_id, moment in cluster.live.get(user, {}).items():
        workflow = cluster.workflows[workflow_id]
        for turn in members(workflow.ready):
            job = workflow.at_turn(turn)
            if job.not_before is None or job.not_before <= now:
                yield moment, workflow_id, job


def next_wakeup(cluster: Cluster, now: datetime, limits: Limits | None = None) -> datetime | None:
    """Return the next time after `now` at which time alone can make a difference: a job may be tried again, and, with
    `limits`, the tenure of a seat or a job's time slice is over.
    """
    times = [at for at in cluster.retries.values() if at > now]
    if limits is not None:
        if limits.seat_tenure is not None and cluster.line:
            times += (seat.granted_at + limits.seat_tenure for seat in cluster.seats.values())
        owners = {running.user_id for running in cluster.running.values()}
        if len(cluster.running) >= limits.max_workers and any(user not in owners for user in cluster.seats):
            times += (running.started_at + limits.time_slice for running in cluster.running.values())
    return min((at for at in times if at > now), default=None)
