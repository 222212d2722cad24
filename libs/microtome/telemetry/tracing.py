"""Distributed traces with OpenTelemetry.

Promises: every process has trace ids (for its logs and for whoever it calls); spans are exported
over OTLP/HTTP only if an endpoint is configured, and what is pending is sent at shutdown. A trace
crosses the log as a `traceparent` in an event's metadata and goes on in another process.
Refuses: to slow down or fail the work when the collector is away.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from microtome.errors import ConfigurationError

ENDPOINT_SETTING = "OTEL_EXPORTER_OTLP_ENDPOINT"
EXPORT_TIMEOUT_S = 5

_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Tracing:
    """The tracing of this process."""

    exporting: bool
    _provider: TracerProvider

    def shutdown(self) -> None:
        """Send what is pending and stop; waits for at most a few seconds. Idempotent."""
        self._provider.shutdown()


def setup(service: str, endpoint: str | None = None) -> Tracing:
    """Set up tracing for this process, once; call `shutdown` at its end.

    `endpoint`: the collector's base URL (`http://jaeger:4318`); by default the environment's
    OTEL_EXPORTER_OTLP_ENDPOINT, and no export if that is not set.
    Raises: ConfigurationError if the endpoint is not an http(s) URL.
    """
    endpoint = endpoint if endpoint is not None else os.environ.get(ENDPOINT_SETTING, "")
    resource = Resource.create({"service.name": service, "service.namespace": "microtome"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    if endpoint:
        if not endpoint.startswith(("http://", "https://")):
            raise ConfigurationError(f"{ENDPOINT_SETTING} {endpoint!r} is not an http(s) URL.")
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_TIMEOUT_S)
        provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)
    return Tracing(bool(endpoint), provider)


def current_traceparent() -> str | None:
    """Return the W3C `traceparent` of the current span, or None outside of any."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent")


@contextmanager
def span_from(
    traceparent: str | None,
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    attributes: Mapping[str, AttributeValue] | None = None,
    **more: AttributeValue,
) -> Iterator[Span]:
    """Open a span that continues `traceparent`.

    Without one, or if it is not valid, the span continues the current span, or starts a trace.
    An exception ends the span as an error and goes on.
    """
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    if context is not None and not trace.get_current_span(context).get_span_context().is_valid:
        context = None
    tracer = trace.get_tracer("microtome")
    with tracer.start_as_current_span(
        name, context=context, kind=kind, attributes={**(attributes or {}), **more}
    ) as span:
        yield span
