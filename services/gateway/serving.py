"""The HTTP server around the application.

Promises: a connection that does not finish a request's headers in time is closed; when the process is told to stop,
live clients are let go at once, so that they connect elsewhere, and other running requests get a time of grace.
Refuses: to keep connections whose other end takes nothing any more; the operating system ends those.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_S = 20.0
GRACE_S = 10
KEEP_ALIVE_S = 30
# So long what was sent may stay untaken before the connection counts as dead.
UNTAKEN_MS = 120_000
BACKLOG = 2048


class PatientProtocol(HttpToolsProtocol):
    """HTTP over one connection; patience for headers, which uvicorn would wait for without end, is limited."""

    header_s = HEADER_S
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A connection that says nothing is one that does not finish its headers."""
        super().connection_made(transport)
        self._await_headers()

    def on_message_begin(self) -> None:
        """The first byte of a further request."""
        super().on_message_begin()
        self._await_headers()

    def on_headers_complete(self) -> None:
        """From here on the application knows how long things may take."""
        self._headers_came()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for any more."""
        self._headers_came()
        super().connection_lost(exc)

    def _await_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_s, self._too_late)

    def _headers_came(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self) -> None:
        self._deadline = None
        # A request that was pipelined behind a running one may take its time.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:
            self._await_headers()


class Server(uvicorn.Server):
    """A server that knows that live views do not end by themselves."""

    def __init__(self, app: FastAPI, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._app = app

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let live clients go, then stop."""
        gateway = getattr(self._app.state, "gateway", None)
        if gateway is not None:
            gateway.hub.close()
        await super().shutdown(sockets)


def server(app: FastAPI, **more: Any) -> Server:  # noqa: ANN401 - settings of uvicorn
    """The server of an application. `more` overrides uvicorn's settings."""
    chosen = {
        "http": PatientProtocol,
        "ws": "websockets-sansio",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "date_header": True,
        "backlog": BACKLOG,
        "timeout_keep_alive": KEEP_ALIVE_S,
        "timeout_graceful_shutdown": GRACE_S,
        "ws_max_size": 1 << 16,
    }
    return Server(app, uvicorn.Config(app, **{**chosen, **more}))


def listen(listener: socket.socket) -> None:
    """Open a bound socket to connections, which inherit what is set here."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNTAKEN_MS)
    listener.listen(BACKLOG)
