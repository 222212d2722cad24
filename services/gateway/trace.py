"""Every request measured and traced.

Promises: one span and one sample per request, named by the route's template, never by an id. A `traceparent` that
came with the request is continued and goes on into the events that the request causes.
Refuses: to look into bodies.
"""

from __future__ import annotations

import logging
import time

from opentelemetry.trace import SpanKind, Status, StatusCode
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from microtome.telemetry.metrics import HttpMetrics, process_registry
from microtome.telemetry.tracing import span_from

LIVE_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SERVER_ERROR = 500
_ERROR = 400

logger = logging.getLogger(__name__)


class GatewayMetrics:
    """The metrics of one gateway: `http_*`, `uploaded_bytes_total`, `live_*`, `rate_limited_total`, `overloaded_total`.

    `rate_limited_total{limit}`: `rate` (submissions too fast), `jobs` (too many unfinished), `live` (too many views).
    `overloaded_total{what}`: `requests` or `live`. `live_commit_to_client_seconds`: facts told as they happened.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry if registry is not None else process_registry()
        self.http = HttpMetrics(self.registry)
        self.uploaded_bytes = Counter("uploaded_bytes", "Bytes of slides received whole.", registry=self.registry)
        self.live_clients = Gauge("live_clients", "Open websockets and event streams.", registry=self.registry)
        self.commit_to_client = Histogram(
            "live_commit_to_client_seconds",
            "From when a fact was stored until it was sent to a live client.",
            buckets=LIVE_BUCKETS_S,
            registry=self.registry,
        )
        self.rate_limited = Counter("rate_limited", "Submissions refused with 429.", ["limit"], registry=self.registry)
        self.overloaded = Counter("overloaded", "Requests refused with 503.", ["what"], registry=self.registry)
        self.in_flight = Gauge("requests_in_flight", "Requests being worked on.", registry=self.registry)


class Observe:
    """Pure ASGI middleware, outermost, so that it sees what was really answered."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, prefix: str) -> None:
        """`prefix`: where the routers are mounted."""
        self._app = app
        self._metrics = metrics
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, and measure it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        status = _SERVER_ERROR

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-content-type-options", b"nosniff")]
            await send(message)

        began = time.perf_counter()
        with span_from(_traceparent(scope), method, kind=SpanKind.SERVER) as span:
            try:
                await self._app(scope, receive, noting)
            finally:
                route = _route(scope, self._prefix)
                seconds = time.perf_counter() - began
                self._metrics.observe(route, method, status, seconds)
                _log(method, route, status, seconds)
                span.update_name(f"{method} {route}")
                span.set_attributes(
                    {"http.request.method": method, "http.route": route, "http.response.status_code": status}
                )
                if status >= _SERVER_ERROR:
                    span.set_status(Status(StatusCode.ERROR))


def _log(method: str, route: str, status: int, seconds: float) -> None:
    # A viewer asks for hundreds of tiles; what changes something or fails is worth a line.
    level = logging.DEBUG if method in ("GET", "HEAD") and status < _ERROR else logging.INFO
    fields = {"method": method, "route": route, "status": status, "seconds": round(seconds, 4)}
    logger.log(level, "%s %s: %d", method, route, status, extra=fields)


def _traceparent(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"), None)


def _route(scope: Scope, prefix: str) -> str:
    """The template that matched; one name for everything that none did."""
    template = getattr(scope.get("route"), "path", None)
    if not template:
        return "unmatched"
    # A router that was included does not know under which prefix.
    mounted = scope["path"].startswith(prefix + "/") and not template.startswith(prefix + "/")
    return f"{prefix}{template}" if mounted else str(template)
