"""Whatever users, workers and crashes do, the scheduling law holds: random histories, checked after every step."""

from __future__ import annotations

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.domain.cluster import Cluster, evolve
from microtome.domain.eligibility import startable, unmet_dependency
from microtome.domain.graph import members
from microtome.domain.persistent import PersistentMap
from microtome.domain.scheduling import Limits, next_wakeup, schedule
from microtome.domain.workflow import JobStatus, LoseAttempt, Workflow, WorkflowStatus, runnable_work_left, status
from tests.unit.domain.stories import World, spec

USERS = ("ada", "eve", "joe", "mia", "pam")
ACTIONS = ("submit", "tick", "plan", "succeed", "fail", "falter", "lose", "cancel", "retry", "wait")
LIMITS = st.builds(
    Limits, max_workers=st.integers(1, 4), max_active_users=st.integers(1, 3), max_attempts=st.integers(1, 3)
)
STEPS = st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 2**16)), min_size=5, max_size=60)


def submit(world: World, number: int) -> None:
    name = f"w{len(world.log)}"
    size = 1 + number % 4
    jobs = []
    for place in range(size):
        needs = (f"j{place - 1}",) if place and number >> (4 + place) & 1 else ()
        jobs.append(spec(f"j{place}", f"b{(number >> (8 + place)) % 2}", needs, workflow=name))
    world.submit(name, USERS[number % len(USERS)], *jobs)


def act(world: World, action: str, number: int) -> None:
    """Do one thing that is allowed in this state, picked by `number`; nothing if there is none."""
    if action == "submit":
        return submit(world, number)
    if action == "tick":
        world.tick()
        return check_nothing_waits_in_vain(world)
    if action == "wait":
        return world.advance(seconds=1 + number % 5)
    allowed = {
        "plan": (JobStatus.RUNNING,),
        "succeed": (JobStatus.RUNNING,),
        "fail": (JobStatus.RUNNING,),
        "falter": (JobStatus.RUNNING,),
        "lose": (JobStatus.RUNNING,),
        "cancel": (JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED),
        "retry": (JobStatus.FAILED, JobStatus.CANCELLED),
    }[action]
    jobs = [job for workflow in world.cluster.workflows.values() for job in workflow.jobs.values()]
    choice = [job for job in jobs if job.status in allowed and not (action == "plan" and job.planned)]
    if not choice:
        return None
    job = choice[number % len(choice)]
    if action == "lose":
        command = LoseAttempt(job.job_id, job.attempt, "worker", "The lease expired.", world.now)
        return world.tell(job.job_id.split(".")[0], command)
    if action in ("fail", "falter"):
        return world.fail(job.job_id, transient=action == "falter")
    return {"plan": world.plan, "succeed": world.succeed, "cancel": world.cancel, "retry": world.retry}[action](
        job.job_id
    )


def check_limits(world: World) -> None:
    cluster, limits = world.cluster, world.limits
    everything = list(cluster.workflows.values())
    running = [(w, job) for w in everything for job in w.jobs.values() if job.status is JobStatus.RUNNING]
    assert {job.job_id for _, job in running} == set(cluster.running)
    assert len(running) <= limits.max_workers
    slots = [job.slot for _, job in running]
    assert len(set(slots)) == len(slots)
    assert set(slots) <= set(range(limits.max_workers))
    assert len(cluster.seats) <= limits.max_active_users
    assert len(set(cluster.seats.values())) == len(cluster.seats)
    assert {w.user_id for w, _ in running} <= set(cluster.seats)
    busy = Counter((w.workflow_id, job.spec.branch) for w, job in running)
    assert all(count == 1 for count in busy.values())
    assert all(unmet_dependency(w, job) is None for w, job in running)


def check_bookkeeping(world: World) -> None:
    """What the cluster keeps to be fast must be what the workflows say."""
    cluster = world.cluster
    live = {w.workflow_id for w in cluster.workflows.values() if runnable_work_left(w)}
    assert {name for theirs in cluster.live.values() for name in theirs} == live
    assert set(cluster.line) == set(cluster.live) - set(cluster.seats)
    assert list(cluster.line.values()) == sorted(cluster.line.values())
    assert set(cluster.last_started) <= set(cluster.seats)
    pending = {
        job.job_id: job.not_before
        for w in cluster.workflows.values()
        for job in w.jobs.values()
        if job.status is JobStatus.PENDING and job.not_before is not None
    }
    assert cluster.retries == pending
    assert all(status(w) is not WorkflowStatus.SUCCEEDED for w in cluster.workflows.values())
    assert all(status(w) is WorkflowStatus.SUCCEEDED for w in world.ended.values())


