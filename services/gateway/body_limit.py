"""The limit on bodies that are held in memory.

Promises: a JSON body over the limit is answered with 413 before anything parses it, whether or not its
length was announced; a smaller one reaches the application unchanged. Refuses: to touch uploads, which are
streamed to disk under limits of their own, and websockets; to wait for ever for a body.
"""

from __future__ import annotations

import asyncio
import contextlib

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microtome.errors import MicrotomeError, TooLarge
from services.gateway import problems
from services.gateway.pace import Stalled


class BodyLimit:
    """Pure ASGI middleware: reads bodies of at most `limit` bytes ahead of the application."""

    def __init__(self, app: ASGIApp, limit: int, streamed: frozenset[tuple[str, str]], seconds: float) -> None:
        """`streamed`: (method, path) pairs that read their own bodies; a path that ends in /* is all below it.

        `seconds`: how long a body may take to come.
        """
        self._app = app
        self._limit = limit
        self._streamed = streamed
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or self._streams(scope["method"], scope["path"].rstrip("/")):
            await self._app(scope, receive, send)
            return
        announced = _content_length(scope)
        error: MicrotomeError
        try:
            async with asyncio.timeout(self._seconds):
                body = None if announced > self._limit else await self._read(receive)
            error = TooLarge(f"The body is larger than the {self._limit} bytes that this server accepts here.")
        except TimeoutError:
            body, error = None, Stalled(f"The body did not come within {self._seconds:g} seconds.")
        if body is None:
            await problems.of_error(error, scope["path"])(scope, receive, send)
            return
        await self._app(scope, _replay(body, receive), send)

    def _streams(self, method: str, path: str) -> bool:
        return (method, path) in self._streamed or (method, f"{path.rpartition('/')[0]}/*") in self._streamed

    async def _read(self, receive: Receive) -> list[Message] | None:
        messages: list[Message] = []
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._limit:
                return None
            if message["type"] != "http.request" or not message.get("more_body", False):
                return messages


def _content_length(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length":
            with contextlib.suppress(ValueError):
                return int(value)
    return 0


def _replay(messages: list[Message], receive: Receive) -> Receive:
    remaining = iter(messages)

    async def replayed() -> Message:
        for message in remaining:
            return message
        return await receive()

    return replayed
