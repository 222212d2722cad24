"""Logs of this release and of earlier ones, which every later release must be able to read.

What was recorded stays as it is. A test that fails here means that facts of somebody's past can no longer be told:
mend the code, or add an upcaster; never touch the log.
"""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest

from microtome.contracts.codec import from_json, message_type, to_json
from microtome.contracts.messages import Event
from microtome.domain import cluster as clusters
from microtome.domain import snapshot
from microtome.eventlog import migrate
from microtome.eventlog.database import Database
from microtome.eventlog.log import StoredEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.transfer import import_lines
from microtome.eventlog.upcast import UPCASTERS
from microtome.readmodels.projection import ReadModels
from microtome.readmodels.rebuild import rebuild, verify
from tests.golden.recording import FOLDER, digest, rows, scheduling

LOGS = sorted(FOLDER.glob("*.jsonl"))
# Of the files as they were committed.
SHA256 = {
    "0001_first_release": "87e019a34b08d94937e8b36c658580d652baabbacf79b2f626a5e729b25dada1",
    "0002_life_of_a_job": "bd3b6bf9f169bee402d437bb5ac84770bc3d6a6752f1bbe560dd8de11c72cf2a",
    "0003_drawn_tissue_and_staining": "09ea5b06f0f51c313f6999e4a30d4fb187d18547e5ad255d976dce6a5baec384",
}


def name(log: Path) -> str:
    return log.stem


def lines(log: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in log.read_bytes().splitlines()]


def known(found: Any, recorded: Any) -> Any:
    """Return of what was found what the recording speaks of: later releases know more of a row, never less."""
    if isinstance(found, dict) and isinstance(recorded, dict) and {*recorded} <= {*found}:
        return {key: known(found[key], recorded[key]) for key in recorded}
    return found


def check_rows(found: dict[str, Any], recorded: dict[str, Any]) -> None:
    for table, of_table in recorded.items():
        assert {*found[table]} == {*of_table}, table
        for key, row in of_table.items():
            assert known(found[table][key], row) == row, (table, key)


def test_the_logs_are_those_that_were_recorded() -> None:
    assert {name(log): hashlib.sha256(log.read_bytes()).hexdigest() for log in LOGS} == SHA256
    for log in LOGS:
        expected = orjson.loads(log.with_suffix(".expected.json").read_bytes())
        assert digest({key: value for key, value in expected.items() if key != "digest"}) == expected["digest"]


def test_every_event_type_in_every_shape_has_a_golden_sample() -> None:
    """Record a new golden log (`python -m tests.golden.recording NAME`) when there is a new type of event or shape."""
    samples = {(event["type"], event["schema_version"]) for log in LOGS for event in lines(log)}
    for cls in get_args(Event):
        for version in range(1, UPCASTERS.current(cls.__name__) + 1):
            assert (cls.__name__, version) in samples, f"no golden log holds a {cls.__name__} of schema {version}"


@pytest.mark.parametrize("log", LOGS, ids=name)
def test_every_old_event_reads_as_one_of_today(log: Path) -> None:
    for event in lines(log):
        stored = copy.deepcopy(event["data"])
        shape = UPCASTERS.upcast(event["type"], event["schema_version"], event["data"])
        assert event["data"] == stored, "an upcast changed what is stored"
        message = from_json(message_type(event["type"]), shape)
        # Nothing was left out: what today's event says is what the old one said.
        assert to_json(message) == shape


@pytest.mark.parametrize("log", LOGS, ids=name)
async def test_a_golden_log_comes_to_what_it_came_to(log: Path, database: Database) -> None:
    expected = orjson.loads(log.with_suffix(".expected.json").read_bytes())
    await import_lines(database, log.read_bytes().splitlines())
    events = list(await PostgresEventLog(database).read_all(limit=100_000))
    # Folded stream by stream by the domain,
    await rebuild(database)
    check_rows(await rows(database), expected["rows"])
    # folded event by event in SQL, as they were appended,
    await _project(database, events)
    check_rows(await rows(database), expected["rows"])
    assert await verify(database) == ()
    # and as the scheduler folds them.
    assert scheduling(events) == expected["scheduling"]


async def _project(database: Database, events: list[StoredEvent]) -> None:
    projection = ReadModels()
    async with database.transaction() as connection:
        await connection.execute("delete from jobs; delete from workflows; delete from slides; delete from seats")
        await connection.execute("set constraints all deferred")
        for event in events:
            await projection.apply(connection, event)
            await projection.settle(connection, [event])


async def test_a_database_of_the_first_release_is_migrated_to_what_a_rebuild_makes(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that its own program had written become those that today's program would have."""
    log = FOLDER / "0001_first_release.jsonl"
    tables = orjson.loads(log.with_suffix(".expected.json").read_bytes())["rows"]
    everything = migrate.MIGRATIONS
    monkeypatch.setattr(migrate, "MIGRATIONS", everything[:5])
    await migrate.migrate(empty_url)
    async with await Database.connect(empty_url) as database:
        await import_lines(database, log.read_bytes().splitlines())
        async with database.transaction() as connection:
            for table in ("seats", "slides", "workflows", "jobs"):
                # Places in the log are not recorded; only this cluster knows its own.
                place = {"xid": "0", "position": 0} if table == "workflows" else {}
                for row in tables[table].values():
                    await connection.execute(
                        f"insert into {table} select * from jsonb_populate_record(null::{table}, $1)", row | place
                    )
            await connection.execute(
                "update workflows w set xid = e.xid, position = e.position from events e "
                "where e.stream = 'workflow-' || w.workflow_id and e.version = w.version"
            )
        monkeypatch.setattr(migrate, "MIGRATIONS", everything)
        assert len(await migrate.migrate(empty_url)) == len(everything) - 5
        assert await verify(database) == ()


@pytest.mark.parametrize("log", LOGS, ids=name)
async def test_a_snapshot_anywhere_in_a_golden_log_changes_nothing(log: Path, database: Database) -> None:
    await import_lines(database, log.read_bytes().splitlines())
    events = await PostgresEventLog(database).read_all(limit=100_000)
    whole = clusters.Cluster()
    states = [whole]
    for event in events:
        whole = clusters.evolve(whole, event.message, event.at, event.stream)
        states.append(whole)
    for place in range(0, len(events), 3):
        resumed = snapshot.load(snapshot.dump(states[place]))
        for event in events[place:]:
            resumed = clusters.evolve(resumed, event.message, event.at, event.stream)
        assert resumed == whole, place
