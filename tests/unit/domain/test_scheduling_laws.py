"""The scheduling law, one example per sentence."""

from __future__ import annotations

from datetime import timedelta

import pytest

from microtome.contracts.messages import JobRetried, SeatReleased, SlideRegistered
from microtome.domain.cluster import Cluster, Seat, evolve
from microtome.domain.scheduling import (
    GrantSeat,
    Limits,
    ReleaseSeat,
    Waiting,
    next_wakeup,
    schedule,
    seat_line,
    waiting_in,
)
from microtome.domain.workflow import Retry, decide
from microtome.errors import NotFound
from tests.unit.domain.stories import BEGINNING, World, spec


def test_a_job_starts_with_a_seat_and_a_slot() -> None:
    world = World()
    world.submit("w", "ada")
    assert world.tick() == ["w.job"]
    assert world.cluster.seats == {"ada": Seat(0, BEGINNING)}
    assert world.job("w.job").slot == 0
    assert world.tick() == []


def test_no_more_users_than_seats_are_active_first_come_first_served() -> None:
    world = World(Limits(max_workers=10, max_active_users=3))
    for user in "edcba":
        world.submit(f"w{user}", user)
    assert world.tick() == ["we.job", "wd.job", "wc.job"]
    assert seat_line(world.cluster) == ("b", "a")
    assert world.waiting()["wa.job"] == Waiting(
        kind="seat", position=2, detail="2nd in line for one of 3 seats for active users."
    )
    world.succeed("wd.job")
    assert schedule(world.cluster, world.limits, world.now)[:2] == (ReleaseSeat("d", 1), GrantSeat("b", 1))
    assert world.tick() == ["wb.job"]
    assert world.waiting()["wa.job"].position == 1


def test_a_user_keeps_the_seat_until_all_their_runnable_work_is_finished() -> None:
    world = World(Limits(max_active_users=1))
    world.submit("w1", "ada", spec("a", workflow="w1"), spec("b", workflow="w1"))
    world.submit("w2", "eve")
    world.submit("w3", "ada")
    started = world.tick()
    for expected in (["w1.a", "w3.job"], ["w1.b"], ["w2.job"]):
        assert started == expected
        world.succeed(*started)
        started = world.tick()
    assert world.cluster.seats == {}
    assert list(world.cluster.workflows) == []


def test_a_pending_retry_keeps_the_seat_and_a_halted_job_does_not() -> None:
    world = World(Limits(max_active_users=1))
    world.submit("w1", "ada")
    world.submit("w2", "eve")
    world.tick()
    world.fail("w1.job", transient=True)
    assert world.tick() == []
    world.advance(seconds=2)
    assert world.tick() == ["w1.job"]
    world.fail("w1.job")
    assert world.tick() == ["w2.job"]


def test_a_retry_by_the_user_joins_the_end_of_the_line() -> None:
    world = World(Limits(max_active_users=1))
    for name, user in (("w1", "ada"), ("w2", "eve"), ("w3", "joe")):
        world.submit(name, user)
    world.tick()
    world.fail("w1.job")
    world.tick()
    world.retry("w1.job")
    assert seat_line(world.cluster) == ("joe", "ada")


def test_who_cancels_everything_leaves_the_line() -> None:
    world = World(Limits(max_active_users=1))
    for name, user in (("w1", "ada"), ("w2", "eve"), ("w3", "joe")):
        world.submit(name, user)
    world.tick()
    world.cancel("w2.job")
    assert seat_line(world.cluster) == ("joe",)


def test_work_that_arrives_while_a_seat_is_given_up_waits_in_line() -> None:
    world = World(Limits(max_active_users=1))
    world.submit("w1", "ada")
    world.tick()
    world.succeed("w1.job")
    world.submit("w2", "eve")
    world.submit("w3", "ada")  # After the scheduler decided, before it appended.
    world.append(SeatReleased(user_id="ada", seat=0), "seats")
    assert seat_line(world.cluster) == ("eve", "ada")


def test_no_more_jobs_than_slots_run_and_slots_are_the_lowest_free() -> None:
    world = World(Limits(max_workers=3))
    world.submit("w", "ada", *(spec(f"j{n}", f"b{n}") for n in range(5)))
    assert world.tick() == ["w.j0", "w.j1", "w.j2"]
    assert world.waiting()["w.j3"] == Waiting(kind="worker", detail="All 3 workers are busy.")
    world.succeed("w.j1")
    assert "in a moment" in world.waiting()["w.j3"].detail
    assert world.tick() == ["w.j3"]
    assert world.job("w.j3").slot == 1


def test_fewer_slots_than_run_already_start_nothing() -> None:
    world = World(Limits(max_workers=3))
    world.submit("w", "ada", *(spec(f"j{n}", f"b{n}") for n in range(5)))
    world.tick()
    world.limits = Limits(max_workers=2)
    world.succeed("w.j0")
    assert world.tick() == []
    world.succeed("w.j1")
    assert world.tick() == ["w.j3"]
    assert world.job("w.j3").slot == 0


def test_slots_are_shared_by_users_not_by_jobs() -> None:
    world = World(Limits(max_workers=4))
    world.submit("w1", "ada", *(spec(f"j{n}", f"b{n}", workflow="w1") for n in range(9)))
    world.submit("w2", "eve", *(spec(f"j{n}", f"b{n}", workflow="w2") for n in range(2)))
    assert world.tick() == ["w1.j0", "w2.j0", "w1.j1", "w2.j1"]


