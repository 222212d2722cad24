"""Live views: websockets and server-sent events of a workflow, a job, or everything of a user.

Promises: what a client sees converges to the facts whatever is lost on the way; one that says where it left off gets
every fact since then exactly once; a client that leaves leaves quietly.
Refuses: other users' workflows, connections without a user, positions that the log has not reached, and one client
more than the process takes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from microtome.errors import Conflict, InvalidRequest, MicrotomeError, NotFound
from microtome.eventlog.log import Cursor
from services.gateway import problems
from services.gateway.admission import Overloaded
from services.gateway.context import Context, Gateway, LiveContext
from services.gateway.facts import Interest
from services.gateway.hub import Listener, Place, TooManyClients
from services.gateway.sse import EventStream, SseVoice
from services.gateway.teller import Teller, Voice
from services.gateway.user import InvalidUser, LinkUser, UserRequired, checked_user

router = APIRouter(tags=["live"])

BAD_REQUEST = 4400
NO_USER = 4401
NOT_FOUND = 4404
NO_SUCH_POSITION = 4409
TRY_AGAIN = 1013

_UserHeader = Annotated[str | None, Header(alias="X-User-ID")]
_UserQuery = Annotated[str | None, Query()]
_After = Annotated[
    str | None,
    Query(max_length=64, description="xid:position of the last event that you have; what came after it is told first."),
]
_LastEventId = Annotated[
    str | None, Header(alias="Last-Event-ID", max_length=64, description="As `after`, and stronger; browsers send it.")
]
_EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events `snapshot`, `event` and `progress`; the id of an `event` is its position.",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}


@router.get("/workflows/{workflow_id}/live", summary="Follow a workflow", responses=_EVENT_STREAM)
async def follow_workflow(
    workflow_id: str,
    user: LinkUser,
    gateway: Context,
    after: _After = None,
    last_event_id: _LastEventId = None,
) -> Response:
    """Tell all that happens to one workflow, as server-sent events."""
    return await _stream(gateway, await _workflow(gateway, user, workflow_id), last_event_id or after)


@router.get("/jobs/{job_id}/live", summary="Follow a job", responses=_EVENT_STREAM)
async def follow_job(
    job_id: str,
    user: LinkUser,
    gateway: Context,
    after: _After = None,
    last_event_id: _LastEventId = None,
) -> Response:
    """Tell all that happens to one job, as server-sent events."""
    return await _stream(gateway, await _job(gateway, user, job_id), last_event_id or after)


@router.get("/me/live", summary="Follow everything of yours", responses=_EVENT_STREAM)
async def follow_me(
    user: LinkUser, gateway: Context, after: _After = None, last_event_id: _LastEventId = None
) -> Response:
    """Tell all that happens to the user's workflows and slides, as server-sent events."""
    return await _stream(gateway, Interest(user), last_event_id or after)


@router.websocket("/ws/workflows/{workflow_id}")
async def live_workflow(
    websocket: WebSocket,
    workflow_id: str,
    gateway: LiveContext,
    x_user_id: _UserHeader = None,
    user: _UserQuery = None,
    after: _After = None,
) -> None:
    """Tell all that happens to one workflow."""
    await _serve(websocket, gateway, x_user_id or user, after, lambda who: _workflow(gateway, who, workflow_id))


@router.websocket("/ws/jobs/{job_id}")
async def live_job(
    websocket: WebSocket,
    job_id: str,
    gateway: LiveContext,
    x_user_id: _UserHeader = None,
    user: _UserQuery = None,
    after: _After = None,
) -> None:
    """Tell all that happens to one job."""
    await _serve(websocket, gateway, x_user_id or user, after, lambda who: _job(gateway, who, job_id))


@router.websocket("/ws/me")
async def live_me(
    websocket: WebSocket,
    gateway: LiveContext,
    x_user_id: _UserHeader = None,
    user: _UserQuery = None,
    after: _After = None,
) -> None:
    """Tell all that happens to the user's workflows and slides."""

    async def mine(who: str) -> Interest:
        return Interest(who)

    await _serve(websocket, gateway, x_user_id or user, after, mine)


async def _workflow(gateway: Gateway, user_id: str, workflow_id: str) -> Interest:
    await gateway.showing.workflow(user_id, workflow_id)
    return Interest(user_id, workflow_id)


async def _job(gateway: Gateway, user_id: str, job_id: str) -> Interest:
    return Interest(user_id, await gateway.showing.workflow_id_of(user_id, job_id), job_id)


