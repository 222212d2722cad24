"""Forecasts and what-if runs, against a run that knows nothing of them; and that nobody waits for ever."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.contracts.messages import BranchPolicy, JobPreempted, JobStarted, JobSucceeded, JobType
from microtome.domain.commands import AddJobs, Cancel, Submit
from microtome.domain.course import Fate, Wish, course
from microtome.domain.forecast import forecast
from microtome.domain.limits import Limits
from microtome.domain.rates import Rates
from microtome.domain.scheduling import next_wakeup, schedule
from microtome.domain.simulation import EVERY_BRANCH, Wait, record, simulate
from microtome.errors import MicrotomeError
from tests.unit.domain.histories import some_jobs, some_limits
from tests.unit.domain.stories import BEGINNING, World, policies, spec

NUMBERS = st.integers(0, 2**32)
SECOND = timedelta(seconds=1)
PER_TILE = Rates({JobType.SEGMENT_CELLS: 1.0})


def run_exactly(world: World) -> dict[str, datetime]:
    """Let every job take a second per tile, over all its attempts, until the end; returns the first starts."""
    first: dict[str, datetime] = {}
    done: dict[str, timedelta] = {}
    since: dict[str, datetime] = {}
    position = 0
    for _ in range(5_000):
        while schedule(world.cluster, world.limits, world.now):
            world.tick()
        for event, at, _ in world.log[position:]:
            if isinstance(event, JobStarted):
                first.setdefault(event.job_id, at)
                since[event.job_id] = at
            elif isinstance(event, JobPreempted):
                done[event.job_id] = done.get(event.job_id, timedelta(0)) + at - since[event.job_id]
        position = len(world.log)
        ends = {
            job_id: since[job_id] + world.job(job_id).spec.expected_tiles * SECOND - done.get(job_id, timedelta(0))
            for job_id in world.cluster.running
        }
        times = [*ends.values(), next_wakeup(world.cluster, world.now, world.limits)]
        known = [at for at in times if at is not None]
        if not known:
            return first
        world.now = max(world.now, min(known))
        # Those that end at the same time end in the order in which they started.
        for job_id, running in sorted(world.cluster.running.items(), key=lambda item: (ends[item[0]], item[1].moment)):
            if ends[running.job_id] <= world.now:
                world.succeed(job_id)
    raise AssertionError("the run never ends")


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.builds(some_limits, NUMBERS), st.lists(NUMBERS, min_size=1, max_size=8))
def test_a_forecast_is_exact_when_durations_are(limits: Limits, numbers: list[int]) -> None:
    world = World(limits)
    for place, number in enumerate(numbers):
        try:
            jobs, branches = some_jobs(f"w{place}", number, first=0)
            world.submit(f"w{place}", "abcde"[number % 5], *jobs, branches=branches)
        except MicrotomeError:
            continue
    said = forecast(world.cluster, limits, world.now, PER_TILE)
    assert run_exactly(world) == said


def test_a_forecast_counts_what_runs_already_and_what_was_done_before_a_preemption() -> None:
    world = World(Limits(max_workers=1, slice_seconds=10))
    world.submit("w1", "ada", spec("big", workflow="w1", tiles=100))
    assert world.tick() == ["w1.big"]
    world.advance(seconds=30)
    world.submit("w2", "eve", spec("small", workflow="w2", tiles=20))
    assert world.tick() == ["w2.small"]
    world.advance(seconds=5)
    said = forecast(world.cluster, world.limits, world.now, PER_TILE)
    # Eve's slice ends at 40 s, Ada's at 50 s; so on until Eve has had her 20 s.
    assert said["w1.big"] == BEGINNING + timedelta(seconds=40)
    assert run_exactly(world)["w1.big"] == BEGINNING
    assert world.now == BEGINNING + timedelta(seconds=120)


def test_there_is_no_forecast_without_rates_and_none_beyond_the_horizon() -> None:
    world = World(Limits(max_workers=1))
    world.submit("w", "ada", *(spec(f"j{n}", tiles=1) for n in range(9)))
    assert forecast(world.cluster, world.limits, world.now, world.cluster.rates) == {}
    assert list(forecast(world.cluster, world.limits, world.now, PER_TILE, horizon=3)) == ["w.j0", "w.j1", "w.j2"]


@settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 300)), min_size=6, max_size=20), st.integers(1, 3))
def test_nobody_waits_longer_than_the_limits_say(work: list[tuple[int, int]], workers: int) -> None:
    limits = Limits(max_workers=workers, max_active_users=3, seat_tenure=timedelta(seconds=120), slice_seconds=30)
    world = World(limits)
    for place, (user, tiles) in enumerate(work):
        name = f"w{place}"
        world.submit(
            name, f"user{user}", spec("a", "x", workflow=name, tiles=tiles), spec("b", "y", workflow=name, tiles=9)
        )
    longest = 300 * SECOND
    standing: dict[str, datetime] = {}
    lining: dict[str, datetime] = dict.fromkeys(world.cluster.line, world.now)
    for step in course(world.cluster, limits, world.now, lambda job: Fate(job.tiles * SECOND)):
        busy = {running.user_id for running in step.after.running.values()}
        for user in [user for user in standing if user in busy or user not in step.after.seats]:
            # At worst everybody else first draws level in work, a job at a time, and has their slice.
            assert step.at - standing.pop(user) <= (limits.max_active_users - 1) * (longest + limits.time_slice)
        for user in step.after.seats:
            if user not in busy and user in step.after.live:
                standing.setdefault(user, step.at)
        for user in [user for user in lining if user not in step.after.line]:
            # At worst two users sit down before them and stay for their tenure and the end of what they run.
            assert step.at - lining.pop(user) <= 2 * (limits.seat_tenure or longest) + 2 * longest
        for user in step.after.line:
            lining.setdefault(user, step.at)
    assert not lining


def test_a_small_job_is_hardly_delayed_by_a_huge_one() -> None:
    world = World(Limits(max_workers=1, slice_seconds=60))
    world.submit("w1", "ada", spec("huge", workflow="w1", tiles=100_000))
    world.tick()
    world.advance(seconds=600)
    world.submit("w2", "eve", spec("small", workflow="w2", tiles=20))
    said = forecast(world.cluster, world.limits, world.now, PER_TILE)
    assert said["w2.small"] == world.now


def test_a_recording_simulated_under_its_own_limits_gives_its_own_waits() -> None:
    world = World(Limits(max_workers=2, max_active_users=2, slice_seconds=10))
    for place in range(6):
        name = f"w{place}"
        jobs = (spec("a", "x", workflow=name, tiles=3 * place + 1), spec("b", "x", workflow=name, tiles=7))
        world.submit(name, "abc"[place % 3], *jobs)
    starts = run_exactly(world)
    recording = record(world.log)
    assert {job_id: fates[-1].work for job_id, fates in recording.ends.items()} == {
        job.job_id: job.spec.expected_tiles * SECOND for state in world.states.values() for job in state.jobs.values()
    }
    outcome = simulate(recording.wishes, recording.fates(), world.limits)
    assert {wait.job_id: wait.started_at for wait in outcome.waits} == starts
    assert outcome.preemptions == sum(isinstance(event, JobPreempted) for event, _, _ in world.log)
    assert outcome.most_running <= 2
    assert outcome.most_active_users <= 2
    alone = simulate(recording.wishes, recording.fates(), Limits(max_workers=12, max_active_users=3))
    assert alone.quantile(1.0) == timedelta(0)
    slow = simulate(recording.wishes, recording.fates(), Limits(max_workers=1))
    assert slow.finished_at == BEGINNING + sum((fates[-1].work for fates in recording.ends.values()), timedelta(0))
    assert slow.slot_time == alone.slot_time
    median = slow.quantile(0.5, Wait.queued)
    assert median is not None
    assert median > timedelta(0)


def test_a_recorded_failure_meets_another_policy() -> None:
    world = World(Limits(max_workers=1))
    world.submit("w", "ada", spec("a", tiles=5), spec("b", tiles=5))
    world.tick()
    world.advance(seconds=5)
    world.fail("w.a")
    recording = record(world.log)
    halts = simulate(recording.wishes, recording.fates(), world.limits)
    assert [wait.started_at is None for wait in halts.waits] == [False, True]
    goes_on = {EVERY_BRANCH: BranchPolicy.CONTINUE}
    outcome = simulate(recording.wishes, recording.fates(), world.limits, goes_on)
    assert [wait.started_at for wait in outcome.waits] == [BEGINNING, BEGINNING + timedelta(seconds=5)]
    assert simulate((), recording.fates(), world.limits).waits == ()


def test_wishes_come_in_their_time_and_refused_ones_are_passed_over() -> None:
    wishes = (
        Wish(BEGINNING, "w", "ada", Submit("w", "ada", "name", (spec("a", tiles=5),), policies(main="skip"))),
        Wish(BEGINNING + 10 * SECOND, "w", "ada", AddJobs((spec("b", tiles=5),))),
        Wish(BEGINNING + 11 * SECOND, "w", "ada", Cancel("w.nobody")),
    )
    outcome = simulate(wishes, lambda job: Fate(job.tiles * SECOND), Limits())
    assert [wait.finished_at for wait in outcome.waits] == [BEGINNING + 5 * SECOND, BEGINNING + 15 * SECOND]
    early = simulate(wishes, lambda job: Fate(job.tiles * SECOND), Limits(), until=BEGINNING + 6 * SECOND)
    assert len(early.waits) == 1


def test_rates_are_learnt_from_jobs_that_finish() -> None:
    world = World()
    world.submit("w", "ada", spec("a", tiles=10), spec("b", tiles=10))
    world.tick()
    world.advance(seconds=20)
    world.succeed("w.a")
    assert world.cluster.rates.per_tile(JobType.SEGMENT_CELLS) == pytest.approx(2.0)
    assert world.cluster.rates.per_tile(JobType.TISSUE_MASK) == pytest.approx(2.0)
    world.tick()
    world.plan("w.b", 20)
    world.advance(seconds=20)
    world.succeed("w.b")
    assert world.cluster.rates.per_tile(JobType.SEGMENT_CELLS) == pytest.approx(1.8)
    assert isinstance(world.log[-1][0], JobSucceeded)
