"""Histories: whatever users, workers and crashes do, in any order, with the laws checked all along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

from microtome.contracts.messages import Branch, BranchPolicy, JobSpec, Message
from microtome.domain.cluster import Cluster, evolve
from microtome.domain.eligibility import halted
from microtome.domain.graph import members
from microtome.domain.limits import Limits
from microtome.domain.scheduling import next_wakeup, schedule
from microtome.domain.snapshot import dump, load
from microtome.domain.state import Job, JobStatus
from microtome.domain.workflow import (
    AddJobs,
    CancelWorkflow,
    DeleteArtifacts,
    LoseAttempt,
    Release,
    ReleaseAll,
    RetryFailed,
    runnable_work_left,
)
from microtome.errors import MicrotomeError
from tests.unit.domain.laws import Laws, Violation, law
from tests.unit.domain.stories import Schedule, World, spec

USERS = ("ada", "eve", "joe", "mia", "pam")
BRANCHES = ("x", "y", "z")
POLICIES = (BranchPolicy.HALT, BranchPolicy.SKIP, BranchPolicy.CONTINUE, BranchPolicy.UNSPECIFIED)
# As often as a history is to see them: enough work that users and jobs are in each other's way.
ACTIONS = (
    *["submit"] * 5,
    *["add"] * 2,
    *["tick"] * 6,
    *["wait"] * 4,
    *["plan"] * 2,
    *["succeed"] * 3,
    *["fail"] * 2,
    *["retry"] * 2,
    *["release"] * 2,
    *("falter", "lose", "cancel", "cancel_all", "retry_failed", "release_all", "delete"),
)
Steps = Sequence[tuple[str, int]]
Meddle = Callable[[World, Message, str], Message | None]
_CONDITIONS: dict[str, tuple[JobStatus, ...]] = {
    "plan": (JobStatus.RUNNING,),
    "succeed": (JobStatus.RUNNING,),
    "fail": (JobStatus.RUNNING,),
    "falter": (JobStatus.RUNNING,),
    "lose": (JobStatus.RUNNING,),
    "cancel": (JobStatus.DRAFT, JobStatus.PENDING, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.SKIPPED),
    "retry": (JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SKIPPED),
    "release": (JobStatus.DRAFT,),
    "delete": (JobStatus.SUCCEEDED, JobStatus.FAILED),
}


class History(World):
    """A world that is watched: what is appended is checked against the laws."""

    def __init__(self, limits: Limits, scheduler: Schedule = schedule, meddle: Meddle | None = None) -> None:
        super().__init__(limits, scheduler)
        self.laws = Laws(limits)
        self._meddle = meddle
        self._checked = (0, self.now)

    def append(self, event: Message, stream: str) -> None:
        changed = event if self._meddle is None else self._meddle(self, event, stream)
        if changed is None:
            return
        self.laws.take(changed, self.now, stream)
        super().append(changed, stream)

    def live_through(self, steps: Steps) -> None:
        for action, number in steps:
            with suppress(MicrotomeError):  # Refused, as a user would be.
                act(self, action, number)
            self.check()

    def look(self) -> None:
        """Let the scheduler act until it has nothing more to do."""
        for _ in range(100):
            position = len(self.log)
            self.tick()
            self.check()
            if len(self.log) == position:
                return self.laws.looked(self.now)
        raise Violation("the scheduler comes to an end")

    def check(self) -> None:
        """What the domain keeps to be fast must be what a search of the events finds."""
        laws, cluster = self.laws, self.cluster
        if self._checked == (laws.positions, self.now):
            return
        self._checked = (laws.positions, self.now)
        laws.settled()
        law(set(cluster.running) == {job.spec.job_id for job in laws.running()}, "running jobs are known")
        law({user: seat.number for user, seat in cluster.seats.items()} == laws.seats, "seats are known")
        line = sorted(laws.since, key=lambda user: laws.since[user])
        law(list(cluster.line) == line, "the line is known", list(cluster.line), line)
        ready, stuck = laws.ready(), laws.stuck()
        for workflow in cluster.workflows.values():
            jobs = workflow.jobs
            known = {workflow.graph.turns[turn] for turn in members(workflow.ready)}
            law(known == {job_id for job_id in jobs if job_id in ready}, "who is ready is known", known, ready)
            law(set(halted(workflow)) == {job_id for job_id in jobs if job_id in stuck}, "who is halted is known")
            law(workflow.doomed == 0, "nothing is left to be skipped")
            law(
                runnable_work_left(workflow) == (workflow.workflow_id in cluster.live.get(workflow.user_id, {})),
                "who has work is known",
            )
            for job in jobs.values():
                law(job.status == laws.lives[job.job_id].status, "statuses are known", job)
        pending = [job_id for job_id, job in laws.lives.items() if job.status in ("PENDING", "DRAFT")]
        reasons = self.waiting()
        law(sorted(reasons) == sorted(pending), "every waiting job has a reason", sorted(reasons), sorted(pending))
        for job_id, reason in reasons.items():
            life = laws.lives[job_id]
            startable = job_id in ready and (life.not_before is None or life.not_before <= self.now)
            law((reason.kind in ("seat", "worker")) == startable, "who could start waits for capacity", reason)
            law((reason.kind in ("halted", "draft")) == (job_id in stuck or life.status == "DRAFT"), "halted", reason)

    def finish(self) -> None:
        """Let everything succeed that can: nothing may be left over but what waits for its user."""
        for _ in range(2):
            self._drain()
            stuck = self.laws.stuck()
            left = [job_id for job_id, job in self.laws.lives.items() if job.status in ("PENDING", "RUNNING")]
            law(set(left) == stuck, "no job is lost", set(left) ^ stuck)
            law(not self.cluster.seats and not self.cluster.line, "nobody is active without work")
            for name, workflow in list(self.states.items()):
                given_up = [job.job_id for job in workflow.jobs.values() if job.draft and job.status == "CANCELLED"]
                for job_id in given_up:
                    with suppress(MicrotomeError):  # Another came to nothing, because of which it would be skipped.
                        self.retry(job_id)
                    self.check()
                with suppress(*([MicrotomeError] if given_up else [])):
                    self.tell(name, ReleaseAll())
                self.check()
        waiting = [job for job in self.laws.lives.values() if job.status == "DRAFT"]
        for job in waiting:
            lost = any(other.draft and other.status == "CANCELLED" for other in self.states[job.flow].jobs.values())
            law(lost, "every draft can be started", job)

    def _drain(self) -> None:
        for _ in range(10 * len(self.laws.lives) + 10):
            self.look()
            running = list(self.cluster.running)
            wakeup = next_wakeup(self.cluster, self.now, self.limits)
            if not running and wakeup is None:
                return
            if running:
                self.succeed(*running)
                self.check()
            elif wakeup is not None:
                self.now = wakeup
        raise Violation("everything comes to an end")

    def check_replay(self, cut: int) -> None:
        """The log folded anew, and from a snapshot on, must give the same cluster."""
        whole = Cluster()
        cut %= len(self.log) + 1
        tail = whole
        for position, (event, at, stream) in enumerate(self.log):
            if position == cut:
                tail = load(dump(whole))
                law(tail == whole, "a snapshot is what was snapped")
            if position >= cut:
                tail = evolve(tail, event, at, stream)
            whole = evolve(whole, event, at, stream)
        if cut == len(self.log):
            tail = load(dump(whole))
        law(whole == self.cluster, "the log is all there is")
        law(tail == whole and dump(tail) == dump(whole), "a snapshot and its tail are the whole")


def act(world: History, action: str, number: int) -> None:
    """Do one thing, picked by `number`; nothing if there is nothing to do it to."""
    match action:
        case "submit":
            name = f"w{len(world.states)}"
            jobs, branches = some_jobs(name, number, first=0)
            world.submit(name, USERS[number % len(USERS)], *jobs, branches=branches)
        case "add" if world.states:
            name = sorted(world.states)[number % len(world.states)]
            jobs, branches = some_jobs(name, number, first=len(world.states[name].jobs))
            world.tell(name, AddJobs(jobs, branches))
        case "tick":
            world.look()
        case "wait":
            world.advance(seconds=1 + number % 45)
        case "cancel_all" | "retry_failed" | "release_all" if world.states:
            name = sorted(world.states)[number % len(world.states)]
            commands = {"cancel_all": CancelWorkflow(), "retry_failed": RetryFailed(), "release_all": ReleaseAll()}
            world.tell(name, commands[action])
        case _ if action in _CONDITIONS:
            _act_on_a_job(world, action, number)


def _act_on_a_job(world: History, action: str, number: int) -> None:
    choice: list[Job] = [
        job for workflow in world.states.values() for job in workflow.jobs.values() if job.status in _CONDITIONS[action]
    ]
    if not choice:
        return
    job = choice[number % len(choice)]
    name = job.job_id.split(".")[0]
    match action:
        case "plan":
            world.plan(job.job_id, 1 + number % 70)
        case "succeed":
            world.succeed(job.job_id)
        case "fail" | "falter":
            world.fail(job.job_id, transient=action == "falter")
        case "lose":
            world.tell(name, LoseAttempt(job.job_id, job.attempt, "worker", "The lease expired."))
        case "cancel":
            world.cancel(job.job_id)
        case "retry":
            world.retry(job.job_id)
        case "release":
            world.tell(name, Release(job.job_id))
        case "delete":
            world.tell(name, DeleteArtifacts(job.job_id))


def some_jobs(name: str, number: int, first: int) -> tuple[tuple[JobSpec, ...], tuple[Branch, ...]]:
    """One to five jobs, and policies for their branches, made of the bits of `number`."""
    bits = number * 0x9E3779B97F4A7C15 % (1 << 64)

    def take(choices: int) -> int:
        nonlocal bits
        bits, rest = divmod(bits, choices)
        return rest

    jobs = []
    for place in range(first, first + 1 + take(5)):
        needs = tuple(f"j{take(place)}" for _ in range(take(3)) if place)
        jobs.append(
            spec(
                f"j{place}",
                BRANCHES[take(3)],
                tuple(dict.fromkeys(needs)),
                workflow=name,
                draft=take(5) == 0,
                tiles=1 + take(50),
            )
        )
    # With jobs that are added, a policy is refused now and then, as one of a branch that has another.
    used = dict.fromkeys(job.branch for job in jobs) if not first or not take(3) else {}
    chosen = ((branch, POLICIES[take(4)]) for branch in used)
    return tuple(jobs), tuple(Branch(name=branch, policy=policy) for branch, policy in chosen)


def some_limits(number: int) -> Limits:
    """Small limits made of the bits of `number`."""
    return Limits(
        max_workers=1 + number % 4,
        max_active_users=1 + number // 4 % 3,
        max_attempts=1 + number // 12 % 3,
        seat_tenure=(None, timedelta(seconds=20), timedelta(seconds=60))[number // 36 % 3],
        slice_seconds=(10, 60)[number // 108 % 2],
    )
