"""How fast the log is replayed, and how much memory it takes: `make bench-replay`.

A log of so many events is made in a Postgres of its own: workflows of 20 jobs in two branches, each job started,
planned and finished, one in eight failing once, one in sixteen preempted. Each measurement runs in a process of its
own, so that its peak memory is its own.

The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from microtome.contracts.codec import to_json, type_name
from microtome.contracts.messages import (
    Artifact,
    JobFailed,
    JobParameters,
    JobPlanned,
    JobPreempted,
    JobResult,
    JobSpec,
    JobStarted,
    JobSucceeded,
    JobType,
    Message,
    Normalisation,
    SeatGranted,
    SeatReleased,
    StageSeconds,
    WorkflowSubmitted,
)
from microtome.domain import cluster as clusters
from microtome.eventlog.database import Database
from microtome.eventlog.log import START
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.rebuild import rebuild, verify
from tests.integration.eventlog.servers import PostgresProcess, home_folder

JOBS = 20
SOON = datetime(2030, 1, 1, tzinfo=UTC)
Row = tuple[str, int, UUID, str, str, int, dict[str, Any]]


def history(events: int) -> Iterator[tuple[str, int, Message, str]]:
    """Yield (stream, version, event, user) as they would be appended."""
    made = number = 0
    seats = 0
    while made < events:
        user, workflow = f"user{number % 50}", f"{number:08d}-0000-4000-8000-000000000000"
        for stream, version, message in _workflow(workflow, user, seats):
            made += 1
            yield stream, version, message, user
        seats += 2
        number += 1


def _workflow(workflow: str, user: str, seats: int) -> Iterator[tuple[str, int, Message]]:
    stream = f"workflow-{workflow}"
    specs = tuple(
        JobSpec(
            job_id=f"{workflow[:-3]}{n:03d}",
            key=f"cells-{n}",
            type=JobType.SEGMENT_CELLS,
            slide_id=workflow,
            branch=f"branch-{n % 2}",
            depends_on=(f"{workflow[:-3]}{n - 3:03d}",) if n % 5 == 4 else (),
            parameters=JobParameters(mpp=0.25, tile_size=1024),
            expected_tiles=240,
        )
        for n in range(JOBS)
    )
    yield stream, 1, WorkflowSubmitted(workflow_id=workflow, user_id=user, name=f"of {user}", jobs=specs)
    yield "seats", seats + 1, SeatGranted(user_id=user, seat=0)
    for version, message in enumerate(_lives(specs), start=2):
        yield stream, version, message
    yield "seats", seats + 2, SeatReleased(user_id=user, seat=0)


def _lives(specs: tuple[JobSpec, ...]) -> Iterator[Message]:
    for n, spec in enumerate(specs):
        attempt = 1
        yield JobStarted(job_id=spec.job_id, attempt=attempt, slot=0)
        if n % 8 == 1:
            yield JobFailed(
                job_id=spec.job_id, attempt=attempt, code="unavailable", detail="gone", transient=True, retry_at=SOON
            )
            attempt += 1
            yield JobStarted(job_id=spec.job_id, attempt=attempt, slot=0)
        if n % 16 == 2:
            yield JobPreempted(job_id=spec.job_id, attempt=attempt)
            attempt += 1
            yield JobStarted(job_id=spec.job_id, attempt=attempt, slot=0)
        yield JobPlanned(
            job_id=spec.job_id,
            attempt=attempt,
            tiles_total=240,
            tiles_skipped=100,
            normalisation=Normalisation(low=(1.5, 2.5, 3.5), high=(240.0, 241.0, 242.0)),
            scale=2.0,
            model="embedded",
            model_digest="cd" * 32,
        )
        yield JobSucceeded(job_id=spec.job_id, attempt=attempt, result=RESULT)


RESULT = JobResult(
    tiles_total=240,
    tiles_skipped=100,
    tiles_processed=140,
    cells=18_231,
    tissue_mm2=12.5,
    cells_per_mm2=1458.48,
    engine="onnx-cpu",
    model="embedded",
    stage_seconds=tuple(StageSeconds(stage=stage, seconds=12.5) for stage in ("plan", "infer", "merge")),
    artifacts=tuple(
        Artifact(name=name, media_type="image/png", size_bytes=123_456, sha256="ab" * 32)
        for name in ("tissue_mask.png", "thumbnail.jpg", "overlay.jpg", "cells.parquet", "cells.geojson")
    ),
)


async def fill(url: str, events: int) -> None:
    """Store so many events, a workflow's life in a transaction."""
    await migrate(url)
    async with await Database.connect(url) as database, database.session() as connection:
        rows: list[Row] = []
        for number, (stream, version, message, user) in enumerate(history(events)):
            rows.append((stream, version, UUID(int=number + 1), user, type_name(message), 1, to_json(message)))
            if len(rows) == 1000:
                await _copy(connection, rows)
        await _copy(connection, rows)
        await connection.execute("vacuum analyze events")


