"""When jobs will start, if all goes on as it does.

Promises: an estimate for every job that the course of things starts within the horizon; it is exact when every job
takes as long as the rates say and nobody submits or cancels anything.
Refuses: to guess without rates; then there are no estimates.
"""

from __future__ import annotations

from datetime import datetime

from microtome.contracts.messages import JobStarted
from microtome.domain.cluster import Cluster
from microtome.domain.course import Fate, course
from microtome.domain.limits import Limits
from microtome.domain.rates import Rates
from microtome.domain.state import Job


def forecast(cluster: Cluster, limits: Limits, now: datetime, rates: Rates, horizon: int = 500) -> dict[str, datetime]:
    """Return when jobs will start for the first time from now on, by job id, at most `horizon` of them."""
    if not rates:
        return {}

    def fate(job: Job) -> Fate:
        work = rates.duration(job)
        assert work is not None
        return Fate(work)

    starts: dict[str, datetime] = {}
    for step in course(cluster, limits, now, fate):
        if isinstance(step.event, JobStarted):
            starts.setdefault(step.event.job_id, step.at)
            if len(starts) >= horizon:
                break
    return starts
