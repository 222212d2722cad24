"""A collector that speaks OTLP over HTTP and keeps what it hears."""

from __future__ import annotations

import gzip
import threading
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Span:
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str


class Collector(ThreadingHTTPServer):
    """Runs in a thread of its own from its creation until `close`."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self._spans: dict[str, list[Span]] = defaultdict(list)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, name="collector")
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def trace(self, trace_id: str) -> list[Span]:
        """All spans heard of one trace."""
        with self._lock:
            return list(self._spans[trace_id])

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            with self._lock:
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    trace_id = span.trace_id.hex()
                    self._spans[trace_id].append(
                        Span(service, span.name, trace_id, span.span_id.hex(), span.parent_span_id.hex())
                    )

    def close(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.take(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""
