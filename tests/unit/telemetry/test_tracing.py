"""Traces cross processes and reach a collector that speaks OTLP over HTTP."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from microtome.errors import ConfigurationError
from microtome.telemetry import tracing

PROCESS = """
import sys
from microtome.telemetry import tracing
traces = tracing.setup(sys.argv[1])
with tracing.span_from(sys.argv[2] or None, sys.argv[3], tiles=7) as span:
    print(tracing.current_traceparent())
    if sys.argv[3] == "fails":
        try:
            with tracing.span_from(None, "inner"):
                raise ValueError("bad tile")
        except ValueError:
            pass
print(tracing.current_traceparent(), traces.exporting)
traces.shutdown()
"""


def run(service: str, traceparent: str, name: str, endpoint: str | None) -> list[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    environment["PYTHONPATH"] = "libs"
    if endpoint is not None:
        environment[tracing.ENDPOINT_SETTING] = endpoint
    ended = subprocess.run(
        [sys.executable, "-c", PROCESS, service, traceparent, name],
        capture_output=True, text=True, env=environment, check=True, timeout=60,
    )  # fmt: skip
    return ended.stdout.splitlines()


class Collector(ThreadingHTTPServer):
    """Decodes what OTLP exporters post."""

    def __init__(self) -> None:
        self.requests: list[ExportTraceServiceRequest] = []
        super().__init__(("127.0.0.1", 0), Receiver)

    def spans(self) -> dict[str, tuple[str, object]]:
        """Each span by its name, with the name of the service that sent it."""
        found = {}
        for request in self.requests:
            for resource in request.resource_spans:
                attributes = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        found[span.name] = (attributes["service.name"], span)
        return found


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        good = self.path == "/v1/traces" and self.headers["Content-Type"] == "application/x-protobuf"
        if good:
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200 if good else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keeps the test's output clean."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_trace_crosses_processes_and_reaches_the_collector(collector: Collector) -> None:
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    traceparent, _ = run("gateway", "", "submit", endpoint)
    _, after = run("tiler", traceparent, "fails", endpoint)
    assert after == "None True"
    spans = collector.spans()
    (gateway, submit), (tiler, fails), (_, inner) = spans["submit"], spans["fails"], spans["inner"]
    assert (gateway, tiler) == ("gateway", "tiler")
    assert submit.trace_id == fails.trace_id == inner.trace_id
    assert fails.parent_span_id == submit.span_id
    assert inner.parent_span_id == fails.span_id
    version, trace_id, span_id, flags = traceparent.split("-")
    assert (version, trace_id, span_id) == ("00", submit.trace_id.hex(), submit.span_id.hex())
    assert int(flags, 16) & 1, "sampled"
    assert [(each.key, each.value.int_value) for each in fails.attributes] == [("tiles", 7)]
    assert inner.status.code == 2
    assert [event.name for event in inner.events] == ["exception"]


def test_without_a_collector_there_are_ids_and_no_export(collector: Collector) -> None:
    traceparent, after = run("gateway", "not a traceparent", "alone", None)
    assert traceparent.startswith("00-")
    assert after == "None False"
    assert collector.requests == []


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
        tracing.setup("gateway", "localhost:4318")
