"""The composition root: everything is made here and given to those who use it.

Promises: what `create_app` returns has every route; servers are reached when the application starts, and
everything is closed when it stops. Refuses: to read the environment; settings come as a value.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

from fastapi import FastAPI

from microtome.artifacts.store import ArtifactStore
from microtome.bus.jetstream import JetStreamBus
from microtome.errors import ConfigurationError
from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.projection import ReadModels
from microtome.readmodels.queries import Queries
from microtome.reservations.uploads import Uploads
from microtome.segmentation.model import load_model
from microtome.workflows import Workflows
from services.gateway import (
    contract,
    files,
    health,
    history,
    jobs,
    live,
    logs,
    page,
    problems,
    slides,
    tus,
    users,
    views,
    workflows,
)
from services.gateway.admission import Admission, Gate
from services.gateway.attendance import Attendance
from services.gateway.beginning import at_snapshot
from services.gateway.body_limit import BodyLimit
from services.gateway.completion import Completion
from services.gateway.context import Gateway
from services.gateway.deletion import Deletions
from services.gateway.facts import Facts
from services.gateway.headlines import Headlines
from services.gateway.hub import Hub
from services.gateway.past import Past
from services.gateway.pixels import Pixels
from services.gateway.places import Places
from services.gateway.quota import Quota
from services.gateway.rate_limit import RateLimit
from services.gateway.registration import Registrar
from services.gateway.resumable import ResumableStore
from services.gateway.settings import GatewaySettings
from services.gateway.showing import Showing
from services.gateway.snapshots import Snapshots
from services.gateway.specs import Defaults
from services.gateway.submission import Submissions
from services.gateway.sweeping import Sweeper
from services.gateway.trace import GatewayMetrics, Observe
from services.gateway.uploads import UploadStore
from services.gateway.version import version

logger = logging.getLogger(__name__)

API = "/api/v1"
_STREAMED = frozenset({("POST", f"{API}/slides"), ("POST", f"{API}/uploads"), ("PATCH", f"{API}/uploads/*")})
_PROBLEM = {
    "model": views.Problem,
    "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


@asynccontextmanager
async def open_gateway(settings: GatewaySettings, metrics: GatewayMetrics) -> AsyncIterator[Gateway]:
    """Reach Postgres and NATS and start the background work; all of it ends with the context.

    Raises `Unavailable` or `ConfigurationError` when a server cannot be used, and what `load_model` raises.
    """
    async with AsyncExitStack() as stack:
        defaults = await asyncio.to_thread(_defaults, settings)
        await migrate(settings.microtome_database_url)
        database = await stack.enter_async_context(
            await Database.connect(settings.microtome_database_url, name="gateway")
        )
        log = await stack.enter_async_context(PostgresEventLog(database, [ReadModels()]))
        bus = await JetStreamBus.connect(settings.microtome_nats_url, name="gateway")
        stack.push_async_callback(bus.close)
        limits = settings.limits
        queries = Queries(database)
        deciding = Workflows(log, limits)
        uploads = UploadStore(settings.microtome_data_dir, settings.max_upload_bytes)
        await asyncio.to_thread(uploads.open)
        registrar = Registrar(log)
        stack.push_async_callback(registrar.finish)
        uploading = Uploads(database)
        quota = Quota(uploading, settings.microtome_data_dir, settings.user_quota_bytes, settings.max_open_uploads)
        resumable = ResumableStore(settings.microtome_data_dir)
        await asyncio.to_thread(resumable.open)
        completion = Completion(resumable, uploads, uploading, registrar, log)
        stack.push_async_callback(completion.stop)
        artifacts = ArtifactStore(settings.microtome_data_dir / "artifacts")
        deletions = Deletions(database, queries, log, deciding, uploads, artifacts)
        sweeper = Sweeper(uploads, log, completion, deletions)
        sweeper.start()
        stack.push_async_callback(sweeper.stop)
        pixels = Pixels(settings.gateway_pixel_workers)
        stack.push_async_callback(pixels.close)
        past = Past()
        stack.push_async_callback(past.close)
        # The hub shows what the places say, and the places tell the hub when they change.
        places = Places(
            log,
            limits,
            lambda: hub.places_changed(),  # noqa: PLW0108 - the hub comes later
            partial(at_snapshot, database),
        )
        showing = Showing(Headlines(database), queries, places)
        hub = Hub(bus, Facts(database), log.wait, settings.max_live_clients, settings.max_live_clients_per_user)
        attendance = Attendance(bus)
        attendance.start()
        stack.push_async_callback(attendance.stop)
        places.start()
        stack.push_async_callback(places.stop)
        await hub.start()
        stack.push_async_callback(hub.stop)
        yield Gateway(
            version=version(),
            settings=settings,
            database=database,
            log=log,
            bus=bus,
            queries=queries,
            workflows=deciding,
            showing=showing,
            submissions=Submissions(log, queries, deciding, limits, defaults, settings.microtome_data_dir, quota),
            registrar=registrar,
            uploads=uploads,
            quota=quota,
            uploading=uploading,
            resumable=resumable,
            completion=completion,
            deletions=deletions,
            artifacts=artifacts,
            pixels=pixels,
            hub=hub,
            snapshots=Snapshots(database, showing, places),
            rate_limit=RateLimit(
                database,
                burst=settings.rate_burst,
                refill_per_s=settings.rate_refill_per_s,
                max_pending_jobs=settings.max_pending_jobs,
                refused=metrics.rate_limited,
            ),
            attendance=attendance,
            places=places,
            past=past,
            metrics=metrics,
        )


def _defaults(settings: GatewaySettings) -> Defaults:
    model = load_model(settings.instanseg_model)
    if settings.tile_overlap < model.halo_min:
        raise ConfigurationError(
            f"TILE_OVERLAP is {settings.tile_overlap}, but the model {model.name!r} needs at least {model.halo_min}."
        )
    return Defaults(settings.tile_size, settings.tile_overlap, settings.instanseg_model, model.halo_min, model.mpp)


def create_app(settings: GatewaySettings, metrics: GatewayMetrics | None = None) -> FastAPI:
    """The gateway as an ASGI application."""
    measured = metrics or GatewayMetrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_gateway(settings, measured) as gateway:
            app.state.gateway = gateway
            yield

    app = FastAPI(
        title="Microtome",
        version=version(),
        description="Every cell on a whole slide. Say who you are with the header X-User-ID. Errors are "
        "`application/problem+json` (RFC 9457); most reads carry an ETag; lists that grow come in pages.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        # `Observe` makes the one span of a request, named by its route.
        telemetry={"tracing": False, "metrics": False, "logs": False},
        responses={"default": {**_PROBLEM, "description": "What went wrong (RFC 9457)."}},
        generate_unique_id_function=contract.operation_id,
        separate_input_output_schemas=False,
    )
    problems.install(app)
    # In the order in which they are looked through: what is asked for most comes first.
    for reads in (workflows.reads, jobs.reads):
        app.include_router(reads, prefix=API)
    for part in (workflows, jobs, health, slides, tus, files, logs, history, users, live):
        app.include_router(part.router, prefix=API)
    app.include_router(page.router(settings.microtome_ui_dir))
    contract.install(app)
    app.add_middleware(
        Admission,
        gate=Gate(settings.max_in_flight),
        exempt=_STREAMED | {("GET", f"{API}/health")},
        refused=measured.overloaded.labels("requests"),
        in_flight=measured.in_flight,
    )
    app.add_middleware(
        BodyLimit, limit=settings.max_body_bytes, streamed=_STREAMED, seconds=settings.upload_stall_seconds
    )
    app.add_middleware(tus.MethodOverride, prefix=f"{API}/uploads/")
    app.add_middleware(Observe, metrics=measured.http, prefix=API)
    return app
