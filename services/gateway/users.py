"""Users: who is active, who waits, and what one may do and has."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request, Response

from microtome.domain.cluster import Cluster
from microtome.domain.state import JobStatus
from services.gateway import views
from services.gateway.context import Context, Gateway
from services.gateway.etag import NOT_MODIFIED, Rendered, answer
from services.gateway.user import User

router = APIRouter(tags=["users"])


@router.get("/users", response_model=views.Users, responses=NOT_MODIFIED, summary="Who is active and who waits")
async def users(request: Request, user: User, gateway: Context) -> Response:  # noqa: ARG001 - whoever asks is somebody
    """Say who holds a seat and who is in line for one."""
    cluster = gateway.places.cluster
    busy = _busy(cluster)
    shown = views.Users(
        active=[
            views.ActiveUser(id=name, seat=seat.number, since=seat.granted_at, running_jobs=busy.get(name, 0))
            for name, seat in sorted(cluster.seats.items(), key=lambda item: item[1])
        ],
        waiting=[
            views.WaitingUser(id=name, position=position)
            for position, name in enumerate(gateway.places.line(), start=1)
        ],
    )
    return answer(request, Rendered.of(shown.model_dump()))


@router.get("/users/me", response_model=views.Me, responses=NOT_MODIFIED, summary="Your limits and what you use")
async def me(request: Request, user: User, gateway: Context) -> Response:
    """Say what the user may do, has, and where they stand in line."""
    usage = await gateway.queries.usage(user)
    room = await gateway.quota.usage(user)
    allowance = await gateway.rate_limit.peek(user)
    cluster = gateway.places.cluster
    seat = cluster.seats.get(user)
    line = gateway.places.line()
    shown = views.Me(
        id=user,
        state=_state(cluster, user),
        seat=None if seat is None else seat.number,
        active_since=None if seat is None else seat.granted_at,
        position=line.index(user) + 1 if user in line else None,
        running_jobs=usage.jobs[JobStatus.RUNNING],
        pending_jobs=usage.jobs[JobStatus.PENDING],
        limits=_limits(gateway),
        usage=views.Usage(
            slides=usage.slides,
            slide_bytes=usage.slide_bytes,
            artifact_bytes=usage.artifact_bytes,
            upload_bytes=room.reserved_bytes,
            drawn_bytes=room.drawn_bytes,
            bytes_stored=usage.bytes_stored,
            workflows=usage.workflows,
            jobs={status.value: count for status, count in usage.jobs.items()},
        ),
        submissions=None
        if allowance is None
        else views.Allowance(limit=allowance.burst, remaining=allowance.remaining, full_in_seconds=allowance.full_in),
    )
    return answer(request, Rendered.of(shown.model_dump()))


def _busy(cluster: Cluster) -> dict[str, int]:
    """Running jobs by user."""
    busy: dict[str, int] = {}
    for running in cluster.running.values():
        busy[running.user_id] = busy.get(running.user_id, 0) + 1
    return busy


def _state(cluster: Cluster, user: str) -> Literal["active", "waiting", "idle"]:
    if user in cluster.seats:
        return "active"
    return "waiting" if user in cluster.line else "idle"


def _limits(gateway: Gateway) -> views.UserLimits:
    settings = gateway.settings
    return views.UserLimits(
        max_upload_bytes=settings.max_upload_bytes,
        quota_bytes=settings.user_quota_bytes or None,
        max_unfinished_jobs=settings.max_pending_jobs or None,
        submissions_burst=settings.rate_burst or None,
        submissions_per_second=settings.rate_refill_per_s if settings.rate_burst else None,
    )
