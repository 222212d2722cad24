"""What the services count, and which start the scheduler sends again."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from prometheus_client import CollectorRegistry

from microtome.bus.jetstream import JetStreamBus
from microtome.bus.memory import MemoryBus
from microtome.bus.topology import WORK_INFER, infer
from microtome.contracts.messages import JobStarted, JobSucceeded, SeatGranted
from microtome.domain.cluster import Cluster
from microtome.domain.limits import Limits
from microtome.errors import NotFound, Unavailable
from microtome.eventlog.log import Append, EventLog
from microtome.eventlog.memory import MemoryEventLog
from microtome.leases.lease import Expired
from services.inference.metrics import InferenceMetrics
from services.scheduler import observing
from services.scheduler.deciding import Decider
from services.scheduler.observing import SchedulerMetrics
from services.scheduler.recovering import start_of
from tests.integration.eventlog.facts import fact, store, submitted


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog()


async def test_a_scheduler_that_leads_again_counts_only_what_is_new(log: EventLog, registry: CollectorRegistry) -> None:
    metrics = SchedulerMetrics(registry)

    def appended(kind: str) -> float | None:
        return registry.get_sample_value("events_appended_total", {"type": kind})

    def ended() -> float | None:
        return registry.get_sample_value("job_latency_seconds_count", {"outcome": "succeeded"})

    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "workflow-w", submitted("w", {"a": ("x", ()), "b": ("y", ())}))
    await store(log, "workflow-w", JobStarted(job_id="w-a", attempt=1, slot=0))
    await store(log, "workflow-w", JobSucceeded(job_id="w-a", attempt=1))
    await Decider(log, Limits(), metrics.observe).catch_up()
    assert (appended("JobStarted"), appended("JobSucceeded"), ended()) == (1, 1, 1)

    await store(log, "workflow-w", JobStarted(job_id="w-b", attempt=1, slot=0))
    await Decider(log, Limits(), metrics.observe).catch_up()
    assert (appended("JobStarted"), appended("JobSucceeded"), ended()) == (2, 1, 1)


async def test_the_start_of_an_attempt_is_found_with_its_trace(log: EventLog) -> None:
    await store(log, "workflow-w", submitted("w", {"a": ("x", ()), "b": ("y", ())}))
    for number, (job, attempt) in enumerate((("w-a", 1), ("w-b", 1), ("w-a", 2)), start=1):
        new = fact(JobStarted(job_id=job, attempt=attempt, slot=0), traceparent=f"{job}/{attempt}")
        await log.append(Append("workflow-w", number, (new,)))

    def expired(job: str, attempt: int) -> Expired:
        return Expired(job_id=job, workflow_id="w", user_id="ada", attempt=attempt, owner=None, stage="queued")

    assert (await start_of(log, expired("w-a", 1))).meta["traceparent"] == "w-a/1"
    assert (await start_of(log, expired("w-a", 2))).meta["traceparent"] == "w-a/2"
    with pytest.raises(NotFound):
        await start_of(log, expired("w-b", 2))


async def test_the_lag_of_the_relay_is_exported_and_an_outage_does_not_end_the_asking(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observing, "ASK_S", 0.01)
    answers: list[int | None] = [7, None, 3]

    async def lag() -> int:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise Unavailable
        return answer

    async def oldest_writer() -> float:
        return 0.5

    asking = asyncio.create_task(SchedulerMetrics(registry).ask(MemoryBus(), Cluster, lag, oldest_writer))
    async with asyncio.timeout(10):
        for expected in (7, 3):
            while registry.get_sample_value("relay_lag_events") != expected:
                await asyncio.sleep(0.001)
    assert registry.get_sample_value("log_oldest_writer_seconds") == 0.5
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)


async def test_tiles_that_no_worker_asks_for_are_in_the_depth_of_the_queue(
    registry: CollectorRegistry, fresh_nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every engine wished for, also one that nobody runs."""
    monkeypatch.setattr(observing, "ASK_S", 0.05)
    bus = await JetStreamBus.connect(fresh_nats_url, name="test depths")
    before = await bus.stored(WORK_INFER)
    queues = [infer(uuid.uuid4().hex, engine) for engine in ("auto", "tensorrt-fp16")]

    async def nothing() -> int:
        return 0

    asking = asyncio.create_task(SchedulerMetrics(registry).ask(bus, Cluster, nothing, nothing))
    try:
        async with asyncio.timeout(20):
            for number, queue in enumerate(queues, 1):
                await bus.publish(queue.subject, b"tiles", message_id=uuid.uuid4().hex)
                while registry.get_sample_value("queue_depth", {"queue": "infer"}) != before + number:
                    await asyncio.sleep(0.02)
            for queue in queues:
                pulled = await bus.queue(queue)
                for delivery in await pulled.fetch(4):
                    await delivery.ack()
                await pulled.close()
            while registry.get_sample_value("queue_depth", {"queue": "infer"}) != before:
                await asyncio.sleep(0.02)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        await bus.close()


def test_inference_works_on_a_job_as_long_as_one_of_its_messages_is_in_work(registry: CollectorRegistry) -> None:
    metrics = InferenceMetrics(registry)
    seen = []
    for change, job in (
        (metrics.taken, "a"),
        (metrics.taken, "a"),
        (metrics.taken, "b"),
        (metrics.settled, "a"),
        (metrics.settled, "b"),
        (metrics.settled, "a"),
    ):
        change(job)
        seen.append(registry.get_sample_value("worker_active_jobs"))
    assert seen == [1, 1, 2, 2, 1, 0]