def test_who_runs_less_catches_up_first() -> None:
    world = World(Limits(max_workers=4))
    world.submit("w1", "ada", spec("j0", workflow="w1"), *(spec(f"j{n}", f"b{n}", workflow="w1") for n in range(1, 9)))
    world.limits = Limits(max_workers=1)
    world.tick()
    world.limits = Limits(max_workers=4)
    world.submit("w2", "eve", *(spec(f"j{n}", f"b{n}", workflow="w2") for n in range(9)))
    assert world.tick() == ["w2.j0", "w1.j1", "w2.j1"]


def test_among_equals_the_turn_goes_to_whose_last_start_is_longest_ago() -> None:
    world = World(Limits(max_workers=2))
    for name, user in (("w1", "ada"), ("w2", "eve")):
        world.submit(name, user, *(spec(f"j{n}", f"b{n}", workflow=name) for n in range(3)))
    assert world.tick() == ["w1.j0", "w2.j0"]
    world.limits = Limits(max_workers=3)
    world.succeed("w1.j0")
    assert world.tick() == ["w1.j1", "w2.j1"]


def test_with_one_slot_users_take_turns() -> None:
    world = World(Limits(max_workers=1))
    for name, user in (("w1", "ada"), ("w2", "eve")):
        world.submit(name, user, *(spec(f"j{n}", workflow=name) for n in range(3)))
    order = []
    while started := world.tick():
        order += started
        world.succeed(*started)
    assert order == ["w1.j0", "w2.j0", "w1.j1", "w2.j1", "w1.j2", "w2.j2"]


def test_a_users_older_workflow_goes_first() -> None:
    world = World(Limits(max_workers=1))
    world.submit("z", "ada")
    world.submit("a", "ada")
    assert world.tick() == ["z.job"]


def test_every_waiting_job_says_why() -> None:
    world = World(Limits(max_workers=9))
    world.submit(
        "w",
        "ada",
        spec("a", "x"),
        spec("b", "x"),
        spec("c", "y", ("b",)),
        spec("d", "z"),
        spec("e", "z"),
        spec("f", "u"),
        spec("g", "v"),
        spec("h", "v", ("g",)),
    )
    world.tick()
    world.fail("w.d")
    world.fail("w.f", transient=True)
    world.cancel("w.g")
    reasons = world.waiting()
    assert reasons == {
        "w.b": Waiting(kind="branch", job_id="w.a", detail="Behind job 'a' in branch 'x'."),
        "w.c": Waiting(kind="dependency", job_id="w.b", detail="Waits for job 'b', which it depends on."),
        "w.e": Waiting(kind="halted", job_id="w.d", detail="Halted: job 'd' failed; retry or cancel it to go on."),
        "w.f": Waiting(
            kind="retry",
            until=BEGINNING + timedelta(seconds=2),
            detail="Attempt 2 starts at 00:00:02 UTC after: it broke",
        ),
        "w.h": Waiting(kind="halted", job_id="w.g", detail="Halted: job 'g' was cancelled; retry it to go on."),
    }
    assert waiting_in(world.cluster, world.cluster.workflows["w"], world.limits, world.now) == reasons


@pytest.mark.parametrize(
    ("place", "words"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st")]
)
def test_places_in_line_read_well(place: int, words: str) -> None:
    world = World(Limits(max_active_users=1))
    world.submit("first", "first")
    world.tick()
    for n in range(1, place + 1):
        world.submit(f"w{n}", f"u{n}")
    assert world.waiting()[f"w{place}.job"].detail.startswith(f"{words} in line")


def test_the_next_wakeup_is_the_earliest_retry_to_come() -> None:
    world = World()
    world.submit("w", "ada", spec("a", "x"), spec("b", "y"))
    world.tick()
    world.fail("w.a", transient=True)
    world.advance(seconds=1)
    world.fail("w.b", transient=True)
    assert next_wakeup(world.cluster, world.now) == BEGINNING + timedelta(seconds=2)
    world.advance(seconds=1)
    assert next_wakeup(world.cluster, world.now) == BEGINNING + timedelta(seconds=3)
    assert world.tick() == ["w.a"]
    world.cancel("w.b")
    assert next_wakeup(world.cluster, world.now) is None


def test_succeeded_workflows_leave_memory_and_failed_ones_can_come_back() -> None:
    world = World()
    world.submit("w1", "ada")
    world.submit("w2", "ada")
    world.tick()
    world.succeed("w1.job")
    world.fail("w2.job")
    assert list(world.cluster.workflows) == ["w2"]
    assert world.cluster.live == {}
    world.tick()
    assert world.cluster.seats == {}
    assert decide(world.cluster.workflows["w2"], Retry("w2.job")) == (JobRetried(job_id="w2.job"),)
    world.retry("w2.job")
    assert world.tick() == ["w2.job"]


def test_events_about_unknown_workflows_are_refused_and_others_ignored() -> None:
    with pytest.raises(NotFound):
        evolve(Cluster(), JobRetried(job_id="x"), BEGINNING, "workflow-x")
    assert evolve(Cluster(), SlideRegistered(slide_id="s"), BEGINNING, "slide-s") == Cluster(moment=1)
