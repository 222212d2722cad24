"""Whatever users, workers and crashes do, the laws hold: random histories, checked at every position."""

from __future__ import annotations

import random
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.contracts.messages import JobSkipped, JobStarted, Message, SeatGranted
from microtome.domain.cluster import Cluster
from microtome.domain.limits import Limits
from microtome.domain.persistent import PersistentMap, Table
from microtome.domain.scheduling import Decision, GrantSeat, PreemptJob, schedule
from microtome.domain.standing import PENDING, SUCCEEDED
from tests.unit.domain.histories import ACTIONS, History, Meddle, Steps, some_limits
from tests.unit.domain.laws import Violation
from tests.unit.domain.rows import check_rows
from tests.unit.domain.stories import Schedule, World

NUMBERS = st.integers(0, 2**32)


def some_steps(seed: int, length: int = 60) -> list[tuple[str, int]]:
    rng = random.Random(seed)
    return [(rng.choice(ACTIONS), rng.getrandbits(32)) for _ in range(length)]


# Lists shrink well but stay small and alike; long and mixed histories come from seeds.
STEPS = st.one_of(
    st.lists(st.tuples(st.sampled_from(ACTIONS), NUMBERS), min_size=5, max_size=40),
    *[st.builds(some_steps, NUMBERS, st.integers(10, 80))] * 3,
)


def prove(limits: Limits, steps: Steps, cut: int) -> History:
    world = History(limits)
    world.live_through(steps)
    world.check_replay(cut)
    check_rows(world, cut)
    world.finish()
    check_rows(world, cut)
    return world


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.builds(some_limits, NUMBERS), STEPS, NUMBERS)
def test_random_histories_keep_the_laws(limits: Limits, steps: list[tuple[str, int]], cut: int) -> None:
    prove(limits, steps, cut)


# A checker that finds nothing proves nothing: each of these schedulers is broken in one way, and must be caught.


