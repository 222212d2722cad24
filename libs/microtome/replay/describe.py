"""Events in words.

Promises: one line for each fact, in the words of the rest of Microtome; jobs by the user's own names where those are
known. Refuses: to look anything up.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta

from microtome.contracts.codec import to_json
from microtome.contracts.messages import (
    ArtifactsDeleted,
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
    SlideDeleted,
    SlideRegistered,
    WorkflowSubmitted,
)
from microtome.eventlog.log import StoredEvent

_SHORT = 8


def short(identity: str) -> str:
    """The first characters of a UUID, enough for people; other ids as they are."""
    return identity[:_SHORT] if len(identity) == 36 and identity.count("-") == 4 else identity


class Names:
    """The users' names for their jobs, learned from the events that one has seen."""

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}

    def learn(self, message: Message) -> None:
        """Note the keys of the jobs that an event brings."""
        if isinstance(message, WorkflowSubmitted | JobsAdded):
            self._keys.update((job.job_id, job.key) for job in message.jobs)

    def job(self, job_id: str) -> str:
        """`key (id)`, or the id alone if the key was never seen."""
        key = self._keys.get(job_id)
        return short(job_id) if key is None else f"{key} ({short(job_id)})"


def sentence(message: Message, names: Names) -> str:
    """What an event says, in a line. Never raises for an event of the contract."""
    match message:
        case WorkflowSubmitted(name=name, jobs=jobs):
            return f"{name!r} with {_jobs(jobs)}"
        case JobsAdded(jobs=jobs):
            return f"{_jobs(jobs)} more"
        case JobStarted(job_id=job_id, attempt=attempt, slot=slot):
            return f"{names.job(job_id)}: attempt {attempt} in slot {slot}"
        case JobPlanned(job_id=job_id, tiles_total=total, tiles_skipped=skipped):
            return f"{names.job(job_id)}: {total} tiles, {skipped} of them without tissue"
        case JobSucceeded(job_id=job_id, attempt=attempt, result=result):
            cells = "" if result is None or result.cells is None else f", {result.cells:,} cells"
            return f"{names.job(job_id)}: attempt {attempt}{cells}"
        case JobFailed(job_id=job_id, attempt=attempt, code=code, detail=detail, retry_at=retry_at):
            again = "" if retry_at is None else f"; again from {clock(retry_at)}"
            return f"{names.job(job_id)}: attempt {attempt}, {code}: {detail}{again}"
        case JobAttemptLost(job_id=job_id, attempt=attempt, owner=owner, reason=reason):
            return f"{names.job(job_id)}: attempt {attempt} of {owner or 'nobody'}: {reason}"
        case JobPreempted(job_id=job_id, attempt=attempt):
            return f"{names.job(job_id)}: attempt {attempt} gave its slot to another user"
        case JobSkipped(job_id=job_id, cause_job_id=cause):
            return f"{names.job(job_id)}: because of {names.job(cause)}"
        case ArtifactsDeleted(job_id=job_id, attempt=attempt):
            return f"{names.job(job_id)}: files of attempt {attempt}"
        case JobReleased(job_id=job_id) | JobCancelled(job_id=job_id) | JobRetried(job_id=job_id):
            return names.job(job_id)
        case SeatGranted(user_id=user, seat=seat) | SeatReleased(user_id=user, seat=seat):
            return f"{user}: seat {seat}"
        case SlideRegistered(filename=filename, width=width, height=height):
            return f"{filename!r}, {width:,} × {height:,} pixels"
        case SlideDeleted(slide_id=slide_id):
            return short(slide_id)
        case _:
            return str(to_json(message))


def job_of(message: Message) -> str | None:
    """The job that an event is about, if it is about one."""
    job_id = getattr(message, "job_id", None)
    return job_id if isinstance(job_id, str) and job_id else None


def document(event: StoredEvent) -> dict[str, object]:
    """An event as JSON: its place, its stream, and the message in canonical protobuf JSON."""
    return {
        "cursor": str(event.cursor),
        "at": stamp(event.at),
        "stream": event.stream,
        "version": event.version,
        "event_id": str(event.event_id),
        "tenant": event.tenant,
        "type": type(event.message).__name__,
        "data": to_json(event.message),
        "meta": dict(event.meta),
    }


def stamp(at: datetime | None) -> str | None:
    """A time in RFC 3339, UTC, with all its digits; None stays None."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def clock(at: datetime) -> str:
    """A time of day, UTC."""
    return f"{at:%H:%M:%S} UTC"


def span(seconds: float | timedelta) -> str:
    """A duration for people: `0.35 s`, `12.3 s`, `4 min 05 s`, `2 h 07 min`, `3 d 04 h`."""
    seconds = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 1:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def counted(counts: Mapping[str, int]) -> str:
    """`3 JobStarted, 2 JobSucceeded`, the most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{number:,} {name}" for name, number in ordered) or "nothing"


def _jobs(jobs: tuple[JobSpec, ...]) -> str:
    keys = ", ".join(job.key for job in jobs[:6])
    more = "" if len(jobs) <= 6 else ", …"
    return f"{len(jobs)} job{'' if len(jobs) == 1 else 's'}: {keys}{more}"
