"""The laws of scheduling, checked on the events alone.

Promises: knows nothing of the domain's code: plain dictionaries, searched through each time; every law is asserted at
every position of a log (`take`), after every append (`settled`) and after every look of the scheduler (`looked`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from microtome.contracts.messages import (
    ArtifactsDeleted,
    BranchPolicy,
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobPreempted,
    JobReleased,
    JobRetried,
    JobsAdded,
    JobSkipped,
    JobSpec,
    JobStarted,
    JobSucceeded,
    Message,
    SeatGranted,
    SeatReleased,
    WorkflowSubmitted,
)
from microtome.domain.limits import Limits

NOTHING = {"FAILED", "CANCELLED", "SKIPPED"}


class Violation(AssertionError):
    """A law was broken."""


def law(holds: bool, text: str, *about: object) -> None:
    if not holds:
        raise Violation(f"{text}: {about}")


@dataclass
class Life:
    """What happened to one job so far."""

    spec: JobSpec
    flow: str
    user: str
    status: str
    attempt: int = 0
    slot: int | None = None
    not_before: datetime | None = None
    started_at: datetime | None = None
    cause: str | None = None


@dataclass
class Laws:
    """Folds events and asserts."""

    limits: Limits
    lives: dict[str, Life] = field(default_factory=dict)
    lines: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    policies: dict[tuple[str, str], BranchPolicy] = field(default_factory=dict)
    seats: dict[str, int] = field(default_factory=dict)
    granted: dict[str, datetime] = field(default_factory=dict)
    since: dict[str, int] = field(default_factory=dict)
    """Users who need a seat, with the position since which."""
    flows: dict[str, str] = field(default_factory=dict)
    positions: int = 0
    starts: int = 0
    preemptions: int = 0
    skips: int = 0
    searched: tuple[int, set[str]] = field(default_factory=lambda: (-1, set()))
    """What `stuck` found, and at which position: a search is the slowest part of all."""

    def take(self, event: Message, at: datetime, stream: str) -> None:
        self.positions += 1
        match event:
            case WorkflowSubmitted() | JobsAdded():
                self._jobs(event)
            case SeatGranted(user_id=user, seat=seat):
                law(user not in self.seats and seat not in self.seats.values(), "a seat has one user", user, seat)
                law(0 <= seat < self.limits.max_active_users, "seats are numbered below the limit", seat)
                law(user in self.since, "a seat is for who needs one", user)
                law(self.since[user] == min(self.since.values()), "the line for seats is first come first served", user)
                del self.since[user]
                self.seats[user], self.granted[user] = seat, at
            case SeatReleased(user_id=user, seat=seat):
                law(self.seats.get(user) == seat, "a seat is given up by its user", user, seat)
                law(not any(job.user == user for job in self.running()), "who gives up a seat runs nothing", user)
                del self.seats[user]
                if self.needs_seat(user):
                    law(self.limits.seat_tenure is not None, "a seat is kept while work is left", user)
                    law(at - self.granted[user] >= self.limits.seat_tenure, "a seat is kept for its tenure", user)
                    law(bool(self.since), "a seat is given up early only for others", user)
                    self.since[user] = self.positions
            case _:
                self._job(event, at)
        law(len(self.seats) <= self.limits.max_active_users, "no more users are active than allowed", self.seats)
        law(len(self.running()) <= self.limits.max_workers, "no more jobs run than allowed")

    def _jobs(self, event: WorkflowSubmitted | JobsAdded) -> None:
        flow = event.workflow_id
        user = self.flows.setdefault(flow, event.user_id)
        for branch in event.branches:
            policy = branch.policy or BranchPolicy.HALT
            law(self.policies.get((flow, branch.name), policy) is policy, "a policy never changes", branch)
            self.policies[flow, branch.name] = policy
        for spec in event.jobs:
            law(spec.job_id not in self.lives, "a job is submitted once", spec.job_id)
            self.lives[spec.job_id] = Life(spec, flow, user, "DRAFT" if spec.draft else "PENDING")
            if not spec.draft:
                self.lines.setdefault((flow, spec.branch), []).append(spec.job_id)

    def _job(self, event: Message, at: datetime) -> None:
        job = self.lives[event.job_id]  # type: ignore[attr-defined]
        match event:
            case JobStarted():
                self._start(job, event, at)
            case JobPlanned(attempt=attempt):
                law(job.status == "RUNNING" and job.attempt == attempt, "the running attempt is planned", event)
            case JobSucceeded(attempt=attempt):
                self._end(job, attempt, "SUCCEEDED", event)
            case JobFailed(attempt=attempt, retry_at=retry_at):
                self._end(job, attempt, "FAILED" if retry_at is None else "PENDING", event)
                job.not_before = retry_at
            case JobAttemptLost(attempt=attempt):
                self._end(job, attempt, "PENDING", event)
            case JobPreempted(attempt=attempt):
                self.preemptions += 1
                self._end(job, attempt, "PENDING", event)
            case JobSkipped(cause_job_id=cause):
                self.skips += 1
                law(job.status in ("PENDING", "SKIPPED"), "what is skipped was pending", event, job)
                law(cause in self.reasons(job), "a job is skipped for a reason", event)
                job.status, job.cause = "SKIPPED", cause
            case JobCancelled():
                law(job.status in ("DRAFT", "PENDING", "RUNNING", "FAILED"), "what ended is not cancelled", event, job)
                job.status, job.slot, job.not_before = "CANCELLED", None, None
            case JobRetried():
                law(job.status in NOTHING, "a terminal state is left only from nothing, by a retry", event, job)
                job.status, job.not_before, job.cause = "PENDING", None, None
            case JobReleased():
                line = self.lines.setdefault((job.flow, job.spec.branch), [])
                law(job.spec.draft and job.spec.job_id not in line, "a draft is started once", event)
                law(job.status in ("DRAFT", "CANCELLED"), "a draft is started, or retried when it was cancelled", event)
                job.status = "PENDING"
                line.append(job.spec.job_id)
            case ArtifactsDeleted():
                law(job.status == "SUCCEEDED", "files are deleted of what has some", event)

    def _start(self, job: Life, event: JobStarted, at: datetime) -> None:
        self.starts += 1
        law(job.status == "PENDING", "a pending job starts", event, job)
        law(event.attempt == job.attempt + 1, "attempts are numbered without gaps", event, job)
        law(job.not_before is None or job.not_before <= at, "a retry waits for its time", event)
        law(job.user in self.seats, "who starts has a seat", event)
        law(event.slot in range(self.limits.max_workers), "slots are numbered below the limit", event)
        law(all(other.slot != event.slot for other in self.running()), "a slot holds one job", event)
        for needed in job.spec.depends_on:
            law(self.lives[needed].status == "SUCCEEDED", "dependencies succeeded", event)
        line = self.lines[job.flow, job.spec.branch]
        mine = line.index(job.spec.job_id)
        for place, other in enumerate(line):
            status = self.lives[other].status
            law(status != "RUNNING", "one job of a branch runs at a time", event, other)
            if place < mine:
                law(status != "PENDING", "a branch is first in first out", event, other)
                passed = status != "FAILED" or self.policy(job) is BranchPolicy.CONTINUE
                law(passed, "a failed job halts its branch", event, other)
        job.status, job.attempt, job.slot, job.started_at = "RUNNING", event.attempt, event.slot, at

    def _end(self, job: Life, attempt: int, status: str, event: Message) -> None:
        law(job.status == "RUNNING" and job.attempt == attempt, "what ends is the running attempt", event, job)
        job.status, job.slot, job.not_before = status, None, None

    # What follows from the rules, by searching.

    def policy(self, job: Life) -> BranchPolicy:
        return self.policies.get((job.flow, job.spec.branch), BranchPolicy.HALT)

    def running(self) -> list[Life]:
        return [job for job in self.lives.values() if job.status == "RUNNING"]

    def earlier(self, job: Life) -> list[Life]:
        line = self.lines.get((job.flow, job.spec.branch), [])
        place = line.index(job.spec.job_id) if job.spec.job_id in line else len(line)
        return [self.lives[other] for other in line[:place]]

    def reasons(self, job: Life) -> list[str]:
        """The jobs because of which this one is to be skipped, if it is not to run."""
        policy = self.policy(job)
        if policy not in (BranchPolicy.SKIP, BranchPolicy.CONTINUE):
            return []
        found = [needed for needed in job.spec.depends_on if self.lives[needed].status in NOTHING]
        if policy is BranchPolicy.SKIP:
            found += [other.spec.job_id for other in self.earlier(job) if other.status in ("FAILED", "SKIPPED")]
        return found

    def stuck(self) -> set[str]:
        """The pending jobs that only a user can set going: the least set that holds those held by others."""
        if self.searched[0] == self.positions:
            return self.searched[1]
        stuck: set[str] = set()
        while True:
            more = {
                job_id
                for job_id, job in self.lives.items()
                if job.status == "PENDING" and job_id not in stuck and self._held(job, stuck)
            }
            if not more:
                self.searched = (self.positions, stuck)
                return stuck
            stuck |= more

    def _held(self, job: Life, stuck: set[str]) -> bool:
        for needed in job.spec.depends_on:
            if self.lives[needed].status in NOTHING or self.lives[needed].status == "DRAFT" or needed in stuck:
                return True
        held_up = self.policy(job) is not BranchPolicy.CONTINUE
        return any((held_up and other.status == "FAILED") or other.spec.job_id in stuck for other in self.earlier(job))

    def ready(self) -> dict[str, Life]:
        """The pending jobs that wait for capacity or a retry time alone."""
        found = {}
        for line in self.lines.values():
            jobs = [self.lives[job_id] for job_id in line]
            if not jobs or any(job.status == "RUNNING" for job in jobs):
                continue
            halts = self.policy(jobs[0]) is not BranchPolicy.CONTINUE
            head = next((job for job in jobs if job.status == "PENDING" or (halts and job.status == "FAILED")), None)
            if head is None or head.status != "PENDING":
                continue
            if all(self.lives[needed].status == "SUCCEEDED" for needed in head.spec.depends_on):
                found[head.spec.job_id] = head
        return found

    def needs_seat(self, user: str) -> bool:
        stuck = self.stuck()
        return any(
            job.user == user and (job.status == "RUNNING" or (job.status == "PENDING" and job_id not in stuck))
            for job_id, job in self.lives.items()
        )

    def users_at_work(self) -> set[str]:
        stuck = self.stuck()
        return {
            job.user
            for job_id, job in self.lives.items()
            if job.status == "RUNNING" or (job.status == "PENDING" and job_id not in stuck)
        }

    def settled(self) -> None:
        """After an append: nothing is left to be skipped, and everybody who needs a seat has one or is in line."""
        for job_id, job in self.lives.items():
            if job.status == "PENDING":
                law(not self.reasons(job), "what can come to nothing only is skipped", job_id)
            elif job.status == "SKIPPED":
                law(self.lives[job.cause or ""].status in NOTHING, "what is skipped names what stands in its way", job)
        at_work = self.users_at_work()
        for user in [user for user in self.since if user not in at_work]:
            del self.since[user]
        for user in sorted(at_work - set(self.seats) - set(self.since)):
            self.since[user] = self.positions

    def looked(self, now: datetime) -> None:
        """After a look of the scheduler: room and work do not face each other, and nobody starves."""
        limits = self.limits
        law(set(self.seats) <= self.users_at_work(), "who has nothing to do has no seat", self.seats)
        if self.since:
            law(len(self.seats) == limits.max_active_users, "nobody waits for a seat that is free", self.since)
        over = []
        if limits.seat_tenure is not None and self.since:
            over = [user for user, at in self.granted.items() if user in self.seats and now - at >= limits.seat_tenure]
        busy: dict[str, list[Life]] = {}
        for job in self.running():
            busy.setdefault(job.user, []).append(job)
        for user in over:
            law(user in busy or len(over) > len(self.since), "who stays after the tenure has work to finish", user)
        for job_id, job in self.ready().items():
            startable = job.not_before is None or job.not_before <= now
            if not startable or job.user not in self.seats or job.user in over:
                continue
            law(len(self.running()) == limits.max_workers, "nobody waits for a slot that is free", job_id)
            if job.user not in busy:
                most = max(map(len, busy.values()))
                law(most == 1, "nobody has two slots while another has none", job_id, most)
                longest = min(other.started_at for other in self.running() if other.started_at is not None)
                law(now - longest < limits.time_slice, "nobody has a slot for longer than the slice", job_id)
