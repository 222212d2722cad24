"""Live websockets: a snapshot first, then every change.

Promises: what a client sees converges to the facts whatever is lost on the way; a slow client costs bounded memory
and is sent away (1013) rather than kept up with; a client that leaves leaves quietly.
Refuses: other users' workflows (closed with 4404) and connections without a user (4401).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import orjson
from fastapi import APIRouter, Header, Query, WebSocket
from pydantic import BaseModel
from starlette.websockets import WebSocketDisconnect

from microtome.errors import MicrotomeError, NotFound, Unavailable
from services.gateway.context import Gateway, LiveContext
from services.gateway.hub import Outbox
from services.gateway.user import InvalidUser, UserRequired, checked_user

router = APIRouter()

NO_USER = 4401
NOT_FOUND = 4404
RESYNC = 1013
_SEND_S = 20.0
# Proxies and pages give up connections on which nothing is heard.
_HEARTBEAT_S = 20.0
# Between snapshots at least this long, and at least as long as several of them take to make.
_PAUSE_S = 0.1
_PAUSE_FACTOR = 4

Snapshot = Callable[[], Awaitable[tuple[str, BaseModel, int]]]
_UserHeader = Annotated[str | None, Header(alias="X-User-ID")]
_UserQuery = Annotated[str | None, Query()]


@router.websocket("/ws/workflows/{workflow_id}")
async def live_workflow(
    websocket: WebSocket, workflow_id: str, gateway: LiveContext, x_user_id: _UserHeader = None, user: _UserQuery = None
) -> None:
    """Tell all that happens to one workflow."""
    await websocket.accept()
    try:
        user_id = checked_user(x_user_id if x_user_id is not None else user)
        await gateway.queries.workflow(user_id, workflow_id)
    except MicrotomeError as error:
        await _refuse(websocket, error)
        return

    async def snapshot() -> tuple[str, BaseModel, int]:
        version = (await gateway.showing.versions([workflow_id])).get(workflow_id, 0)
        return "workflow", await gateway.showing.workflow(user_id, workflow_id), version

    await _tell(websocket, gateway, Outbox(workflow_id, None), snapshot)


@router.websocket("/ws/jobs/{job_id}")
async def live_job(
    websocket: WebSocket, job_id: str, gateway: LiveContext, x_user_id: _UserHeader = None, user: _UserQuery = None
) -> None:
    """Tell all that happens to one job."""
    await websocket.accept()
    try:
        user_id = checked_user(x_user_id if x_user_id is not None else user)
        workflow_id = (await gateway.queries.job(user_id, job_id)).workflow_id
    except MicrotomeError as error:
        await _refuse(websocket, error)
        return

    async def snapshot() -> tuple[str, BaseModel, int]:
        version = (await gateway.showing.versions([workflow_id])).get(workflow_id, 0)
        return "job", await gateway.showing.job(user_id, job_id), version

    await _tell(websocket, gateway, Outbox(workflow_id, job_id), snapshot)


async def _refuse(websocket: WebSocket, error: MicrotomeError) -> None:
    if isinstance(error, (UserRequired, InvalidUser)):
        code = NO_USER
    else:
        code = NOT_FOUND if isinstance(error, NotFound) else RESYNC
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(code, error.detail[:120])


async def _tell(websocket: WebSocket, gateway: Gateway, outbox: Outbox, snapshot: Snapshot) -> None:
    gateway.hub.join(outbox)
    gateway.metrics.live_clients.inc()
    sending = asyncio.create_task(_Teller(websocket, outbox, snapshot).run())
    listening = asyncio.create_task(_until_gone(websocket))
    try:
        await asyncio.wait({sending, listening}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gateway.hub.leave(outbox)
        gateway.metrics.live_clients.dec()
        for task in (sending, listening):
            task.cancel()
        ended = await asyncio.gather(sending, listening, return_exceptions=True)
    for outcome in ended:
        if isinstance(outcome, Exception) and not isinstance(outcome, (WebSocketDisconnect, RuntimeError)):
            raise outcome


async def _until_gone(websocket: WebSocket) -> None:
    """Clients have nothing to say; what they send is dropped."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


class _Teller:
    """Empties one outbox into one websocket."""

    def __init__(self, websocket: WebSocket, outbox: Outbox, snapshot: Snapshot) -> None:
        self._websocket = websocket
        self._outbox = outbox
        self._snapshot = snapshot
        self._shown = b""
        self._not_before = 0.0

    async def run(self) -> None:
        try:
            # Events may be waiting already; what they change must not be told before what it was.
            while not (self._shown or self._outbox.overflowed):
                await self._send_snapshot(even_if_same=True)
            while not self._outbox.overflowed:
                await self._once()
            await self._websocket.close(RESYNC, "too far behind; connect again")
        except TimeoutError:
            await self._websocket.close(RESYNC, "the client does not read")
        except NotFound as error:
            await self._websocket.close(NOT_FOUND, error.detail[:120])

    async def _once(self) -> None:
        heartbeat = False
        try:
            # Not wait_for: before Python 3.12 it can swallow a cancellation that comes together with the result.
            async with asyncio.timeout(_HEARTBEAT_S):
                events, stale, progress = await self._outbox.take()
        except TimeoutError:
            events, stale, progress, heartbeat = [], True, [], True
        for event in events:
            await self._send(orjson.dumps(event, option=orjson.OPT_UTC_Z))
        if stale:
            await self._send_snapshot(even_if_same=heartbeat)
        for report in progress:
            await self._send(orjson.dumps(report))

    async def _send_snapshot(self, *, even_if_same: bool) -> None:
        await asyncio.sleep(self._not_before - time.monotonic())
        began = time.monotonic()
        try:
            name, view, version = await self._snapshot()
        except Unavailable:
            # The next poll or event asks again; a page shows what it has meanwhile.
            await asyncio.sleep(1)
            self._outbox.mark_stale()
            return
        message = b'{"kind":"snapshot","' + name.encode() + b'":' + view.model_dump_json().encode() + b"}"
        self._outbox.shown_version = version
        if even_if_same or message != self._shown:
            await self._send(message)
            self._shown = message
        now = time.monotonic()
        self._not_before = now + max(_PAUSE_S, _PAUSE_FACTOR * (now - began))

    async def _send(self, message: bytes) -> None:
        async with asyncio.timeout(_SEND_S):
            await self._websocket.send_text(message.decode())
