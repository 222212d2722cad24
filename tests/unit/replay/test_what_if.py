"""What if: the same rules under the recorded limits give the recording, other limits give other waits."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial

import pytest

from microtome.domain.limits import Limits
from microtome.domain.simulation import Wait
from microtome.errors import Conflict
from microtome.eventlog.log import StoredEvent
from microtome.replay import what_if
from microtome.replay.what_if import Changes, Comparison
from tests.unit.replay.recorder import Recorder, spec

LEAST = Limits(max_workers=1, max_active_users=1)


async def events(story: Recorder) -> AsyncIterator[StoredEvent]:
    for event in story.log:
        yield event


async def compared(story: Recorder, **changes: object) -> Comparison:
    return await what_if.compare(events(story), LEAST, Changes(**changes))  # type: ignore[arg-type]


def busy(seed: int, limits: Limits, users: int = 5, workflows: int = 30) -> Recorder:
    """Users submit workflows of a few branches at random; every job takes exactly as long as it was drawn."""
    chance = random.Random(seed)
    story = Recorder(limits)
    seconds: dict[str, float] = {}
    arrivals = []
    for number in range(workflows):
        name = f"w{number}"
        jobs = [
            spec(name, f"j{n}", f"b{chance.randrange(2)}", tiles=chance.randrange(1, 60))
            for n in range(chance.randrange(1, 6))
        ]
        seconds.update((job.job_id, round(chance.uniform(0.5, 40), 3)) for job in jobs)
        submit = partial(story.submit, name, f"user{chance.randrange(users)}", *jobs)
        arrivals.append((round(chance.uniform(0, 200), 3), submit))
    story.run(arrivals, seconds)
    return story


@pytest.mark.parametrize("seed", range(4))
async def test_the_recorded_limits_reproduce_every_start(seed: int) -> None:
    limits = Limits(max_workers=1 + seed, max_active_users=2 + seed % 2, slice_seconds=5 if seed % 2 else 60)
    story = busy(seed, limits)
    comparison = await compared(story, slice_seconds=limits.slice_seconds)
    errors = comparison.start_errors()
    assert len(errors) == sum(len(state.jobs) for state in story.states.values())
    assert errors[-1] == 0
    recorded, simulated = comparison.recorded, comparison.simulated
    assert recorded.limits.max_workers == limits.max_workers
    assert recorded.outcome.waits == simulated.outcome.waits
    assert (recorded.makespan, recorded.utilisation) == (simulated.makespan, simulated.utilisation)
    assert recorded.outcome.preemptions == simulated.outcome.preemptions
    assert 0.5 < recorded.utilisation <= 1


async def test_more_workers_shorten_waits_and_use_slots_less() -> None:
    story = busy(7, Limits(max_workers=2, max_active_users=3))
    more = await compared(story, max_workers=6)
    for share in (0.5, 0.9, 1.0):
        assert more.simulated.outcome.quantile(share) < more.recorded.outcome.quantile(share)
    assert more.simulated.makespan < more.recorded.makespan
    assert more.simulated.utilisation < more.recorded.utilisation
    fewer = await compared(story, max_workers=1)
    assert fewer.simulated.outcome.quantile(0.9) > fewer.recorded.outcome.quantile(0.9)


async def test_seats_and_tenure_change_who_waits() -> None:
    """ada keeps submitting; with one seat and no tenure, bob waits until she is done."""
    story = Recorder(Limits(max_workers=1, max_active_users=1))
    arrivals = [(10.0 * n, partial(story.submit, f"a{n}", "ada", spec(f"a{n}", "job"))) for n in range(10)]
    arrivals.append((5.0, partial(story.submit, "b", "bob", spec("b", "job"))))
    story.run(arrivals, {**{f"a{n}.job": 12.0 for n in range(10)}, "b.job": 5.0})
    recorded = await compared(story)
    assert recorded.start_errors()[-1] == 0
    waited = recorded.recorded.of_user("bob").quantile(1)
    assert waited == timedelta(seconds=115)
    tenure = await compared(story, seat_tenure=20.0)
    assert tenure.simulated.of_user("bob").quantile(1) < timedelta(seconds=30)
    seats = await compared(story, max_active_users=2)
    assert seats.simulated.of_user("bob").quantile(1) < timedelta(seconds=15)


async def test_policies_decide_what_a_failure_costs() -> None:
    story = Recorder(Limits(max_workers=1))
    story.submit("w", "ada", spec("w", "breaks", "x"), spec("w", "after", "x"))
    story.tick()
    story.at(10)
    story.fail("w.breaks")
    story.tick()
    halted = await compared(story)
    assert [wait.started_at is None for wait in halted.simulated.outcome.waits] == [False, True]
    goes_on = await compared(story, policies={"all": "continue"})
    assert [wait.started_at is None for wait in goes_on.simulated.outcome.waits] == [False, False]
    elsewhere = await compared(story, policies={"y": "continue"})
    assert elsewhere.simulated.outcome.waits == halted.simulated.outcome.waits


async def test_retries_and_cancels_are_wishes_and_faults_are_said() -> None:
    story = Recorder(Limits(max_workers=1))
    story.submit("w", "ada", spec("w", "one"), spec("w", "two", "other"))
    story.tick()
    story.at(4)
    story.fail("w.one", transient=True)
    story.tick()
    story.at(8)
    story.cancel("w.two")
    story.tick()
    story.at(20)
    story.succeed("w.one")
    story.tick()
    comparison = await compared(story)
    assert comparison.faults == {"failed for a moment": 1}
    document = what_if.document(comparison)
    assert document["faults_not_simulated"] == {"failed for a moment": 1}
    assert document["users"]["ada"]["recorded"]["jobs"] == 2


async def test_an_empty_log_is_no_ground_for_a_simulation() -> None:
    with pytest.raises(Conflict, match="no workflow"):
        await compared(Recorder())


async def test_json_gives_both_sides_of_every_job() -> None:
    story = busy(3, Limits(max_workers=2))
    document = what_if.document(await compared(story, max_workers=8))
    assert len(document["jobs"]) == document["recorded"]["jobs"]
    waited = sorted(job["simulated_waited_seconds"] for job in document["jobs"])
    assert waited[-1] == document["simulated"]["waited_seconds"]["max"]
    assert document["recorded"]["max_workers"], document["simulated"]["max_workers"] == (2, 8)
    assert set(document["users"]) == {state.user_id for state in story.states.values()}
    assert Wait.waited
