"""The log out of one database and into another."""

from __future__ import annotations

from uuid import uuid4

import orjson
import pytest

from microtome.contracts.messages import JobStarted, JobSucceeded, SeatGranted, SlideRegistered
from microtome.errors import ConfigurationError, Conflict, InvalidRequest
from microtome.eventlog.database import Database
from microtome.eventlog.migrate import migrate
from microtome.eventlog.postgres import PostgresEventLog
from microtome.eventlog.transfer import export_lines, import_lines
from microtome.readmodels.projection import ReadModels
from microtome.readmodels.queries import Queries
from microtome.readmodels.rebuild import rebuild, verify
from tests.integration.eventlog.facts import fact, slide, store, submitted


async def exported(database: Database) -> list[bytes]:
    return [line async for line in export_lines(database)]


async def live(log: PostgresEventLog) -> None:
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    await store(log, "slide-slide-1", slide())
    await store(log, "slide-ü", SlideRegistered(slide_id="ü", user_id="ada", filename="präparat 🔬.svs"))
    for number in range(4):
        await store(log, f"workflow-w{number}", submitted(f"w{number}", {"a": ("x", ()), "b": ("y", ("a",))}))
        await store(log, f"workflow-w{number}", JobStarted(job_id=f"w{number}-a", attempt=1, slot=number))
    await store(log, "workflow-w0", JobSucceeded(job_id="w0-a", attempt=1))


async def test_what_is_exported_and_imported_is_the_same_log(
    log: PostgresEventLog, database: Database, empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("microtome.eventlog.transfer.PAGE", 5)
    await live(log)
    lines = await exported(database)
    before = await log.read_all()
    assert len(lines) == len(before)
    await migrate(empty_url)
    async with await Database.connect(empty_url) as elsewhere:
        seen: list[int] = []
        done = await import_lines(elsewhere, lines, progress=seen.append)
        assert (done.events, done.streams, seen) == (len(before), 7, [5, 10])
        there = PostgresEventLog(elsewhere, [ReadModels()])
        after = await there.read_all()
        same = [(e.stream, e.version, e.event_id, e.tenant, e.message, dict(e.meta), e.at) for e in before]
        assert [(e.stream, e.version, e.event_id, e.tenant, e.message, dict(e.meta), e.at) for e in after] == same
        # What was exported from there is the file again, but for the cursors.
        again = [orjson.loads(line) | {"cursor": ""} for line in await exported(elsewhere)]
        assert again == [orjson.loads(line) | {"cursor": ""} for line in lines]
        await rebuild(elsewhere)
        assert await verify(elsewhere) == ()
        here, record = await Queries(database).workflow("ada", "w0"), await Queries(elsewhere).workflow("ada", "w0")
        assert record.state == here.state
        # Life goes on.
        await store(there, "workflow-w1", JobSucceeded(job_id="w1-a", attempt=1))
        with pytest.raises(Conflict, match="holds events"):
            await import_lines(elsewhere, lines)


async def test_an_export_begins_after_a_cursor(log: PostgresEventLog, database: Database) -> None:
    await live(log)
    events = await log.read_all()
    lines = [orjson.loads(line) async for line in export_lines(database, events[4].cursor)]
    assert [line["cursor"] for line in lines] == [str(event.cursor) for event in events[5:]]


def event(**changes: object) -> bytes:
    whole = {
        "cursor": "1:1",
        "stream": "workflow-w",
        "version": 1,
        "event_id": str(uuid4()),
        "tenant": "ada",
        "type": "JobStarted",
        "schema_version": 1,
        "data": {"jobId": "a"},
        "meta": {},
        "at": "2026-01-01T00:00:00+00:00",
    }
    return orjson.dumps({name: value for name, value in (whole | changes).items() if value is not None})


SAME = str(uuid4())


DAMAGED: list[tuple[list[bytes], type[Exception], str]] = [
    ([event(), b"no json"], InvalidRequest, "Line 2"),
    ([b"[1]"], InvalidRequest, "no exported event"),
    ([event(stream=None)], InvalidRequest, "no exported event"),
    ([event(more=1)], InvalidRequest, "no exported event"),
    ([event(type="Unheard")], InvalidRequest, "Unheard"),
    ([event(data={"attempt": "many"})], InvalidRequest, "attempt"),
    ([event(at="2026-01-01T00:00:00")], InvalidRequest, "offset"),
    ([event(event_id="x")], InvalidRequest, "Line 1"),
    ([event(), event(version=3)], InvalidRequest, "gaps"),
    ([event(version=2), event()], InvalidRequest, "order"),
    ([event(), event()], InvalidRequest, "twice"),
    ([event(event_id=SAME), event(version=2, event_id=SAME)], InvalidRequest, "twice"),
    ([event(schema_version=99)], ConfigurationError, "upgrade"),
]


async def test_a_file_that_is_no_log_is_refused_as_a_whole(database: Database) -> None:
    for lines, error, says in DAMAGED:
        with pytest.raises(error, match=says):
            await import_lines(database, lines)
        assert await exported(database) == []


async def test_nothing_is_lost_of_an_event_that_has_meta(log: PostgresEventLog, database: Database) -> None:
    from microtome.eventlog.log import Append

    new = fact(slide(), tenant="bob", traceparent="00-1-2-01")
    await log.append(Append("slide-slide-1", 0, (new,)))
    (line,) = [orjson.loads(line) for line in await exported(database)]
    assert (line["meta"], line["tenant"], line["event_id"]) == ({"traceparent": "00-1-2-01"}, "bob", str(new.event_id))
