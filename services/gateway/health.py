"""Is it alive, and how is it doing."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter

from microtome.bus.topology import PLAN
from microtome.errors import Unavailable
from services.gateway import views
from services.gateway.context import Context, Gateway
from services.gateway.documents import MAX_JOBS

router = APIRouter(tags=["system"])

_HEALTH_S = 3.0


@router.get("/health", summary="200 when the gateway reaches its log")
async def health(gateway: Context) -> views.Health:
    """Answer 200, or 503 when Postgres does not answer."""
    try:
        async with asyncio.timeout(_HEALTH_S), gateway.database.connection() as connection:
            await connection.fetchval("select 1")
    except TimeoutError as error:
        raise Unavailable("Postgres does not answer in time.") from error
    return views.Health(status="ok")


@router.get("/status", summary="Limits, who is active, what answers")
async def status(gateway: Context) -> views.Status:
    """Say how the installation is doing; works without Postgres too."""
    settings = gateway.settings
    cluster = gateway.places.cluster
    return views.Status(
        version=gateway.version,
        limits=_limits(gateway),
        services=await _services(gateway),
        active_users=sorted(cluster.seats, key=lambda user: cluster.seats[user]),
        waiting_users=list(gateway.places.line()),
        running_jobs=len(cluster.running),
        engine=gateway.places.engine,
        model=gateway.places.model or settings.instanseg_model,
    )


def _limits(gateway: Gateway) -> views.Limits:
    settings, defaults = gateway.settings, gateway.submissions.defaults
    return views.Limits(
        max_workers=settings.max_workers,
        max_active_users=settings.max_active_users,
        max_attempts=settings.max_attempts,
        seat_tenure_seconds=settings.seat_tenure or None,
        slice_seconds=settings.slice_seconds,
        max_upload_bytes=settings.max_upload_bytes,
        max_body_bytes=settings.max_body_bytes,
        user_quota_bytes=settings.user_quota_bytes or None,
        upload_expiry_seconds=settings.upload_expiry_seconds,
        rate_burst=settings.rate_burst or None,
        rate_refill_per_s=settings.rate_refill_per_s if settings.rate_burst else None,
        max_pending_jobs=settings.max_pending_jobs or None,
        max_in_flight=settings.max_in_flight,
        max_live_clients=settings.max_live_clients,
        max_live_clients_per_user=settings.max_live_clients_per_user or None,
        max_open_uploads=settings.max_open_uploads or None,
        max_jobs_per_request=MAX_JOBS,
        tile_size=settings.tile_size,
        halo=settings.tile_overlap,
        halo_min=defaults.halo_min,
        batch_size=settings.batch_size,
        model=settings.instanseg_model,
        model_mpp=defaults.model_mpp,
    )


async def _services(gateway: Gateway) -> list[views.ServiceSeen]:
    try:
        await health(gateway)
        postgres = views.ServiceSeen(name="postgres", state="ok", detail="answers")
    except Unavailable as error:
        postgres = views.ServiceSeen(name="postgres", state="unreachable", detail=error.detail)
    try:
        async with asyncio.timeout(_HEALTH_S):
            waiting = await gateway.bus.depth(PLAN)
        bus = views.ServiceSeen(name="nats", state="ok", detail=f"{waiting} jobs in line for the tiler")
    except (TimeoutError, Unavailable):
        bus = views.ServiceSeen(
            name="nats", state="unreachable", detail="no progress within jobs is shown, and workers get no work"
        )
    if gateway.places.lagging:
        places = views.ServiceSeen(name="log", state="lagging", detail="what jobs wait for may be out of date")
    else:
        places = views.ServiceSeen(name="log", state="ok", detail="followed")
    return [postgres, bus, places, *gateway.attendance.services()]
