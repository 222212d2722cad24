"""The gate in front of the application: as much at once as can be worked on, a few more in line, the rest later.

Promises: whoever is let in finds a process that has time for them; whoever is not is told so within a second, with a
time to come back, before anything was done for them. A place is given back as soon as the answer begins, so that slow
readers keep nobody out.
Refuses: to hold back health checks, and live views and uploads, which have limits of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Mapping
from typing import ClassVar

from prometheus_client import Counter, Gauge
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microtome.errors import Busy
from services.gateway import problems

WAIT_S = 1.0
_HEADERS = "microtome.headers"
# In line may be so many times as many as are worked on.
_LINE = 4


class Overloaded(Busy):
    """The server has as much to do as it can take; try again in a moment."""

    code: ClassVar[str] = "overloaded"


def add_headers(scope: Scope, headers: Mapping[str, str]) -> None:
    """Send these headers with the answer to this request, whatever the answer will be."""
    scope.setdefault(_HEADERS, []).extend((name.lower().encode(), value.encode()) for name, value in headers.items())


class Gate:
    """At most `places` at once; at most four times as many in line, first come, first served."""

    def __init__(self, places: int, wait_s: float = WAIT_S) -> None:
        self.places = places
        self._wait_s = wait_s
        self._free = places
        self._line: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Wait for a place, but not long. Raises `Overloaded`."""
        if self._free > 0 and not self._line:
            self._free -= 1
            return
        if len(self._line) >= _LINE * self.places:
            raise Overloaded
        turn = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # The place came together with the end of our patience.
                self.leave()
            else:
                # Whoever left just now may have passed over this one already.
                with contextlib.suppress(ValueError):
                    self._line.remove(turn)
            if isinstance(error, TimeoutError):
                raise Overloaded from None
            raise

    def leave(self) -> None:
        """Give the place to the next in line."""
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1


class Admission:
    """Pure ASGI middleware: every request passes the gate, but for those that must not wait."""

    def __init__(
        self, app: ASGIApp, gate: Gate, exempt: frozenset[tuple[str, str]], refused: Counter, in_flight: Gauge
    ) -> None:
        """`exempt`: (method, path) pairs; a path that ends in /* is all below it."""
        self._app = app
        self._gate = gate
        self._exempt = exempt
        self._refused = refused
        self._in_flight = in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or self._passes(scope["method"], scope["path"].rstrip("/")):
            await self._app(scope, receive, send)
            return
        try:
            await self._gate.enter()
        except Overloaded as error:
            self._refused.inc()
            await problems.of_error(error, scope["path"])(scope, receive, send)
            return
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                inside = False
                self._in_flight.dec()
                self._gate.leave()

        async def noting(message: Message) -> None:
            if message["type"] == "http.response.start":
                leave()
                message["headers"] = [*message.get("headers", ()), *scope.get(_HEADERS, ())]
            await send(message)

        self._in_flight.inc()
        try:
            await self._app(scope, receive, noting)
        finally:
            leave()

    def _passes(self, method: str, path: str) -> bool:
        folder, _, name = path.rpartition("/")
        return name == "live" or (method, path) in self._exempt or (method, f"{folder}/*") in self._exempt
