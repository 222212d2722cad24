"""Moments: how they are written, and what had happened by them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from microtome.errors import InvalidRequest
from microtome.eventlog.log import Cursor
from microtome.replay.fold import until
from microtome.replay.moment import NOW, Moment, Window
from tests.unit.replay.recorder import BEGINNING, ListHistory, Recorder, spec

AT = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("812:4711", Moment(cursor=Cursor(812, 4711))),
        ("4711", Moment(position=4711)),
        ("start", Moment(cursor=Cursor())),
        ("now", NOW),
        ("2026-11-22T10:15", Moment(time=AT)),
        ("2026-11-22 11:15+01:00", Moment(time=AT)),
        ("2026-11-22T10:15:00Z", Moment(time=AT)),
        ("90s", Moment(time=AT - timedelta(seconds=90))),
        ("1.5 h", Moment(time=AT - timedelta(minutes=90))),
        ("3d", Moment(time=AT - timedelta(days=3))),
    ],
)
def test_a_moment_is_written_in_many_ways(text: str, moment: Moment) -> None:
    assert Moment.parse(text, now=AT) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "10:15:00", "-5", "1:", "9" * 40, "99999999999999d", "1e9s", "٣"])
def test_what_names_no_moment_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Moment.parse(text, now=AT)


def story() -> Recorder:
    told = Recorder()
    for second, name in enumerate("abc"):
        told.at(second * 1000)
        told.submit(name, "ada", spec(name, "job"))
        told.tick()
    return told


async def seen(history: ListHistory, moment: Moment) -> list[Cursor]:
    return [event.cursor async for event in until(history, moment)]


async def test_every_cursor_and_position_cuts_where_it_says() -> None:
    told = story()
    cursors = [event.cursor for event in told.log]
    for number, cursor in enumerate(cursors, start=1):
        assert await seen(told.history, Moment(cursor=cursor)) == cursors[:number]
        assert await seen(told.history, Moment(position=cursor.position)) == cursors[:number]
    assert await seen(told.history, NOW) == cursors
    assert await seen(told.history, Moment.parse("start")) == []


async def test_a_time_takes_what_was_written_by_then_and_stops_soon_after() -> None:
    told = story()
    early = [event.cursor for event in told.log if event.at <= BEGINNING + timedelta(seconds=1000)]
    assert 0 < len(early) < len(told.log)
    moment = Moment(time=BEGINNING + timedelta(seconds=1000))
    assert await seen(told.history, moment) == early
    assert moment.over(told.log[-1])
    assert not moment.over(told.log[len(early) - 1])


def test_events_out_of_the_order_of_time_leave_whole_beginnings_of_streams() -> None:
    """The clock goes back between two events of a stream; a transaction that began early writes late."""
    told = story()
    stream = [event for event in told.log if event.stream == "workflow-a"]
    other = [event for event in told.log if event.stream == "workflow-b"]
    late = replace(stream[0], at=BEGINNING + timedelta(seconds=30))
    back = replace(stream[1], at=BEGINNING + timedelta(seconds=10))
    window = Window(Moment(time=BEGINNING + timedelta(seconds=20)))
    assert [window.admits(event) for event in (late, back)] == [False, False]
    assert window.admits(replace(other[0], at=BEGINNING + timedelta(seconds=20)))