async def _position(gateway: Gateway, text: str | None) -> Cursor | None:
    """The place to go on from. Raises `InvalidRequest`; `Conflict` when the log has not come so far."""
    if not text:
        return None
    cursor = Cursor.parse(text)
    if cursor > gateway.hub.head and not await gateway.hub.facts.knows(cursor):
        raise Conflict(f"The log has not reached {cursor}; it may be another one. Connect without a position.")
    return cursor


async def _stream(gateway: Gateway, interest: Interest, after: str | None) -> Response:
    position = await _position(gateway, after)
    place = _admitted(gateway, interest.user_id)

    async def tell(voice: SseVoice, gone: Callable[[], Awaitable[None]]) -> None:
        try:
            await voice.start()
            await _tell(gateway, interest, voice, position, gone)
        except NotFound:
            # Deleted meanwhile; who connects again is told so.
            return
        finally:
            place.give_back()

    return EventStream(tell)


async def _serve(
    websocket: WebSocket,
    gateway: Gateway,
    user: str | None,
    after: str | None,
    interest: Callable[[str], Awaitable[Interest]],
) -> None:
    try:
        place = _admitted(gateway, user or "")
    except (Overloaded, TooManyClients) as error:
        await _deny(websocket, error)
        return
    try:
        await websocket.accept()
        wanted = await interest(checked_user(user))
        position = await _position(gateway, after)
        await _tell(gateway, wanted, SocketVoice(websocket), position, lambda: _until_gone(websocket))
    except MicrotomeError as error:
        with contextlib.suppress(WebSocketDisconnect, RuntimeError):
            await websocket.close(_close_code(error), error.detail[:120])
    finally:
        place.give_back()


def _admitted(gateway: Gateway, user: str) -> Place:
    """Room for one more client of the user. Raises `Overloaded`, `TooManyClients`."""
    try:
        return gateway.hub.admit(user)
    except Overloaded:
        gateway.metrics.overloaded.labels("live").inc()
        raise
    except TooManyClients:
        gateway.metrics.rate_limited.labels("live").inc()
        raise


async def _deny(websocket: WebSocket, error: MicrotomeError) -> None:
    """Refuse before there is a websocket, as any other request is refused."""
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        await websocket.send_denial_response(problems.of_error(error, websocket.url.path))


def _close_code(error: MicrotomeError) -> int:
    match error:
        case UserRequired() | InvalidUser():
            return NO_USER
        case InvalidRequest():
            return BAD_REQUEST
        case NotFound():
            return NOT_FOUND
        case Conflict():
            return NO_SUCH_POSITION
        case _:
            return TRY_AGAIN


async def _tell(
    gateway: Gateway, interest: Interest, voice: Voice, after: Cursor | None, gone: Callable[[], Awaitable[None]]
) -> None:
    """Tell until the client is gone or this process lets everybody go. Raises `NotFound`."""
    listener = Listener(interest)
    hub = gateway.hub
    hub.join(listener)
    gateway.metrics.live_clients.inc()
    teller = Teller(hub, gateway.snapshots, listener, voice, after, gateway.metrics.commit_to_client.observe)
    telling = asyncio.create_task(teller.run())
    tasks = {telling, asyncio.ensure_future(gone()), asyncio.create_task(hub.closed())}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        hub.leave(listener)
        gateway.metrics.live_clients.dec()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    error = None if telling.cancelled() else telling.exception()
    # A connection that ended while it was written to is how clients leave.
    if error is not None and not isinstance(error, (WebSocketDisconnect, RuntimeError, OSError)):
        raise error


async def _until_gone(websocket: WebSocket) -> None:
    """Clients have nothing to say; what they send is dropped."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


class SocketVoice:
    """Speaks over a websocket."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket

    async def fact(self, message: bytes, position: Cursor) -> None:  # noqa: ARG002 - the message says it
        """Send the message."""
        await self._websocket.send_text(message.decode())

    async def snapshot(self, message: bytes, position: Cursor) -> None:  # noqa: ARG002 - the message says it
        """Send the message."""
        await self._websocket.send_text(message.decode())

    async def progress(self, message: bytes) -> None:
        """Send the message."""
        await self._websocket.send_text(message.decode())

    async def heartbeat(self) -> bool:
        """Pages cannot see the protocol's own pings: a snapshot must do."""
        return False
