"""How slots are shared, when seats change hands, what is said of it, and what a snapshot keeps."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from microtome.domain.cluster import Cluster
from microtome.domain.forecast import forecast
from microtome.domain.scheduling import (
    GrantSeat,
    Limits,
    PreemptJob,
    ReleaseSeat,
    StartJob,
    Waiting,
    leaving,
    next_wakeup,
    schedule,
    waiting_in,
)
from microtome.domain.snapshot import FORMAT, dump, load
from microtome.errors import ConfigurationError, InvalidRequest
from tests.unit.domain.histories import History, some_limits
from tests.unit.domain.stories import BEGINNING, World, spec
from tests.unit.domain.test_scheduling_random import some_steps


def wide(world: World, name: str, user: str, tiles: int, count: int = 4) -> None:
    world.submit(name, user, *(spec(f"j{n}", f"b{n}", workflow=name, tiles=tiles) for n in range(count)))


def test_slots_go_to_who_has_the_least_tiles() -> None:
    world = World(Limits(max_workers=5))
    wide(world, "w1", "ada", 100)
    wide(world, "w2", "eve", 10, count=9)
    assert world.tick() == ["w1.j0", "w2.j0", "w2.j1", "w2.j2", "w2.j3"]


def test_finished_tiles_count_until_the_seat_is_given_up() -> None:
    world = World(Limits(max_workers=3))
    wide(world, "w1", "ada", 10, count=9)
    world.tick()
    world.succeed("w1.j0", "w1.j1")
    assert world.cluster.seats["ada"].tiles == 20
    wide(world, "w2", "eve", 4, count=9)
    assert world.tick() == ["w2.j0", "w2.j1"]
    assert world.cluster.seats["eve"].tiles == 20  # Level with Ada, neither ahead nor behind.


def test_the_plan_counts_once_it_is_known() -> None:
    world = World(Limits(max_workers=1))
    world.submit("w", "ada", spec("a", tiles=100))
    world.tick()
    assert world.cluster.running["w.a"].tiles == 100
    world.plan("w.a", 7)
    assert world.cluster.running["w.a"].tiles == 7


def test_who_has_most_gives_the_youngest_up_to_who_has_none() -> None:
    world = World(Limits(max_workers=3))
    wide(world, "w1", "ada", 10)
    assert world.tick() == ["w1.j0", "w1.j1", "w1.j2"]
    world.submit("w2", "eve", spec("job", workflow="w2", tiles=1000))
    assert schedule(world.cluster, world.limits, world.now) == (
        GrantSeat("eve", 1),
        PreemptJob("w1", "w1.j2", 1),
        StartJob("w2", "w2.job", 2),
    )
    assert world.tick() == ["w2.job"]
    assert world.job("w1.j2").preemptions == 1
    assert world.tick() == []


def test_among_those_with_one_each_the_time_slice_decides() -> None:
    world = World(Limits(max_workers=1, slice_seconds=60))
    world.submit("w1", "ada", spec("job", workflow="w1", tiles=1000))
    world.tick()
    world.advance(seconds=59)
    world.submit("w2", "eve", spec("job", workflow="w2", tiles=1))
    assert world.tick() == []
    assert next_wakeup(world.cluster, world.now, world.limits) == BEGINNING + timedelta(seconds=60)
    assert next_wakeup(world.cluster, world.now) is None
    world.advance(seconds=1)
    assert world.tick() == ["w2.job"]
    assert world.tick() == []
    world.succeed("w2.job")
    assert world.tick() == ["w1.job"]
    assert (world.job("w1.job").attempt, world.job("w1.job").ran) == (2, timedelta(seconds=60))


def test_nothing_is_taken_while_more_runs_than_is_allowed() -> None:
    world = World(Limits(max_workers=3))
    wide(world, "w1", "ada", 10)
    world.tick()
    world.submit("w2", "eve")
    world.limits = Limits(max_workers=2)
    assert world.tick() == []
    world.succeed("w1.j0")
    assert world.tick() == ["w2.job"]


def test_each_who_has_none_takes_one_and_no_more() -> None:
    world = World(Limits(max_workers=4))
    wide(world, "w1", "ada", 10)
    world.tick()
    wide(world, "w2", "eve", 1)
    wide(world, "w3", "joe", 1)
    assert world.tick() == ["w2.j0", "w3.j0"]
    assert world.tick() == []


TENURE = Limits(max_workers=2, max_active_users=1, seat_tenure=timedelta(seconds=30))


def test_a_seat_is_given_up_after_its_tenure_when_others_wait() -> None:
    world = World(TENURE)
    world.submit("w1", "ada", *(spec(f"j{n}", workflow="w1") for n in range(3)))
    world.tick()
    world.advance(seconds=31)
    assert leaving(world.cluster, world.limits, world.now) == frozenset()
    world.submit("w2", "eve")
    assert leaving(world.cluster, world.limits, world.now) == {"ada"}
    world.succeed("w1.j0")
    assert schedule(world.cluster, world.limits, world.now) == (
        ReleaseSeat("ada", 0),
        GrantSeat("eve", 0),
        StartJob("w2", "w2.job", 0),
    )
    world.tick()
    assert list(world.cluster.line) == ["ada"]


def test_nothing_new_starts_on_a_seat_whose_tenure_is_over() -> None:
    world = World(TENURE)
    wide(world, "w1", "ada", 1, count=3)
    world.tick()
    world.submit("w2", "eve")
    assert next_wakeup(world.cluster, world.now, world.limits) == BEGINNING + timedelta(seconds=30)
    world.advance(seconds=30)
    world.succeed("w1.j0")
    assert world.tick() == []
    reason = waiting_in(world.cluster, world.cluster.workflows["w1"], world.limits, world.now)["w1.j2"]
    assert (reason.kind, reason.position) == ("seat", None)
    assert "tenure" in reason.detail
    world.succeed("w1.j1")
    assert world.tick() == ["w2.job"]


def test_no_more_users_leave_than_wait() -> None:
    world = World(Limits(max_workers=9, max_active_users=3, seat_tenure=timedelta(seconds=30)))
    for user in ("ada", "eve", "joe"):
        world.submit(f"w{user}", user, spec("a", workflow=f"w{user}"), spec("b", workflow=f"w{user}"))
        world.tick()
        world.advance(seconds=1)
    world.submit("w4", "mia")
    world.advance(seconds=60)
    assert leaving(world.cluster, world.limits, world.now) == {"ada"}


def test_drafts_and_estimates_are_told() -> None:
    world = World(Limits(max_workers=1))
    world.submit("w", "ada", spec("a", draft=True), spec("b", "x", ("a",)), spec("c", "y"), spec("d", "y"))
    world.tick()
    later = BEGINNING + timedelta(hours=1)
    workflow = world.cluster.workflows["w"]
    assert waiting_in(world.cluster, workflow, world.limits, world.now, {"w.d": later}) == {
        "w.a": Waiting(kind="draft", detail="A draft: it waits until you start it."),
        "w.b": Waiting(kind="draft", job_id="w.a", detail="Waits for the draft 'a'; start it to go on."),
        "w.d": Waiting(kind="branch", job_id="w.c", detail="Behind job 'c' in branch 'y'.", estimated_start=later),
    }
    world.succeed("w.c")
    assert waiting_in(Cluster(), world.states["w"], world.limits, world.now).keys() == {"w.a", "w.b", "w.d"}


@pytest.mark.parametrize("seed", range(4))
def test_a_snapshot_says_the_same_in_the_same_bytes(seed: int) -> None:
    world = History(some_limits(seed * 37))
    world.live_through(some_steps(seed))
    data = dump(world.cluster)
    again = load(data)
    assert again == world.cluster
    assert dump(again) == data
    assert [list(each) for each in (again.line, again.live, again.workflows)] == [
        list(each) for each in (world.cluster.line, world.cluster.live, world.cluster.workflows)
    ]
    assert schedule(again, world.limits, world.now) == schedule(world.cluster, world.limits, world.now)
    rates = world.cluster.rates
    assert forecast(again, world.limits, world.now, rates) == forecast(world.cluster, world.limits, world.now, rates)


def test_what_is_no_snapshot_of_this_format_is_refused() -> None:
    other = json.dumps({**json.loads(dump(Cluster())), "format": FORMAT + 1}).encode()
    broken = json.dumps({"format": FORMAT, "workflows": [[]]}).encode()
    for data in (b"", b"\xff", b"[]", b"{}", other, broken):
        with pytest.raises(InvalidRequest):
            load(data)


@pytest.mark.parametrize(
    "values", [{"seat_tenure": timedelta(0)}, {"slice_seconds": 0}, {"slice_seconds": float("nan")}]
)
def test_limits_under_which_nobody_gets_anywhere_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError):
        Limits(**values)  # type: ignore[arg-type]
