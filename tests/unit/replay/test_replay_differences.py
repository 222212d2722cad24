"""What changed between two moments, whichever way round they are given."""

from __future__ import annotations

import typing

from microtome.contracts.messages import Event
from microtome.domain.commands import DeleteArtifacts
from microtome.domain.limits import Limits
from microtome.eventlog.log import Cursor
from microtome.replay import differences, differences_view
from microtome.replay.bars import bar, lane
from microtome.replay.describe import Names, sentence, span
from microtome.replay.differences import Differences
from microtome.replay.moment import Moment
from tests.unit.replay.recorder import Recorder, spec

LIMITS = Limits(max_workers=1, max_active_users=1)


def told() -> tuple[Recorder, Cursor]:
    """Before the mark: ada's workflow is done. After it: bob's comes, fails, is retried and runs; cy waits."""
    story = Recorder(LIMITS)
    story.submit("a", "ada")
    story.tick()
    story.at(10)
    story.succeed("a.job")
    story.tick()
    mark = story.last
    story.at(20)
    story.submit("b", "bob", spec("b", "one"), spec("b", "two"))
    story.tick()
    story.submit("c", "cy")
    story.tick()
    story.at(25)
    story.fail("b.one")
    story.retry("b.one")
    story.tick()
    return story, mark


async def changed(story: Recorder, one: Moment, other: Moment) -> Differences:
    return await differences.between(story.history, one, other, LIMITS)


async def test_a_job_is_listed_by_its_two_ends() -> None:
    story, mark = told()
    found = await changed(story, Moment(cursor=mark), Moment())
    document = differences_view.document(found)
    by_name = {workflow["workflow_id"]: workflow for workflow in document["workflows"]}
    assert set(by_name) == {"b", "c"}
    assert [(job["key"], job["before"], job["after"], job["attempt_after"]) for job in by_name["b"]["jobs"]] == [
        ("one", None, "RUNNING", 2),
        ("two", None, "PENDING", 0),
    ]
    assert document["events"]["JobFailed"] == 1
    assert document["before"]["seats"] == {}
    assert document["seconds"] == 15


async def test_moments_come_in_any_order_and_a_step_is_one_event() -> None:
    story, _ = told()
    cursors = [Cursor(), *(event.cursor for event in story.log)]
    for number in range(1, len(cursors)):
        one, other = Moment(cursor=cursors[number - 1]), Moment(cursor=cursors[number])
        forth, back = await changed(story, one, other), await changed(story, other, one)
        assert differences_view.document(forth) == differences_view.document(back)
        assert dict(forth.events) == {type(story.log[number - 1].message).__name__: 1}
        assert (forth.before.cursor, forth.after.cursor) == (cursors[number - 1], cursors[number])


async def test_nothing_lies_between_a_moment_and_itself() -> None:
    story, mark = told()
    found = await changed(story, Moment(cursor=mark), Moment(position=mark.position))
    assert (found.events, found.workflows, found.seconds) == ({}, {}, 0)


async def test_what_succeeded_long_ago_is_known_when_it_changes_again() -> None:
    story, mark = told()
    story.tell("a", DeleteArtifacts("a.job"))
    found = await changed(story, Moment(cursor=mark), Moment())
    before = found.workflows["a"].before
    assert before is not None
    assert before.jobs["a.job"].status == "SUCCEEDED"
    assert list(found.workflows["a"].jobs()) == []


def test_every_event_of_the_contract_has_a_sentence() -> None:
    for kind in typing.get_args(Event):
        words = sentence(kind(), Names())
        assert "\n" not in words
        assert not words.startswith("{"), f"{kind.__name__} is printed raw"


def test_durations_read_like_durations() -> None:
    spans = {0.0: "0.00 s", 0.351: "0.35 s", 12.34: "12.3 s", 59.97: "1 min 00 s", 245: "4 min 05 s"}
    spans |= {7620: "2 h 07 min", 273_600: "3 d 04 h", -2: "-2.0 s"}
    assert {seconds: span(seconds) for seconds in spans} == spans


def test_bars_show_whatever_there_is() -> None:
    assert bar(1, 10) == "█" * 10
    assert bar(0, 10) == ""
    assert bar(1e-9, 10) == "▏"
    assert lane(0, 1, 5) == "█████"
    assert lane(1, 1, 5) == "····█"
    assert all(len(lane(n / 97, m / 97, 20)) == 20 for n in range(98) for m in range(n, 98))
