"""Metrics are served as Prometheus expects them, under the promised names."""

from __future__ import annotations

import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families

from microtome.errors import ConfigurationError
from microtome.telemetry import metrics


def scrape(port: int) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        text = answer.read().decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_names_and_values_as_scraped() -> None:
    registry = metrics.process_registry()
    metrics.QueueMetrics(registry).depth.labels("plan").set(4)
    admission = metrics.AdmissionMetrics(registry)
    admission.active_users.set(3)
    admission.waiting_users.set(1)
    admission.job_latency.labels("succeeded").observe(7.5)
    relay = metrics.RelayMetrics(registry)
    relay.lag.set(2)
    relay.passed_over.labels("JobStarted").inc()
    metrics.LogMetrics(registry).appended.labels("JobStarted").inc()
    worker = metrics.WorkerMetrics(registry)
    worker.active_jobs.inc()
    worker.dead_letters.labels("infer").inc()
    tiles = metrics.TileMetrics(registry)
    tiles.done(30)
    tiles.stage.labels("network").observe(0.02)
    metrics.HttpMetrics(registry).observe("/api/v1/jobs/{id}", "GET", 404, 0.004)
    server = metrics.serve_metrics(0, registry)
    try:
        seen = scrape(server.port)
    finally:
        server.close()
    expected = {
        ("queue_depth", (("queue", "plan"),)): 4,
        ("active_users", ()): 3,
        ("waiting_users", ()): 1,
        ("job_latency_seconds_sum", (("outcome", "succeeded"),)): 7.5,
        ("job_latency_seconds_bucket", (("le", "10.0"), ("outcome", "succeeded"))): 1,
        ("job_latency_seconds_bucket", (("le", "5.0"), ("outcome", "succeeded"))): 0,
        ("relay_lag_events", ()): 2,
        ("relay_passed_over_total", (("type", "JobStarted"),)): 1,
        ("events_appended_total", (("type", "JobStarted"),)): 1,
        ("worker_active_jobs", ()): 1,
        ("dead_letters_total", (("queue", "infer"),)): 1,
        ("tiles_processed_total", ()): 30,
        ("tiles_per_second", ()): 3,
        ("tile_stage_seconds_count", (("stage", "network"),)): 1,
        (
            "http_requests_total",
            (("method", "GET"), ("route", "/api/v1/jobs/{id}"), ("status", "404")),
        ): 1,
        ("http_request_seconds_count", (("method", "GET"), ("route", "/api/v1/jobs/{id}"))): 1,
    }
    assert {key: seen.get(key) for key in expected} == expected
    assert seen["process_resident_memory_bytes", ()] > 0


def test_a_service_exports_only_what_it_owns() -> None:
    registry = metrics.process_registry()
    metrics.QueueMetrics(registry)
    names = {family.name for family in registry.collect()}
    assert "queue_depth" in names
    assert "tiles_per_second" not in names


def test_the_rate_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(metrics.time, "monotonic", lambda: now)
    rate = metrics._Rate(10.0)
    rate.add(20)
    assert rate.now() == 2.0
    now = 105.0
    rate.add(10)
    assert rate.now() == 3.0
    now = 111.0
    assert rate.now() == 1.0
    now = 200.0
    assert rate.now() == 0.0


def test_a_taken_port_is_named_and_a_closed_one_is_free() -> None:
    registry = metrics.process_registry()
    first = metrics.serve_metrics(0, registry)
    with pytest.raises(ConfigurationError, match=f"METRICS_HOST 127.0.0.1 and METRICS_PORT {first.port}"):
        metrics.serve_metrics(first.port, registry)
    first.close()
    metrics.serve_metrics(first.port, registry).close()


def test_only_this_machine_may_ask_unless_told_otherwise() -> None:
    server = metrics.serve_metrics(0, metrics.process_registry())
    everywhere = metrics.serve_metrics(0, metrics.process_registry(), "0.0.0.0")
    try:
        assert server._server.server_address[0] == "127.0.0.1"
        assert everywhere._server.server_address[0] == "0.0.0.0"
    finally:
        server.close()
        everywhere.close()
