"""A worker that does nothing, properly: takes `work.plan`, holds the lease, reports success.

Everything but the pixels is as in a real service, so that what it measures is the control plane. Each job that it takes
is one line on stdout: job id, attempt, wall clock.
"""

from __future__ import annotations

import asyncio
import sys
import time

from microtome.attempts import Attempt, Attempts
from microtome.bus.queue import Delivery
from microtome.bus.topology import PLAN
from microtome.contracts.codec import from_bytes
from microtome.contracts.messages import JobResult, PlanWork
from microtome.domain.commands import ReportSuccess
from microtome.process import connected, run, until
from microtome.settings import ServiceSettings

CONCURRENCY = 32


async def serve(stop: asyncio.Event) -> None:
    settings = ServiceSettings.from_environment()
    async with connected("noop", settings) as process:
        attempts = Attempts(process)

        async def handle(delivery: Delivery) -> None:
            taken = time.time()
            work = from_bytes(PlanWork, delivery.payload)

            async def nothing(attempt: Attempt) -> None:
                done = JobResult(tiles_total=1, tiles_processed=1, engine="none", model="none")
                await process.workflows.execute(work.workflow_id, ReportSuccess(work.job_id, work.attempt, done))

            await attempts.work(work.job_id, work.attempt, "plan", nothing)
            sys.stdout.write(f"{work.job_id} {work.attempt} {taken:.6f}\n")

        worker = await process.bus.consume(PLAN, handle, concurrency=CONCURRENCY)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            await until(stop, worker.wait())
        finally:
            await worker.stop(grace_s=2.0)
            sys.stdout.flush()


if __name__ == "__main__":
    run(serve)
