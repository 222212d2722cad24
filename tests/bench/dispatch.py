"""How long jobs waited for the scheduler, read off a log.

A job is eligible from the moment at which the last thing that the law asks for came true: it was submitted, its
dependencies and the job before it in its branch ended, its user got a seat, and the slot that it then got was free.
Everything after that is the scheduler's doing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from microtome.contracts.messages import (
    JobAttemptLost,
    JobCancelled,
    JobFailed,
    JobPreempted,
    JobSpec,
    JobStarted,
    JobSucceeded,
    SeatGranted,
    SeatReleased,
    WorkflowSubmitted,
)
from microtome.eventlog.log import StoredEvent

_ENDS = (JobSucceeded, JobFailed, JobAttemptLost, JobCancelled, JobPreempted)


@dataclass
class Ledger:
    """What the log says happened; times are the database's."""

    starts: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    """Job → (eligible, started), of its first attempt."""
    most_active: int = 0
    most_running: int = 0
    fifo_violations: int = 0
    served: dict[str, list[datetime]] = field(default_factory=dict)


@dataclass
class _Job:
    spec: JobSpec
    user: str
    before: list[str]
    since: datetime
    ended: datetime | None = None
    slot: int | None = None


def read(events: Iterable[StoredEvent]) -> Ledger:
    """Go through a log in its order."""
    ledger = Ledger()
    jobs: dict[str, _Job] = {}
    seats: dict[str, datetime] = {}
    freed: dict[int, datetime] = {}
    running: set[str] = set()
    for event in events:
        match event.message:
            case WorkflowSubmitted(jobs=specs, user_id=user):
                line: dict[str, list[str]] = {}
                for spec in specs:
                    branch = line.setdefault(spec.branch, [])
                    jobs[spec.job_id] = _Job(spec, user, list(branch[-1:]), event.at)
                    branch.append(spec.job_id)
            case SeatGranted(user_id=user):
                seats[user] = event.at
                ledger.most_active = max(ledger.most_active, len(seats))
            case SeatReleased(user_id=user):
                seats.pop(user)
            case JobStarted(job_id=job_id, slot=slot):
                job = jobs[job_id]
                awaited = [jobs[one].ended for one in (*job.before, *job.spec.depends_on)]
                ledger.fifo_violations += sum(1 for one in job.before if jobs[one].ended is None)
                times = [job.since, seats[job.user], *(one for one in awaited if one)]
                times += [freed[slot]] if slot in freed else []
                ledger.starts.setdefault(job_id, (max(times), event.at))
                job.slot = slot
                running.add(job_id)
                ledger.most_running = max(ledger.most_running, len(running))
                ledger.served.setdefault(job.user, []).append(event.at)
            case ended if isinstance(ended, _ENDS):
                job = jobs[ended.job_id]
                if job.slot is not None:
                    freed[job.slot] = event.at
                    running.discard(ended.job_id)
                    job.slot = None
                if isinstance(ended, (JobSucceeded, JobCancelled)):
                    job.ended = event.at
            case _:
                pass
    return ledger