def one_seat_too_many(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    more = Limits(max_workers=limits.max_workers, max_active_users=limits.max_active_users + 1)
    return schedule(cluster, more, now)


def one_slot_too_many(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    return schedule(cluster, Limits(max_workers=limits.max_workers + 1, max_active_users=limits.max_active_users), now)


def nobody_gives_up_a_slot(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    decisions = schedule(cluster, limits, now)
    first = next((n for n, decision in enumerate(decisions) if isinstance(decision, PreemptJob)), len(decisions))
    return decisions[:first]


def no_tenure_ends(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    endless = Limits(
        max_workers=limits.max_workers, max_active_users=limits.max_active_users, slice_seconds=limits.slice_seconds
    )
    return schedule(cluster, endless, now)


def seats_without_a_line(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    decisions = schedule(cluster, limits, now)
    last = list(cluster.line)[-1:]
    return tuple(
        GrantSeat(last[0], decision.seat) if isinstance(decision, GrantSeat) else decision for decision in decisions
    )


def retries_at_once(cluster: Cluster, limits: Limits, now: datetime) -> tuple[Decision, ...]:
    return schedule(cluster, limits, max([now, *cluster.retries.values()]))


def the_last_of_a_branch_first(world: World, event: Message, stream: str) -> Message | None:
    if isinstance(event, JobStarted):
        jobs = world.states[stream.removeprefix("workflow-")].jobs
        branch = jobs[event.job_id].spec.branch
        last = [job for job in jobs.values() if job.spec.branch == branch and job.status is PENDING][-1]
        return JobStarted(job_id=last.job_id, attempt=last.attempt + 1, slot=event.slot)
    return event


def nothing_is_skipped(_world: World, event: Message, _stream: str) -> Message | None:
    return None if isinstance(event, JobSkipped) else event


def success_does_not_last(world: World, event: Message, stream: str) -> Message | None:
    if isinstance(event, JobStarted):
        jobs = world.states[stream.removeprefix("workflow-")].jobs.values()
        done = next((job for job in jobs if job.status is SUCCEEDED), None)
        if done is not None:
            return JobStarted(job_id=done.job_id, attempt=done.attempt + 1, slot=event.slot)
    return event


def the_same_seat_for_all(_world: World, event: Message, _stream: str) -> Message | None:
    return SeatGranted(user_id=event.user_id, seat=0) if isinstance(event, SeatGranted) else event


def the_same_slot_for_all(_world: World, event: Message, _stream: str) -> Message | None:
    return JobStarted(job_id=event.job_id, attempt=event.attempt) if isinstance(event, JobStarted) else event


def caught(seed: int, scheduler: Schedule, meddle: Meddle | None) -> str | None:
    world = History(some_limits(random.Random(seed).getrandbits(16)), scheduler, meddle)
    try:
        world.live_through(some_steps(seed))
        world.finish()
    except Violation as violation:
        return str(violation)
    return None


@pytest.mark.parametrize(
    ("scheduler", "meddle", "words"),
    [
        (one_seat_too_many, None, "seats are numbered below the limit|no more users are active"),
        (one_slot_too_many, None, "slots are numbered below the limit|no more jobs run"),
        (nobody_gives_up_a_slot, None, "nobody has two slots while|for longer than the slice"),
        (no_tenure_ends, None, "who stays after the tenure"),
        (seats_without_a_line, None, "the line for seats"),
        (retries_at_once, None, "a retry waits for its time"),
        (schedule, the_last_of_a_branch_first, "a branch is first in first out"),
        (schedule, nothing_is_skipped, "what can come to nothing only is skipped"),
        (schedule, success_does_not_last, "a pending job starts"),
        (schedule, the_same_seat_for_all, "a seat has one user"),
        (schedule, the_same_slot_for_all, "a slot holds one job"),
    ],
    ids=lambda each: each.__name__ if callable(each) else "",
)
def test_a_broken_scheduler_is_caught(scheduler: Schedule, meddle: Meddle | None, words: str) -> None:
    for seed in range(60):
        found = caught(seed, scheduler, meddle)
        if found is not None and any(word in found for word in words.split("|")):
            return
    pytest.fail("nobody noticed")


@pytest.mark.parametrize("column", ["status", "attempt", "slot"])
def test_a_row_that_is_not_what_happened_is_caught(column: str) -> None:
    world = History(some_limits(5))
    world.live_through(some_steps(3))
    check_rows(world, 2)
    life = next(iter(world.laws.lives.values()))
    setattr(life, column, {"status": "LOST", "attempt": life.attempt + 1, "slot": 99}[column])
    with pytest.raises(Violation, match="the rows of the jobs are their lives"):
        check_rows(world, 2)


def test_the_true_scheduler_is_not_caught_by_the_same_histories() -> None:
    assert [caught(seed, schedule, None) for seed in range(10)] == [None] * 10


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.tuples(st.booleans(), st.text(max_size=2), st.integers()), max_size=60))
def test_the_persistent_map_is_a_dict_whose_versions_stay(steps: list[tuple[bool, str, int]]) -> None:
    truth: dict[str, int] = {}
    current: PersistentMap[int] = PersistentMap()
    versions = [(current, dict(truth))]
    for keep, key, value in steps:
        if keep:
            truth[key] = value
            current = current.set(key, value)
        else:
            truth.pop(key, None)
            current = current.drop(key)
        versions.append((current, dict(truth)))
    for version, expected in versions:
        assert version == expected
        assert len(version) == len(expected)
        assert set(version) == set(expected)
        assert PersistentMap.of(version.items()) == expected


@settings(max_examples=60, deadline=None, database=None)
@given(st.integers(1, 100), st.lists(st.tuples(st.integers(0, 99), st.integers()), max_size=40))
def test_the_table_is_a_dict_in_order_whose_versions_stay(size: int, steps: list[tuple[int, int]]) -> None:
    truth = {str(n): n for n in range(size)}
    current: Table[int] = Table(truth.items())
    versions = [(current, dict(truth))]
    for place, value in steps:
        key = str(place % size)
        truth[key] = value
        current = current.set(key, value)
        versions.append((current, dict(truth)))
    current, truth = current.extended([("more", 1)]), {**truth, "more": 1}
    for version, expected in [*versions, (current, truth)]:
        assert list(version.items()) == list(expected.items())
        assert list(version.values()) == list(expected.values())
        assert len(version) == len(expected)
        assert version["0"] == expected["0"]
    with pytest.raises(KeyError):
        current.set("new", 1)
