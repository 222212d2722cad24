"""What the scheduler counts, from the events that it folds anyway."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Gauge

from microtome.bus.bus import Bus
from microtome.bus.topology import WORK_INFER, WORK_MERGE, WORK_PLAN
from microtome.contracts.messages import JobCancelled, JobFailed, JobSucceeded
from microtome.domain.cluster import STREAM_PREFIX, Cluster
from microtome.domain.scheduling import seat_line
from microtome.errors import MicrotomeError
from microtome.eventlog.log import START, StoredEvent
from microtome.telemetry.metrics import AdmissionMetrics, LogMetrics, QueueMetrics, RelayMetrics

log = logging.getLogger(__name__)

ASK_S = 5.0
_QUEUES = {"plan": WORK_PLAN, "infer": WORK_INFER, "merge": WORK_MERGE}
_OUTCOMES = {JobSucceeded: "succeeded", JobFailed: "failed", JobCancelled: "cancelled"}


class SchedulerMetrics:
    """Active and waiting users, job latency, queue depths, events, the relay, and who leads.

    One for the life of the process. Several schedulers fold the same events; the one that leads counts them.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._admission = AdmissionMetrics(registry)
        self._queues = QueueMetrics(registry)
        self._log = LogMetrics(registry)
        self._relay = RelayMetrics(registry)
        self._since = datetime.now(UTC)
        self._counted = START
        self._leads = True
        self._leading = Gauge("scheduler_leads", "1 if this scheduler decides, 0 if it stands by.", registry=registry)

    def led(self, leads: bool) -> None:
        """Say whether this process leads; one that does not counts nothing and shows nobody."""
        self._leads = leads
        self._leading.set(leads)
        if not leads:
            self._admission.active_users.set(0)
            self._admission.waiting_users.set(0)

    def observe(self, event: StoredEvent, before: Cluster) -> None:
        """Take in one event and the cluster before it. What is older than this process was counted by another."""
        if not self._leads or event.at < self._since or event.cursor <= self._counted:
            return
        self._counted = event.cursor
        self._log.appended.labels(type(event.message).__name__).inc()
        outcome = _OUTCOMES.get(type(event.message))
        retried = isinstance(event.message, JobFailed) and event.message.retry_at is not None
        workflow = before.workflows.get(event.stream.removeprefix(STREAM_PREFIX))
        if outcome and not retried and workflow is not None:
            seconds = (event.at - workflow.submitted_at).total_seconds()
            self._admission.job_latency.labels(outcome).observe(seconds)

    def passed_over(self, event: StoredEvent) -> None:
        """The relay could not publish this event and never will."""
        self._relay.passed_over.labels(type(event.message).__name__).inc()

    async def ask(
        self,
        bus: Bus,
        cluster: Callable[[], Cluster],
        lag: Callable[[], Awaitable[int]],
        oldest_writer: Callable[[], Awaitable[float]],
    ) -> None:
        """Every few seconds, ask how deep the queues are, who is active and how far behind the relay is.

        Until cancelled. `lag()`: how many events are not relayed yet. `oldest_writer()`: the age in seconds of the
        oldest transaction that holds back the readers of the log.
        """
        while True:
            now = cluster()
            self._admission.active_users.set(len(now.seats))
            self._admission.waiting_users.set(len(seat_line(now)))
            await self._depths(bus)
            await self._behind(lag, oldest_writer)
            await asyncio.sleep(ASK_S)

    async def _depths(self, bus: Bus) -> None:
        """Ask how deep the queues are; the queues of all models and engines count as one."""
        try:
            depths = {name: await bus.stored(stream) for name, stream in _QUEUES.items()}
        except MicrotomeError as error:
            log.warning("the depth of the queues is unknown: %s", error)
        else:
            for name, depth in depths.items():
                self._queues.depth.labels(name).set(depth)

    async def _behind(self, lag: Callable[[], Awaitable[int]], oldest_writer: Callable[[], Awaitable[float]]) -> None:
        try:
            self._relay.lag.set(await lag())
            self._log.oldest_writer.set(await oldest_writer())
        except MicrotomeError as error:
            log.warning("how far readers of the log are behind is unknown: %s", error)
