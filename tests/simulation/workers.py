"""Workers without pixels: the real frame of an attempt around a body that only passes the time.

What a body finds out is kept where the real ones keep it (a store that outlives all processes), so that a next
attempt goes on where the last one was.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from microtome import clock
from microtome.attempts import Attempt, Attempts, HandOver
from microtome.bus import subjects
from microtome.bus.queue import Delivery
from microtome.bus.topology import MERGE, PLAN
from microtome.contracts.codec import from_bytes, to_bytes
from microtome.contracts.messages import (
    JobFailed,
    JobPlanned,
    JobResult,
    JobSucceeded,
    MergeWork,
    Message,
    PlanWork,
    SlideRegistered,
)
from microtome.domain.commands import Command, ReportPlanned, ReportSuccess
from microtome.errors import Busy, MicrotomeError, NotFound, UnreadableSlide
from microtome.eventlog.log import StoredEvent
from microtome.leases.lease import Leases, Progress
from microtome.process import until
from microtome.readmodels.queries import JobContext
from microtome.workflows import Workflows
from tests.simulation.wires import Weather, WiredBus, WiredLog

JOBS_AT_ONCE = 4


class Silence:
    """A user's log that nobody reads."""

    def write(self, *_: object, **__: object) -> None:
        pass


class Queries:
    """The one query of a worker, answered from the log."""

    def __init__(self, log: WiredLog, jobs: dict[str, tuple[str, str, Any]]) -> None:
        self._log = log
        self._jobs = jobs

    async def job_context(self, job_id: str) -> JobContext:
        workflow_id, user_id, spec = self._jobs[job_id]
        started: Any = None
        for event in await self._log.read_stream(f"workflow-{workflow_id}"):
            if getattr(event.message, "job_id", "") == job_id and hasattr(event.message, "slot"):
                started = event.message
        if started is None:
            raise NotFound
        return JobContext(
            job_id=job_id,
            spec=spec,
            status="RUNNING",
            attempt=started.attempt,
            planned=None,
            slide=SlideRegistered(slide_id=spec.slide_id, user_id=user_id),
            workflow_id=workflow_id,
            user_id=user_id,
            dependencies=(),
        )


class ServerClock:
    """The time that workers are told, here as wrong as their own clocks: no law may rest on it."""

    async def now(self) -> datetime:
        return clock.now()


@dataclass
class Shop:
    """What the bodies know: how long things take and how often they go wrong, and the tiles that are done."""

    weather: Weather
    done: dict[str, int]
    transient: float
    permanent: float
    pace: float = 1.0

    async def toil(self, least: float, most: float) -> None:
        """Pass the time of some work, in seconds."""
        await asyncio.sleep(self.pace * self.weather.random.uniform(least, most))

    def stumble(self, attempt: int) -> None:
        chance = self.weather.random.random()
        if chance < self.transient:
            raise Busy(f"a tile came to nothing, this time; {signed(attempt)}")
        if chance < self.transient + self.permanent:
            raise UnreadableSlide(signed(attempt))


def signed(attempt: int) -> str:
    """What a body writes into its report, so that the judge sees whose it really is."""
    return f"signed: {attempt}"


def forged(event: Message) -> bool:
    """Whether a report was stored as another attempt's than that which wrote it."""
    told = ""
    if isinstance(event, JobSucceeded) and event.result is not None:
        told = event.result.notes[0]
    elif isinstance(event, JobFailed):
        told = event.detail
    _, mark, attempt = told.partition("signed: ")
    return bool(mark) and int(attempt) != getattr(event, "attempt", None)


def frame(
    name: str, log: WiredLog, leases: Leases, workflows: Workflows, jobs: dict[str, tuple[str, str, Any]]
) -> Attempts:
    """The real frame of a worker, over wires."""
    process: Any = SimpleNamespace(
        name=name,
        owner=name,
        leases=leases,
        queries=Queries(log, jobs),
        workflows=workflows,
        log=log,
        database=ServerClock(),
        data_dir=Path("/nowhere"),
    )
    framed = Attempts(process)
    silence: Any = Silence()
    framed._user_log = silence
    return framed


class Careless(Workflows):
    """Sabotage: a worker that reports in the name of whoever works now."""

    async def execute(self, workflow_id: str, command: Command) -> tuple[StoredEvent, ...]:
        if isinstance(command, ReportSuccess):
            workflow, _ = await self.load(workflow_id)
            command = replace(command, attempt=workflow.jobs[command.job_id].attempt)
        return await super().execute(workflow_id, command)


async def tile(framed: Attempts, workflows: Workflows, bus: WiredBus, shop: Shop) -> None:
    """A tiler: plans, feeds tile after tile, hands over to the merger."""

    async def plan(attempt: Attempt) -> HandOver:
        job_id, tiles = attempt.job_id, attempt.context.spec.expected_tiles
        await shop.toil(0.01, 0.3)
        planned = JobPlanned(job_id=job_id, attempt=attempt.attempt, tiles_total=tiles)
        await workflows.execute(attempt.context.workflow_id, ReportPlanned(planned))
        while (done := shop.done.get(job_id, 0)) < tiles:
            await shop.toil(0.05, 1.0)
            shop.stumble(attempt.attempt)
            shop.done[job_id] = max(done + 1, shop.done.get(job_id, 0))
            attempt.progress = Progress(tiles_total=tiles, tiles_processed=done + 1)
        work = MergeWork(
            job_id=job_id,
            workflow_id=attempt.context.workflow_id,
            user_id=attempt.context.user_id,
            attempt=attempt.attempt,
            tiles_total=tiles,
        )
        message_id = f"{attempt.handling}:merge"
        return HandOver("merge", lambda: bus.publish(subjects.WORK_MERGE, to_bytes(work), message_id=message_id))

    async def handle(delivery: Delivery) -> None:
        work = from_bytes(PlanWork, delivery.payload)
        await framed.work(work.job_id, work.attempt, "plan", plan)

    async def dead(delivery: Delivery, error: MicrotomeError) -> None:
        work = from_bytes(PlanWork, delivery.payload)
        await framed.fail(work.job_id, work.workflow_id, work.attempt, error)

    await _work(bus, PLAN, handle, dead)


async def merge(framed: Attempts, workflows: Workflows, bus: WiredBus, shop: Shop) -> None:
    """A merger: makes the result and reports success."""

    async def handle(delivery: Delivery) -> None:
        work = from_bytes(MergeWork, delivery.payload)

        async def finish(attempt: Attempt) -> None:
            await shop.toil(0.01, 1.5)
            shop.stumble(attempt.attempt)
            attempt.progress = replace(attempt.progress, cells=work.tiles_total)
            result = JobResult(
                tiles_total=work.tiles_total, tiles_processed=work.tiles_total, notes=(signed(work.attempt),)
            )
            await workflows.execute(work.workflow_id, ReportSuccess(work.job_id, work.attempt, result))

        await framed.work(work.job_id, work.attempt, "merge", finish)

    async def dead(delivery: Delivery, error: MicrotomeError) -> None:
        work = from_bytes(MergeWork, delivery.payload)
        await framed.fail(work.job_id, work.workflow_id, work.attempt, error)

    await _work(bus, MERGE, handle, dead)


async def _work(bus: WiredBus, queue: Any, handle: Any, dead: Any) -> None:
    worker = await bus.consume(queue, handle, concurrency=JOBS_AT_ONCE, on_dead=dead)
    await until(asyncio.Event(), worker.wait())
