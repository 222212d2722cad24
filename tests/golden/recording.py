"""What a golden log is, and how one is recorded: `python -m tests.golden.recording NAME`.

A golden log is the log of a real run, as `export` writes it, with what it came to: the rows of the read models and the
scheduler's view, and a digest of both. One is recorded per release and never changed: whoever changes the code must go
on reading it.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from pathlib import Path
from typing import Any

import orjson

from microtome.domain import cluster as clusters
from microtome.domain import eligibility
from microtome.eventlog.database import Database
from microtome.eventlog.log import StoredEvent
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.transfer import export_lines
from microtome.readmodels.projection import TABLES, ReadModels

FOLDER = Path(__file__).parent
# Places in the log belong to the cluster that handed them out.
_PLACE = {"xid", "position"}
_KEYS = {"slides": "slide_id", "workflows": "workflow_id", "jobs": "job_id", "seats": "seat"}
Outcome = dict[str, Any]


async def rows(database: Database) -> Outcome:
    """Return the rows of the read models by table and key."""
    found: Outcome = {}
    async with database.connection() as connection:
        for table in TABLES:
            key = _KEYS[table]
            records = await connection.fetch(f"select to_jsonb(t) as row from {table} t order by {key}")
            found[table] = {
                str(record["row"][key]): {name: value for name, value in record["row"].items() if name not in _PLACE}
                for record in records
            }
    return found


def scheduling(events: list[StoredEvent]) -> Outcome:
    """Return what the scheduler makes of the events."""
    cluster = clusters.Cluster()
    for event in events:
        cluster = clusters.evolve(cluster, event.message, event.at, event.stream)
    return {
        "line": list(cluster.line),
        "live": {user: sorted(theirs) for user, theirs in sorted(cluster.live.items())},
        "retries": sorted(cluster.retries),
        "running": {job_id: running.slot for job_id, running in sorted(cluster.running.items())},
        "workflows": {
            workflow_id: eligibility.status(workflow).value
            for workflow_id, workflow in sorted(cluster.workflows.items())
        },
    }


def digest(outcome: Outcome) -> str:
    """Return one number for all of it."""
    return hashlib.sha256(orjson.dumps(outcome, option=orjson.OPT_SORT_KEYS)).hexdigest()


async def record(name: str) -> None:
    """Play the story in a Postgres of its own and write down what happened. Refuses to write over a golden log."""
    from tests.golden.story import play
    from tests.integration.eventlog.servers import PostgresProcess, home_folder

    target = FOLDER / f"{name}.jsonl"
    if target.exists():
        raise SystemExit(f"{target} exists; golden logs are never changed. Choose another name.")
    with home_folder() as home:
        server = PostgresProcess(home)
        server.start()
        try:
            await server.postgres.wait_ready()
            url = server.postgres.url()
            await migrate(url)
            async with await Database.connect(url) as database:
                log = PostgresEventLog(database, [ReadModels()])
                await play(log)
                target.write_bytes(b"".join([line async for line in export_lines(database)]))
                outcome = {
                    "rows": await rows(database),
                    "scheduling": scheduling(list(await log.read_all(limit=100_000))),
                }
        finally:
            server.stop()
    write_expected(name, outcome)


def write_expected(name: str, outcome: Outcome) -> None:
    """Write what a log came to beside it."""
    expected = {"digest": digest(outcome), **outcome}
    option = orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    (FOLDER / f"{name}.expected.json").write_bytes(orjson.dumps(expected, option=option))


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1]))
