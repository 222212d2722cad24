"""Each sub-command as a person runs it, against a real database."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from uuid import uuid4
from xml.etree import ElementTree

import asyncpg
import pytest
from PIL import Image

from microtome.contracts.messages import JobPlanned, Message, SlideDeleted
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append, NewEvent
from microtome.eventlog.postgres import PostgresEventLog
from microtome.replay.arguments import PROGRAM, parser
from microtome.replay.commands import COMMANDS
from tests.integration.replay.conftest import ROOT, Ran, Replay, environment, lines, told

STORY = told().log


def help_of(command: str) -> str:
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as shown:
        parser().parse_args([command, "--help"])
    return shown.getvalue()


def test_every_example_of_the_help_is_a_command_line_that_it_takes(replay: Replay) -> None:
    shown = replay("--help")
    for name in COMMANDS:
        assert f"    {name} " in shown.stdout
    examples = [
        line.partition(f"{PROGRAM} ")[2].partition(" | ")[0].partition(" < ")[0]
        for command in COMMANDS
        for line in help_of(command).splitlines()
        if line.startswith(f"  {PROGRAM} ")
    ]
    assert len(examples) >= 2 * len(COMMANDS)
    for example in examples:
        parser().parse_args(shlex.split(example))


def test_tail_prints_every_event_in_order(replay: Replay) -> None:
    shown = replay("tail", "--from", "start", "--json")
    events = [json.loads(line) for line in shown.stdout.splitlines()]
    assert [event["event_id"] for event in events] == [str(event.event_id) for event in STORY]
    assert [event["type"] for event in replay_lines(replay("tail", "-n", "3", "--json"))] == [
        type(event.message).__name__ for event in STORY[-3:]
    ]
    from_the_fifth = replay_lines(replay("tail", "--from", events[4]["cursor"], "--json"))
    assert from_the_fifth == events[5:]
    up_to_the_fifth = replay_lines(replay("tail", "-n", "2", "--to", events[4]["cursor"], "--json"))
    assert up_to_the_fifth == events[3:5]


def replay_lines(shown: Ran) -> list[dict[str, object]]:
    assert shown.returncode == 0, shown.stderr
    return [json.loads(line) for line in shown.stdout.splitlines()]


def test_tail_filters_by_workflow_user_type_and_job(replay: Replay) -> None:
    of_bob = replay_lines(replay("tail", "--user", "bob", "--from", "start", "--json"))
    assert {event["tenant"] for event in of_bob} == {"bob"}
    assert len(of_bob) == sum(event.tenant == "bob" for event in STORY)
    of_cohort = replay_lines(replay("tail", "--workflow", "Monday cohort", "--type", "jobstarted", "--json"))
    assert [event["data"]["jobId"] for event in of_cohort] == ["cohort.first"]  # type: ignore[index]
    text = replay("tail", "--job", "cohort/first", "--from", "start").stdout
    assert "first (cohort.first): 12 tiles" in text
    assert "[tiler-77]" in text
    assert "rush" not in text


def test_show_tells_the_state_of_each_moment(replay: Replay) -> None:
    now = json.loads(replay("show", "cohort", "--json").stdout)
    assert [job["status"] for job in now["jobs"]] == ["SUCCEEDED", "PENDING"]
    events = replay_lines(replay("tail", "--from", "start", "--json"))
    started = next(event for event in events if event["type"] == "JobStarted")
    then = json.loads(replay("show", "cohort", "--at", str(started["cursor"]), "--json").stdout)
    assert [job["status"] for job in then["jobs"]] == ["RUNNING", "PENDING"]
    assert then["jobs"][1]["waiting_for"]["kind"] == "worker"
    assert then["position"] == started["cursor"]
    assert then["seats"] == [{"seat": 0, "user_id": "ada"}]
    before = replay("show", "late", "--at", str(events[0]["cursor"]))
    assert (before.returncode, before.stdout) == (2, "")
    assert "not there yet" in before.stderr
    text = replay("show", "late").stdout
    assert "RUNNING" in text
    assert "seats       0: ada, 1: cy" in text


def test_timeline_tells_waits_and_workers(replay: Replay) -> None:
    first = json.loads(replay("timeline", "cohort/first", "--json").stdout)
    assert first["attempts"][0]["workers"] == ["tiler-77", "merger-78"]
    assert first["stage_seconds"] == {"plan": 0.5, "infer": 3.0, "merge": 0.25}
    second = json.loads(replay("timeline", "cohort.second", "--json").stdout)
    assert (second["phases"][-1]["kind"], second["phases"][-1]["until"]) == ("worker", None)
    assert second["waited_seconds"]["worker"] > 0
    text = replay("timeline", "cohort.first").stdout
    for words in ("SUCCEEDED", "attempt 1", "tiler-77, merger-78", "infer", "3.0 s"):
        assert words in text, text


def test_diff_tells_what_changed(replay: Replay) -> None:
    found = json.loads(replay("diff", "start", "now", "--json").stdout)
    assert sum(found["events"].values()) == len(STORY)
    assert {workflow["before"] for workflow in found["workflows"]} == {None}
    events = replay_lines(replay("tail", "--from", "start", "--json"))
    done = next(n for n, event in enumerate(events) if event["type"] == "JobSucceeded")
    step = json.loads(replay("diff", str(events[done]["cursor"]), str(events[done - 1]["cursor"]), "--json").stdout)
    assert step["events"] == {"JobSucceeded": 1}
    (changed,) = step["workflows"]
    assert [(job["key"], job["before"], job["after"]) for job in changed["jobs"]] == [("first", "RUNNING", "SUCCEEDED")]
    text = replay("diff", "start", "now").stdout
    assert "nobody  →" in text
    assert "FAILED" in text


def test_verify_finds_a_row_that_the_log_does_not_know(replay: Replay, recorded_url: str) -> None:
    good = replay("verify")
    assert (good.returncode, good.stderr) == (0, ""), good.stdout

    async def spoil(statement: str) -> None:
        connection = await asyncpg.connect(recorded_url)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(spoil("update jobs set failures = 7 where job_id = 'cohort.first'"))
    bad = replay("verify", "--json")
    assert bad.returncode == 1
    found = json.loads(bad.stdout)["differences"]
    assert {(each["table"], each["side"], each["row"]["failures"]) for each in found} == {
        ("jobs", "table", 7),
        ("jobs", "log", 0),
    }
    assert "cohort.first" in replay("verify").stdout
    refused = replay("rebuild")
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    rebuilt = replay("rebuild", "--yes", "--json")
    assert json.loads(rebuilt.stdout)["events"] == len(STORY)
    assert replay("verify").returncode == 0


def test_a_reader_that_leaves_early_ends_it_quietly(recorded_url: str) -> None:
    command = f"{sys.executable} -m microtome.replay tail --from start --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    shown = subprocess.run(
        ["bash", "-c", command],
        env=environment(MICROTOME_DATABASE_URL=recorded_url),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert shown.stderr == ""
    assert json.loads(shown.stdout.splitlines()[0])["type"] == "WorkflowSubmitted"
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run(
        [sys.executable, "-m", "microtome.replay", "show", "cohort"],
        env=environment(MICROTOME_DATABASE_URL=recorded_url),
        cwd=ROOT,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(write)
    assert (closed.returncode, closed.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "nothing"], "knows no workflow"),
        (["tail", "--database", "postgresql://nobody@127.0.0.1:1/x"], "does not answer"),
        (["tail", "--type", "JobExploded"], "no event type"),
        (["diff", "yesterday", "now"], "no moment"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(replay: Replay, arguments: list[str], words: str) -> None:
    shown = replay(*arguments)
    assert (shown.returncode, shown.stdout) == (2, "")
    assert words in shown.stderr
    assert "Traceback" not in shown.stderr


def test_without_a_database_it_says_how_to_give_one(replay: Replay, tmp_path: Path) -> None:
    shown = replay("tail", MICROTOME_DATABASE_URL="", MICROTOME_HOME=str(tmp_path))
    assert shown.returncode == 2
    for way in ("--database", "MICROTOME_DATABASE_URL", "make up"):
        assert way in shown.stderr


def test_an_exported_log_is_read_as_the_database_is(replay: Replay, tmp_path: Path) -> None:
    file = tmp_path / "story.jsonl"
    assert replay("export", str(file)).returncode == 0
    assert list(tmp_path.iterdir()) == [file]
    log = ("--log", str(file))
    for command in (
        ["tail", "--from", "start", "--json"],
        ["tail", "--user", "bob", "-n", "2", "--json"],
        ["diff", "start", "now", "--json"],
        ["simulate", "--json"],
    ):
        assert replay(*command, *log).stdout == replay(*command).stdout != ""
    live, past = (json.loads(replay("timeline", "cohort/first", "--json", *more).stdout) for more in ((), log))
    assert {**live, "as_of": None} == {**past, "as_of": None}
    shown = json.loads(replay("show", "cohort", "--json", *log).stdout)
    assert [job["status"] for job in shown["jobs"]] == ["SUCCEEDED", "PENDING"]
    assert "first (cohort.first): 12 tiles" in replay("tail", "--type", "JobPlanned", *log).stdout
    assert "does not grow" in replay("tail", "--follow", *log).stderr
    file.write_text(file.read_text() + "{}\n")
    damaged = replay("show", "cohort", *log)
    assert damaged.returncode == 2
    assert "Line 14 " in damaged.stderr
    assert "cannot be read" in replay("show", "cohort", "--log", str(tmp_path / "nowhere")).stderr


def slow_down(file: Path) -> None:
    """Let each transaction of an exported log happen a second after the one before."""
    events = [json.loads(line) for line in file.read_text().splitlines()]
    xids = sorted({event["cursor"].split(":")[0] for event in events}, key=int)
    for event in events:
        event["at"] = f"2026-01-05T09:00:{xids.index(event['cursor'].split(':')[0]):02d}+00:00"
    file.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_an_import_brings_the_log_and_its_tables_into_another_database(
    replay: Replay, blank_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "story.jsonl"
    replay("export", str(file))
    slow_down(file)
    assert "--yes" in replay("import", str(file), "--database", blank_url).stderr
    done = replay("import", str(file), "--database", blank_url, "--yes", "--json")
    assert json.loads(done.stdout) == {"events": len(STORY), "streams": 4}
    assert replay("verify", "--database", blank_url).returncode == 0
    ids = [
        [event["event_id"] for event in replay_lines(replay("tail", "--from", "start", "--json", *where))]
        for where in ((), ("--database", blank_url))
    ]
    assert ids[0] == ids[1]
    # All events of an import share a transaction; what happened together is told by their times.
    one, other = (
        json.loads(replay("timeline", "cohort/second", "--json", "--at", "2030-01-01", *where).stdout)["phases"]
        for where in (("--log", str(file)), ("--database", blank_url))
    )
    assert [(phase["kind"], phase["seconds"]) for phase in one] == [
        (phase["kind"], phase["seconds"]) for phase in other
    ]
    assert len(one) > 1
    again = replay("import", str(file), "--database", blank_url, "--yes")
    assert again.returncode == 2
    assert "holds events already" in again.stderr


def test_a_log_of_another_cluster_is_blind_until_it_is_rebased(replay: Replay, blank_url: str, tmp_path: Path) -> None:
    file = tmp_path / "story.jsonl"
    replay("export", str(file))
    where = ("--database", blank_url)
    replay("import", str(file), *where, "--yes")

    async def as_if_restored() -> None:
        connection = await asyncpg.connect(blank_url)
        await connection.execute("alter table events disable trigger events_append_only")
        await connection.execute("update events set xid = (xid::text::bigint + 1000000)::text::xid8")
        await connection.execute("alter table events enable always trigger events_append_only")
        await connection.close()

    asyncio.run(as_if_restored())
    assert replay("tail", *where).stdout == ""
    asked = replay("rebase", *where)
    assert asked.returncode == 2
    assert f"{len(STORY)} of its events are of another cluster" in asked.stderr
    done = json.loads(replay("rebase", *where, "--yes", "--json").stdout)
    assert (done["rebased"], done["events"]) == (True, len(STORY))
    assert done["became"] < done["greatest_xid"]
    assert len(replay_lines(replay("tail", *where, "--json"))) == len(STORY)
    assert "nothing to do" in replay("rebase", *where).stdout
    assert replay("verify", *where).returncode == 0


def test_simulate_shows_both_sides_and_writes_pictures(replay: Replay, tmp_path: Path) -> None:
    found = json.loads(replay("simulate", "--max-workers", "3", "--policy", "all=skip", "--json").stdout)
    assert (found["recorded"]["max_workers"], found["simulated"]["max_workers"]) == (1, 3)
    assert found["recorded"]["jobs"] == 4
    assert found["simulated"]["waited_seconds"]["max"] < found["recorded"]["waited_seconds"]["max"]
    svg, png = tmp_path / "chart.svg", tmp_path / "chart.png"
    text = replay("simulate", "--max-workers", "3", "--svg", str(svg), "--png", str(png)).stdout
    for words in ("MAX_WORKERS       1 → 3", "waited for seat and slot, p90", "How many jobs waited how long", "ada"):
        assert words in text, text
    drawn = ElementTree.parse(svg).getroot()
    assert len(drawn.findall(".//{http://www.w3.org/2000/svg}polyline")) == 2
    with Image.open(png) as picture:
        colours = {colour for _, colour in picture.convert("RGB").getcolors(100_000) or ()}
    assert {(0x09, 0x69, 0xDA), (0xBF, 0x87, 0x00)} <= colours


def test_each_command_runs_in_a_process_of_its_own(spawn: Replay, blank_url: str) -> None:
    exported = spawn("export", "-")
    log = exported.stdout.encode()
    assert (exported.returncode, log.count(b"\n"), exported.stderr) == (0, len(STORY), "13 events exported.\n")
    for command, words in {
        "tail --log -": "SeatGranted",
        "show cohort --log -": "Monday cohort",
        "timeline cohort.first": "merger-78",
        "diff start now": "13 events",
        "simulate --log -": "recorded",
        f"import - --yes --database {blank_url}": "13 events of 4 streams",
        f"verify --database {blank_url}": "Every row of every table",
        f"rebuild --yes --database {blank_url}": "13 events",
        f"rebase --yes --database {blank_url}": "nothing to do",
    }.items():
        ran = spawn(*command.split(), stdin=log)
        assert (ran.returncode, ran.stderr) == (0, ""), ran
        assert words in ran.stdout


@pytest.mark.parametrize("arguments", [["-n", "1"], ["--from", "now"], ["--from", "2001-01-01", "--job", "rush/only"]])
async def test_following_prints_what_is_appended_and_ends_quietly(recorded_url: str, arguments: list[str]) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "microtome.replay", "tail", "--follow", "--json", *arguments,
        env=environment(MICROTOME_DATABASE_URL=recorded_url), cwd=ROOT,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        # A shell that starts the tests in the background has told its children to ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            printed = lines(process)
            if "-n" in arguments:
                json.loads(await anext(printed))
            elif "--job" in arguments:
                seen = [json.loads(await anext(printed))["type"] for _ in range(3)]
                assert seen == ["WorkflowSubmitted", "JobStarted", "JobFailed"]
            async with await Database.connect(recorded_url) as database:
                log = PostgresEventLog(database)
                stream = "workflow-rush" if "--job" in arguments else f"slide-{uuid4()}"
                message: Message = SlideDeleted(slide_id="gone")
                if "--job" in arguments:
                    message = JobPlanned(job_id="rush.only", attempt=1)
                event = NewEvent(event_id=uuid4(), message=message, tenant="ada")
                await listening(database)
                await log.append(Append(stream, len(await log.read_stream(stream)), (event,)))
            assert json.loads(await anext(printed))["event_id"] == str(event.event_id)
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert process.stderr is not None
            assert await process.stderr.read() == b""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def listening(database: Database) -> None:
    """Wait until the command listens; from then on it has looked."""
    while True:
        async with database.connection() as connection:
            if await connection.fetchval(
                "select exists (select from pg_stat_activity where application_name = 'microtome-listener' "
                "and datname = current_database())"
            ):
                return
        await asyncio.sleep(0.05)
