"""A timeline as JSON: what the command line prints and the API answers.

Promises: plain values. Refuses: to fold anything; see `timeline`.
"""

from __future__ import annotations

from typing import Any

from microtome.replay.describe import stamp
from microtome.replay.timeline import Timeline


def document(timeline: Timeline) -> dict[str, Any]:
    """The timeline as JSON. Times are RFC 3339, durations seconds; a phase or attempt that lasts has no end."""
    job, now = timeline.job, timeline.now
    return {
        "job_id": job.job_id,
        "workflow_id": timeline.workflow_id,
        "user_id": timeline.user_id,
        "key": job.key,
        "type": job.spec.type.name,
        "branch": job.spec.branch,
        "status": job.status.value,
        "created_at": stamp(timeline.created_at),
        "finished_at": stamp(job.finished_at),
        "as_of": stamp(now),
        "waited_seconds": {kind: round(seconds, 6) for kind, seconds in timeline.waited_seconds.items()},
        "phases": [
            {
                "kind": phase.kind,
                "detail": phase.detail,
                "job_id": phase.job_id,
                "position": phase.position,
                "attempt": phase.attempt,
                "since": stamp(phase.since),
                "until": stamp(phase.until),
                "seconds": round(phase.seconds(now), 6),
            }
            for phase in timeline.phases
        ],
        "attempts": [
            {
                "number": attempt.number,
                "slot": attempt.slot,
                "started_at": stamp(attempt.started_at),
                "planned_at": stamp(attempt.planned_at),
                "ended_at": stamp(attempt.ended_at),
                "seconds": round(attempt.seconds(now), 6),
                "outcome": attempt.outcome,
                "detail": attempt.detail,
                "tiles_total": attempt.tiles_total,
                "tiles_skipped": attempt.tiles_skipped,
                "workers": list(attempt.workers),
            }
            for attempt in timeline.attempts
        ],
        "stage_seconds": dict(timeline.stage_seconds),
    }