def check_reasons(world: World) -> None:
    pending = [
        job.job_id
        for w in world.cluster.workflows.values()
        for job in w.jobs.values()
        if job.status is JobStatus.PENDING
    ]
    reasons = world.waiting()
    assert sorted(reasons) == sorted(pending)
    for job_id, reason in reasons.items():
        workflow = world.workflow(job_id.split(".")[0])
        assert workflow is not None
        could_start = job_id in {job.job_id for job in startable(workflow, world.now)}
        assert (reason.kind in ("seat", "worker")) == could_start
        if reason.kind == "seat":
            assert reason.position == list(world.cluster.line).index(workflow.user_id) + 1


def check_nothing_waits_in_vain(world: World) -> None:
    """After a turn of the scheduler, room and work do not face each other."""
    cluster, limits = world.cluster, world.limits
    assert set(cluster.seats) <= set(cluster.live)
    if cluster.line:
        assert len(cluster.seats) == limits.max_active_users
    if len(cluster.running) < limits.max_workers:
        for user in cluster.seats:
            for name in cluster.live[user]:
                assert startable(cluster.workflows[name], world.now) == ()
    assert schedule(cluster, limits, world.now) == ()


def check_branches_ran_in_order(world: World, first_starts: dict[str, int]) -> None:
    """A job first started while an earlier one of its branch was still to come only if that one had been cancelled."""
    for workflow in [*world.cluster.workflows.values(), *world.ended.values()]:
        retried = {event.job_id for event, _, _ in world.log if type(event).__name__ == "JobCancelled"}  # type: ignore[attr-defined]
        for line in workflow.graph.branches.values():
            ids = [workflow.at_turn(turn).job_id for turn in members(line)]
            moments = [first_starts[job_id] for job_id in ids if job_id in first_starts and job_id not in retried]
            assert moments == sorted(moments)


@settings(max_examples=400, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(LIMITS, STEPS)
def test_random_histories_keep_the_law(limits: Limits, steps: list[tuple[str, int]]) -> None:
    world = World(limits)
    for action, number in steps:
        act(world, action, number)
        check_limits(world)
        check_bookkeeping(world)
        check_reasons(world)
    replayed = Cluster()
    first_starts: dict[str, int] = {}
    for moment, (event, at, stream) in enumerate(world.log):
        replayed = evolve(replayed, event, at, stream)
        if type(event).__name__ == "JobStarted":
            first_starts.setdefault(event.job_id, moment)  # type: ignore[attr-defined]
    assert replayed == world.cluster
    assert list(replayed.line) == list(world.cluster.line)
    assert {user: list(names) for user, names in replayed.live.items()} == {
        user: list(names) for user, names in world.cluster.live.items()
    }
    check_branches_ran_in_order(world, first_starts)


@settings(max_examples=40, deadline=None, database=None)
@given(LIMITS, st.lists(st.integers(0, 2**16), min_size=1, max_size=12))
def test_everything_submitted_is_finished_in_the_end(limits: Limits, submissions: list[int]) -> None:
    world = World(limits)
    workflows: list[Workflow] = []
    for number in submissions:
        submit(world, number)
    workflows += world.cluster.workflows.values()
    for turn in range(1_000):
        world.tick()
        if not world.cluster.live:
            break
        for place, job_id in enumerate(list(world.cluster.running)):
            if (turn + place) % 3 == 0 and limits.max_attempts > world.job(job_id).failures + 1:
                world.fail(job_id, transient=True)
            else:
                world.succeed(job_id)
        wakeup = next_wakeup(world.cluster, world.now)
        if not world.cluster.running and wakeup is not None:
            world.now = wakeup
    assert len(world.ended) == len(workflows)
    assert world.cluster.workflows == {}
    assert world.cluster.seats == {}


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