async def _copy(connection: asyncpg.Connection[asyncpg.Record], rows: list[Row]) -> None:
    columns = ("stream", "version", "event_id", "tenant", "type", "schema_version", "data")
    await connection.copy_records_to_table("events", records=rows, columns=columns)
    rows.clear()


async def measure(what: str, url: str) -> dict[str, float]:
    """Run one measurement; return events, seconds and the peak memory of this process."""
    before = _peak_mib()
    begun, used = time.perf_counter(), time.process_time()
    async with await Database.connect(url) as database:
        if what == "fold":
            events = await _fold(database)
        elif what == "rebuild":
            events = await rebuild(database)
        else:
            differences = await verify(database)
            assert not differences, differences[:3]
            async with database.connection() as connection:
                events = await connection.fetchval("select count(*) from events")
    seconds, worked = time.perf_counter() - begun, time.process_time() - used
    return {"events": events, "seconds": seconds, "cpu_s": worked, "peak_mib": _peak_mib(), "start_mib": before}


async def _fold(database: Database) -> int:
    log, cluster, cursor, count = PostgresEventLog(database), clusters.Cluster(), START, 0
    while page := await log.read_all(cursor, 2000):
        for event in page:
            cluster = clusters.evolve(cluster, event.message, event.at, event.stream)
        cursor, count = page[-1].cursor, count + len(page)
    return count


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apart(what: str, url: str) -> dict[str, float]:
    """Measure in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.replay", "--one", what, "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    if done.returncode:
        raise SystemExit(done.stderr)
    result: dict[str, float] = orjson.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    """Measure with each number of events and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--what", nargs="+", default=["fold", "rebuild", "rebuild", "verify"])
    parser.add_argument("--one", choices=["fold", "rebuild", "verify"])
    parser.add_argument("--url", default="")
    chosen = parser.parse_args()
    if chosen.one:
        print(json.dumps(asyncio.run(measure(chosen.one, chosen.url))))
        return
    report: dict[str, Any] = {}
    for events in chosen.events:
        with home_folder() as home:
            server = PostgresProcess(home)
            server.start()
            try:
                asyncio.run(server.postgres.wait_ready())
                url = server.postgres.url()
                asyncio.run(fill(url, events))
                for what in chosen.what:
                    found = apart(what, url)
                    name = "rebuild_of_nothing_new" if what == "rebuild" and f"rebuild_{events}" in report else what
                    line = {
                        "events": int(found["events"]),
                        "events_per_s": round(found["events"] / found["seconds"]),
                        "events_per_cpu_s": round(found["events"] / found["cpu_s"]),
                        "peak_rss_mib": round(found["peak_mib"], 1),
                    }
                    report[f"{name}_{events}"] = line
                    print(f"{name:>24} {events:>8} {line}", flush=True)
            finally:
                server.stop()
    print(json.dumps(report))


if __name__ == "__main__":
    main()
