"""One trace through all services, metrics without ids, logs that belong to traces."""

from __future__ import annotations

import re

import httpx

from microtome.contracts.messages import SlideRegistered, WorkflowSubmitted
from microtome.embedded.supervisor import SERVICES
from tests.acceptance.conftest import Live, cells, until

WORKERS = {"tiler", "inference", "merger"}


async def test_one_trace_spans_all_services_and_their_logs(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    workflow = await live.finished(user, await user.create_workflow("traced", [cells(slide)]))
    events = [event for event in await live.events() if event.stream == f"workflow-{workflow['id']}"]
    traces = {event.meta["traceparent"].split("-")[1] for event in events}
    assert len(traces) == 1, "every event of a workflow belongs to the trace of its submission"
    (trace_id,) = traces

    async def spanned() -> bool:
        return {span.service for span in live.collector.trace(trace_id)} >= set(SERVICES)

    await until(spanned, "spans of all services", 15.0)
    spans = live.collector.trace(trace_id)
    roots = [span for span in spans if not span.parent_id]
    assert [(root.service, root.name) for root in roots] == [("gateway", "POST /api/v1/workflows")]
    known = {span.span_id for span in spans}
    assert all(span.parent_id in known for span in spans if span.parent_id)

    for service in {*WORKERS, "scheduler"}:
        assert trace_id in {line.get("trace_id") for line in live.logged(service)}, service
    for service in SERVICES:
        for line in live.logged(service):
            assert {"time", "level", "service", "logger", "message"} <= set(line)
            assert line["service"] == service


async def test_metrics_are_named_as_promised_and_hold_no_ids(live: Live) -> None:
    user = live.user()
    slide = await live.slide(user)
    workflow = await live.finished(user, await user.create_workflow("measured", [cells(slide)]))
    result = workflow["jobs"][0]["result"]
    assert result is not None

    async with httpx.AsyncClient(trust_env=False) as http:

        async def page(service: str) -> str:
            response = await http.get(f"http://127.0.0.1:{live.stack.ports.metrics[service]}/metrics")
            assert response.status_code == 200
            return response.text

        pages = {service: await page(service) for service in SERVICES}

        async def queues() -> bool:  # asked for every few seconds
            pages["scheduler"] = await page("scheduler")
            return {f'queue_depth{{queue="{name}"}}' for name in ("plan", "infer", "merge")} <= samples(
                pages["scheduler"]
            ).keys()

        await until(queues, "the depth of all queues", 15.0)
    scheduler, inference = samples(pages["scheduler"]), samples(pages["inference"])
    assert scheduler["active_users"] >= 0
    assert scheduler["relay_lag_events"] >= 0
    assert scheduler['job_latency_seconds_count{outcome="succeeded"}'] >= 1
    assert inference["tiles_processed_total"] >= result["tiles_processed"] > 0
    assert inference["tiles_per_second"] >= 0
    for service in WORKERS:
        assert samples(pages[service])["worker_active_jobs"] == 0

    ids = set()
    for event in await live.events():
        ids.add(event.tenant)
        match event.message:
            case WorkflowSubmitted(workflow_id=workflow_id, jobs=jobs):
                ids |= {workflow_id, *(job.job_id for job in jobs)}
            case SlideRegistered(slide_id=slide_id, sha256=sha256, filename=filename):
                ids |= {slide_id, sha256, filename}
    assert len(ids) > 3
    for service, text in pages.items():
        values = set(re.findall(r'="([^"]*)"', text))
        assert not [each for each in ids if any(each in value for value in values)], service


def samples(page: str) -> dict[str, float]:
    """The samples of a metrics page by name and labels."""
    lines = (line.rpartition(" ") for line in page.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}
