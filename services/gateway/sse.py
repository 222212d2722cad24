"""Server-sent events: one answer that does not end by itself.

Promises: an `id` is sent with what may be resumed after: every fact, and the first snapshot; a client that lost the
connection comes back after a second with the last id. Silence is broken by comments, which no client sees.
Refuses: to hold what the connection does not take.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from microtome.eventlog.log import Cursor

MEDIA_TYPE = "text/event-stream"
RETRY_MS = 1000
_HEADERS = [
    (b"content-type", f"{MEDIA_TYPE}; charset=utf-8".encode()),
    (b"cache-control", b"no-store"),
    # Proxies such as nginx would gather what should go out at once.
    (b"x-accel-buffering", b"no"),
]


class SseVoice:
    """Speaks in server-sent events."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False

    async def start(self) -> None:
        """Send the headers, and when to come back."""
        await self._send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        await self._write(b"retry: %d\n\n" % RETRY_MS)

    async def fact(self, message: bytes, position: Cursor) -> None:
        """Send an `event`; its id is its position."""
        self._begun = True
        await self._write(b"id: %b\nevent: event\ndata: %b\n\n" % (str(position).encode(), message))

    async def snapshot(self, message: bytes, position: Cursor) -> None:
        """Send a `snapshot`. The first thing of all has an id, so that even the first fact is not missed."""
        identity = b"" if self._begun else b"id: %b\n" % str(position).encode()
        self._begun = True
        await self._write(b"%bevent: snapshot\ndata: %b\n\n" % (identity, message))

    async def progress(self, message: bytes) -> None:
        """Send a `progress`."""
        await self._write(b"event: progress\ndata: %b\n\n" % message)

    async def heartbeat(self) -> bool:
        """Send a comment."""
        await self._write(b": quiet\n\n")
        return True

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})


class EventStream(Response):
    """An answer that goes on until the client is gone or the server lets it go."""

    def __init__(self, tell: Callable[[SseVoice, Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
        """`tell(voice, gone)` speaks until it has no more to say or `gone()` returns."""
        super().__init__(media_type=MEDIA_TYPE)
        self._tell = tell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer."""
        left = asyncio.Event()

        async def gone() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            left.set()

        await self._tell(SseVoice(send), gone)
        if not left.is_set():
            await send({"type": "http.response.body", "body": b"", "more_body": False})
