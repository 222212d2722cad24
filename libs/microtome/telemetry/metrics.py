"""Metrics for Prometheus.

Promises: base units in the names; every service builds only the groups that it owns, on a
registry of its own, so that nothing is exported by two processes or without being written.
Refuses: ids as labels: the number of series does not grow with slides, jobs or users.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from http.server import HTTPServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    start_http_server,
)

from microtome.errors import ConfigurationError

JOB_BUCKETS_S = (0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600)
STAGE_BUCKETS_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
REQUEST_BUCKETS_S = (0.002, 0.005, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 60)
RATE_WINDOW_S = 10.0
LOOPBACK = "127.0.0.1"


def process_registry() -> CollectorRegistry:
    """Return a new registry with the metrics of the process (memory, CPU, files, Python)."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


class QueueMetrics:
    """`queue_depth{queue}`: messages waiting or held. Owned by the scheduler."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.depth = Gauge("queue_depth", "Messages waiting or being worked on.", ["queue"], registry=registry)


class AdmissionMetrics:
    """`active_users`, `waiting_users`, `job_latency_seconds{outcome}` (submission to end). Owned by the scheduler."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.active_users = Gauge("active_users", "Users who hold a seat.", registry=registry)
        self.waiting_users = Gauge("waiting_users", "Users who wait for a seat.", registry=registry)
        self.job_latency = Histogram(
            "job_latency_seconds",
            "From the submission of a job to its end.",
            ["outcome"],
            buckets=JOB_BUCKETS_S,
            registry=registry,
        )


class RelayMetrics:
    """`relay_lag_events` and `relay_passed_over_total{type}`. Owned by the scheduler, which runs the relay."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lag = Gauge("relay_lag_events", "Events in the log that are not relayed yet.", registry=registry)
        self.passed_over = Counter(
            "relay_passed_over",
            "Events that the bus refused for good; the log says which.",
            ["type"],
            registry=registry,
        )


class LogMetrics:
    """`events_appended_total{type}`, whoever appended them, and `log_oldest_writer_seconds`: above a few seconds, a
    stuck transaction holds back all readers of the log. Owned by the scheduler, which folds all events.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.appended = Counter("events_appended", "Events appended to the log.", ["type"], registry=registry)
        self.oldest_writer = Gauge(
            "log_oldest_writer_seconds",
            "Age of the oldest open transaction that wrote something; readers wait for its end.",
            registry=registry,
        )


class WorkerMetrics:
    """`worker_active_jobs` and `dead_letters_total{queue}`. Owned by tiler, inference and merger."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.active_jobs = Gauge("worker_active_jobs", "Jobs that this process works on.", registry=registry)
        self.dead_letters = Counter("dead_letters", "Messages moved to the dead letters.", ["queue"], registry=registry)


class TileMetrics:
    """`tiles_processed_total`, `tiles_per_second`, `tile_stage_seconds{stage}`. Owned by inference."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.processed = Counter("tiles_processed", "Tiles that are done.", registry=registry)
        self.stage = Histogram(
            "tile_stage_seconds", "Time of one stage of a tile.", ["stage"], buckets=STAGE_BUCKETS_S, registry=registry
        )
        self._rate = _Rate(RATE_WINDOW_S)
        Gauge("tiles_per_second", "Tiles done per second, lately.", registry=registry).set_function(self._rate.now)

    def done(self, tiles: int = 1) -> None:
        """Count tiles that are done."""
        self.processed.inc(tiles)
        self._rate.add(tiles)


class HttpMetrics:
    """`http_requests_total{route,method,status}`, `http_request_seconds{route,method}`. Owned by the gateway.

    `route` is the template (`/api/v1/jobs/{id}`), never the path.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("http_requests", "Requests answered.", ["route", "method", "status"], registry=registry)
        self.seconds = Histogram(
            "http_request_seconds",
            "Time to answer a request.",
            ["route", "method"],
            buckets=REQUEST_BUCKETS_S,
            registry=registry,
        )

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route, method).observe(seconds)


class _Rate:
    """Things per second over the last `window_s` seconds; thread-safe."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._lock = threading.Lock()
        self._seen: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, count: int) -> None:
        with self._lock:
            self._seen.append((time.monotonic(), count))
            self._sum += count
            self._forget()

    def now(self) -> float:
        with self._lock:
            self._forget()
            return self._sum / self._window_s

    def _forget(self) -> None:
        oldest = time.monotonic() - self._window_s
        while self._seen and self._seen[0][0] < oldest:
            self._sum -= self._seen.popleft()[1]


@dataclass(frozen=True, slots=True)
class MetricsServer:
    """A running `/metrics` endpoint."""

    port: int
    _server: HTTPServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop serving and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_metrics(port: int, registry: CollectorRegistry, host: str = LOOPBACK) -> MetricsServer:
    """Serve `registry` under `/metrics` on `host` and `port` (0: any free one) in a thread.

    Only this machine may ask, unless `host` says otherwise: the page has no password.
    Raises: ConfigurationError if the address is no one's here, or the port is taken or not allowed.
    """
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"METRICS_HOST {host} and METRICS_PORT {port} cannot be used ({error}); "
            "choose another port or stop what uses it."
        ) from error
    return MetricsServer(server.server_port, server, thread)
