"""What the handlers work with, in one place that the composition root fills.

Promises: handlers get everything from here and open nothing themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request, WebSocket

from microtome.artifacts.store import ArtifactStore
from microtome.bus.bus import Bus
from microtome.eventlog.database import Database
from microtome.eventlog.log import EventLog
from microtome.readmodels.queries import Queries
from microtome.reservations.uploads import Uploads
from microtome.workflows import Workflows
from services.gateway.attendance import Attendance
from services.gateway.completion import Completion
from services.gateway.deletion import Deletions
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
from services.gateway.submission import Submissions
from services.gateway.trace import GatewayMetrics
from services.gateway.uploads import UploadStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """One gateway process, wired."""

    version: str
    settings: GatewaySettings
    database: Database
    log: EventLog
    bus: Bus
    queries: Queries
    workflows: Workflows
    showing: Showing
    submissions: Submissions
    registrar: Registrar
    uploads: UploadStore
    quota: Quota
    uploading: Uploads
    resumable: ResumableStore
    completion: Completion
    deletions: Deletions
    artifacts: ArtifactStore
    pixels: Pixels
    hub: Hub
    snapshots: Snapshots
    rate_limit: RateLimit
    attendance: Attendance
    places: Places
    past: Past
    metrics: GatewayMetrics


# Coroutines, because a plain function would be called in a thread, which costs more than the rest of a small request.
async def _of_request(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


async def _of_websocket(websocket: WebSocket) -> Gateway:
    gateway: Gateway = websocket.app.state.gateway
    return gateway


Context = Annotated[Gateway, Depends(_of_request)]
LiveContext = Annotated[Gateway, Depends(_of_websocket)]
