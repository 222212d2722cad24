"""The life of one job, phase by phase: what it waited for and how long, its attempts, what each stage took.

Promises: pure; what the job waited for is what the scheduler's own rules said after each transaction. Phases follow
each other without gaps from the submission to the end. Given one tenant's events only, it says nothing of others.
Refuses: to know workers that did not sign their events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPlanned,
    JobPreempted,
    JobReleased,
    JobRetried,
    JobSkipped,
    JobStarted,
    JobSucceeded,
    Message,
)
from microtome.domain import cluster as clusters
from microtome.domain import workflow as workflows
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.limits import Limits
from microtome.domain.scheduling import Waiting, waiting_in
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.eventlog.log import StoredEvent
from microtome.replay.fold import in_use

# All events of an imported log share a transaction; those of one append follow each other faster than this.
_TOGETHER = timedelta(milliseconds=5)
_NO_TIME = timedelta(0)
_NEVER = datetime.min.replace(tzinfo=UTC)
# What one tenant's events tell of waiting for what is shared with others.
_OWN_WORDS = {"seat": "In line for a seat.", "worker": "Its user had a seat; for a free worker slot."}


def without_others(waiting: Waiting) -> Waiting:
    """What of a reason is the tenant's own business: not who else waited, and not how much else ran."""
    if waiting.kind not in _OWN_WORDS:
        return waiting
    return Waiting(kind=waiting.kind, detail=_OWN_WORDS[waiting.kind])


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """A time in which nothing changed for the job: it waited for one thing, or one attempt ran."""

    kind: str
    """`running`, or what it waited for: a kind of `Waiting`."""
    detail: str
    since: datetime
    until: datetime | None = None
    """None: it lasts."""
    job_id: str | None = None
    """The job that was waited for."""
    position: int | None = None
    """Place in the line for a seat, from 1."""
    attempt: int | None = None

    def seconds(self, now: datetime) -> float:
        """How long it lasted, up to `now` if it lasts."""
        return ((self.until or now) - self.since).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt: in which slot, by whom, and what became of it."""

    number: int
    slot: int
    started_at: datetime
    planned_at: datetime | None = None
    ended_at: datetime | None = None
    outcome: str = "running"
    """running, succeeded, failed, lost, preempted or cancelled."""
    detail: str = ""
    tiles_total: int | None = None
    tiles_skipped: int | None = None
    workers: tuple[str, ...] = ()
    """Processes that reported on it, in order."""

    def seconds(self, now: datetime) -> float:
        """How long it ran, up to `now` if it runs."""
        return ((self.ended_at or now) - self.started_at).total_seconds()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeline:
    """The life of a job up to a moment."""

    job: Job
    workflow_id: str
    workflow_name: str
    user_id: str
    created_at: datetime
    now: datetime
    phases: tuple[Phase, ...]
    attempts: tuple[Attempt, ...]

    @property
    def stage_seconds(self) -> Mapping[str, float]:
        """Wall seconds of the stages of the attempt that succeeded."""
        result = self.job.result
        return {} if result is None else {stage.stage: stage.seconds for stage in result.stage_seconds}

    @property
    def waited_seconds(self) -> Mapping[str, float]:
        """Seconds waited, by what was waited for."""
        waited: dict[str, float] = {}
        for phase in self.phases:
            if phase.kind != "running":
                waited[phase.kind] = waited.get(phase.kind, 0.0) + phase.seconds(self.now)
        return waited


@dataclass(slots=True)
class Tracker:
    """Builds the timeline of a job from a log in its order: `take` every event, then `finish`.

    With `own`, the events are those of one tenant: what only others' events could tell is left unsaid.
    """

    workflow_id: str
    job_id: str
    limits: Limits
    own: bool = False
    cluster: Cluster = field(default_factory=Cluster)
    workflow: Workflow | None = None
    created_at: datetime | None = None
    _phases: list[Phase] = field(default_factory=list)
    _attempts: list[Attempt] = field(default_factory=list)
    _xid: int = 0
    _at: datetime | None = None
    _seen: tuple[object, ...] = ()
    # How long each sentence about the current phase was true: the one that was for longest is kept.
    _said: dict[str, timedelta] = field(default_factory=dict)
    _said_since: datetime = _NEVER

    def take(self, event: StoredEvent) -> None:
        """Fold the next event of the log."""
        if self._at is not None and (event.cursor.xid != self._xid or event.at - self._at > _TOGETHER):
            # Events of one transaction happened together; only what held after the last of them held at all.
            self._look()
        self._xid = event.cursor.xid
        self._at = event.at if self._at is None else max(self._at, event.at)
        self._pass_until(self._at)
        self.limits = in_use(self.limits, event)
        self.cluster = clusters.evolve(self.cluster, event.message, event.at, event.stream)
        if event.stream == STREAM_PREFIX + self.workflow_id:
            self.workflow = workflows.evolve(self.workflow, event.message, event.at)
            if self.created_at is None and self.job_id in self.workflow.jobs:
                self.created_at = event.at
            if getattr(event.message, "job_id", None) == self.job_id:
                self._note(event)

    def finish(self, now: datetime) -> Timeline | None:
        """Return the timeline up to `now`; None when the job was not there yet."""
        self._look()
        if self.workflow is None or self.created_at is None:
            return None
        now = now if self._at is None else max(now, self._at)
        self._pass_until(now)
        return Timeline(
            job=self.workflow.jobs[self.job_id],
            workflow_id=self.workflow_id,
            workflow_name=self.workflow.name,
            user_id=self.workflow.user_id,
            created_at=self.created_at,
            now=now,
            phases=tuple(self._phases),
            attempts=tuple(self._attempts),
        )

    def _look(self) -> None:
        """See what the job waits for after a transaction."""
        if self._at is not None and self.workflow is not None and self.job_id in self.workflow.jobs:
            cluster = self.cluster
            full = len(cluster.running) >= self.limits.max_workers
            seen = (self.workflow, cluster.line, cluster.seats, full)
            if len(self._seen) == len(seen) and all(one is other for one, other in zip(seen, self._seen, strict=True)):
                return
            self._seen = seen
            self._enter(self._phase(self._at), self._at)

    def _pass_until(self, now: datetime) -> None:
        """A pause before a retry ends by the clock, not by an event."""
        if not self._phases or (last := self._phases[-1]).kind != "retry" or last.until is not None:
            return
        assert self.workflow is not None
        over = self.workflow.jobs[self.job_id].not_before
        if over is not None and over <= now:
            over = max(over, last.since)
            self._enter(self._phase(over), over)

    def _phase(self, at: datetime) -> Phase | None:
        assert self.workflow is not None
        job = self.workflow.jobs[self.job_id]
        if job.status is JobStatus.RUNNING:
            detail = f"Attempt {job.attempt} in slot {job.slot}."
            return Phase(kind="running", detail=detail, since=at, attempt=job.attempt)
        if job.status.terminal:
            return None
        reason = waiting_in(self.cluster, self.workflow, self.limits, at, job_id=self.job_id).get(self.job_id)
        return None if reason is None else self._waiting(reason, at)

    def _waiting(self, reason: Waiting, at: datetime) -> Phase:
        if self.own:
            reason = without_others(reason)
        return Phase(kind=reason.kind, detail=reason.detail, since=at, job_id=reason.job_id, position=reason.position)

    def _enter(self, phase: Phase | None, at: datetime) -> None:
        last = self._phases[-1] if self._phases else None
        if last is not None and last.until is None:
            self._said[last.detail] = self._said.get(last.detail, _NO_TIME) + (at - self._said_since)
            self._said_since = at
            if phase is not None and _same(last, phase):
                self._phases[-1] = replace(last, detail=phase.detail)
                return
            if at > last.since:
                self._phases[-1] = replace(last, until=at, detail=max(self._said, key=lambda said: self._said[said]))
            else:
                self._phases.pop()  # it never lasted
        if phase is not None:
            self._phases.append(phase)
            self._said, self._said_since = {}, at

    def _note(self, event: StoredEvent) -> None:
        """Keep the attempts up to date with an event about the job."""
        message = event.message
        if isinstance(message, JobStarted):
            self._attempts.append(Attempt(number=message.attempt, slot=message.slot, started_at=event.at))
            return
        if not self._attempts or (last := self._attempts[-1]).ended_at is not None:
            return
        worker = event.meta.get("worker")
        if worker and worker not in last.workers:
            last = replace(last, workers=(*last.workers, worker))
        if isinstance(message, JobPlanned):
            last = replace(
                last, planned_at=event.at, tiles_total=message.tiles_total, tiles_skipped=message.tiles_skipped
            )
        elif (outcome := _outcome(message)) is not None:
            if isinstance(message, JobAttemptLost):
                # An owner is a worker and a token of its own for the lease.
                owner = message.owner.partition("/")[0]
                if owner and owner not in last.workers:
                    last = replace(last, workers=(*last.workers, owner))
            last = replace(last, ended_at=event.at, outcome=outcome[0], detail=outcome[1])
        self._attempts[-1] = last


def _same(one: Phase, other: Phase) -> bool:
    return (one.kind, one.job_id, one.position, one.attempt) == (
        other.kind,
        other.job_id,
        other.position,
        other.attempt,
    )


def _outcome(message: Message) -> tuple[str, str] | None:
    match message:
        case JobSucceeded():
            return "succeeded", ""
        case JobFailed(code=code, detail=detail):
            return "failed", f"{code}: {detail}"
        case JobAttemptLost(reason=reason):
            return "lost", reason
        case JobPreempted():
            return "preempted", "Its slot went to a user who had none."
        case JobCancelled():
            return "cancelled", "The user cancelled the job."
        case JobSkipped() | JobRetried() | JobReleased() | _:
            return None
