"""The SQL projection against the domain's fold, on lives that nobody thought of."""

from __future__ import annotations

import random
from datetime import UTC, datetime

import pytest

from microtome.contracts.messages import (
    Artifact,
    Branch,
    BranchPolicy,
    JobPlanned,
    JobResult,
    JobSpec,
    JobType,
    SeatGranted,
)
from microtome.domain import eligibility
from microtome.domain.commands import (
    AddJobs,
    Cancel,
    CancelWorkflow,
    Command,
    DeleteArtifacts,
    LoseAttempt,
    Preempt,
    Release,
    ReleaseAll,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    RetryFailed,
    Start,
    Submit,
)
from microtome.domain.decisions import decide
from microtome.domain.evolution import evolve
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.errors import Conflict, InvalidWorkflow
from microtome.eventlog.database import Database
from microtome.eventlog.log import Append
from microtome.eventlog.postgres import PostgresEventLog
from microtome.readmodels.queries import Queries
from microtome.readmodels.rebuild import rebuild, verify
from tests.integration.eventlog.facts import fact, store

RESULT = JobResult(tiles_total=9, artifacts=(Artifact(name="a", size_bytes=2**40),))
SHARES = (BranchPolicy.UNSPECIFIED, BranchPolicy.HALT, BranchPolicy.SKIP, BranchPolicy.CONTINUE)


class Life:
    """One workflow, to which a user, workers and the scheduler do whatever the domain lets them."""

    def __init__(self, log: PostgresEventLog, workflow_id: str, chance: random.Random) -> None:
        self._log = log
        self.workflow_id = workflow_id
        self._chance = chance
        self._made = 0
        self._slot = 0
        self._version = 0
        self.state: Workflow | None = None

    def _specs(self, count: int, known: list[str]) -> tuple[JobSpec, ...]:
        specs: list[JobSpec] = []
        for _ in range(count):
            self._made += 1
            earlier = [*known, *(spec.job_id for spec in specs)]
            specs.append(
                JobSpec(
                    job_id=f"{self.workflow_id}-{self._made}",
                    key=f"k{self._made}",
                    type=JobType.SEGMENT_CELLS,
                    slide_id="slide-1",
                    branch=f"b{self._chance.randrange(3)}",
                    depends_on=tuple(
                        self._chance.sample(earlier, min(len(earlier), self._chance.choice((0, 0, 1, 2))))
                    ),
                    draft=self._chance.random() < 0.2,
                    expected_tiles=self._chance.randrange(9),
                )
            )
        return tuple(specs)

    def _branches(self) -> tuple[Branch, ...]:
        return tuple(Branch(name=f"b{n}", policy=self._chance.choice(SHARES)) for n in range(3))

    def _command(self) -> Command:
        if self.state is None:
            specs = self._specs(6, [])
            branches = tuple(each for each in self._branches() if any(spec.branch == each.name for spec in specs))
            return Submit(self.workflow_id, "ada", "random", specs, branches)
        job = self._chance.choice(list(self.state.jobs.values()))
        about = self._about(job)
        rare: list[Command] = [
            Cancel(job.job_id),
            Retry(job.job_id),
            RetryFailed(),
            Release(job.job_id),
            ReleaseAll(),
            DeleteArtifacts(job.job_id),
            AddJobs(self._specs(2, list(self.state.jobs))),
        ]
        if self._chance.random() < 0.05:
            rare.append(CancelWorkflow())
        return self._chance.choice(about if about and self._chance.random() < 0.7 else rare)

    def _about(self, job: Job) -> list[Command]:
        name, attempt, now = job.job_id, job.attempt, datetime.now(UTC)
        if job.status is JobStatus.PENDING:
            self._slot += 1
            return [Start(name, self._slot)]
        if job.status is not JobStatus.RUNNING:
            return []
        return [
            ReportPlanned(JobPlanned(job_id=name, attempt=attempt, tiles_total=9)),
            ReportSuccess(name, attempt, RESULT),
            ReportFailure(name, attempt, "x", "y", True, now),
            ReportFailure(name, attempt, "x", "y", False, now),
            LoseAttempt(name, attempt, "tiler", "gone"),
            Preempt(name, attempt),
        ]

    async def step(self) -> bool:
        """Do something; return whether it was allowed and changed anything."""
        try:
            events = decide(self.state, self._command())
        except (Conflict, InvalidWorkflow):
            return False
        if not events:
            return False
        stream = f"workflow-{self.workflow_id}"
        append = Append(stream, self._version, tuple(fact(event) for event in events))
        for stored in await self._log.append(append):
            self.state, self._version = evolve(self.state, stored.message, stored.at), stored.version
        return True


@pytest.mark.parametrize("seed", range(2))
async def test_whatever_happens_the_rows_are_the_fold(database: Database, log: PostgresEventLog, seed: int) -> None:
    chance = random.Random(seed)
    queries = Queries(database)
    await store(log, "seats", SeatGranted(user_id="ada", seat=0))
    kinds: set[str] = set()
    for number in range(4):
        # Slots are the scheduler's to keep; here each life has its own.
        life = Life(log, f"w{number}", chance)
        life._slot = 1000 * number
        for _ in range(60):
            if not await life.step():
                continue
            assert life.state is not None
            record = await queries.workflow("ada", life.workflow_id)
            assert record.state == life.state
            async with database.connection() as connection:
                status = await connection.fetchval(
                    "select status from workflows where workflow_id = $1", life.workflow_id
                )
            assert status == eligibility.status(life.state)
        kinds |= {type(event.message).__name__ for event in await log.read_stream(f"workflow-{life.workflow_id}")}
    assert await verify(database) == ()
    async with database.connection() as connection:
        await connection.execute(
            "update jobs set status = 'CANCELLED', finished_at = now(), slot = null, "
            "seated_user = null, cause_job_id = null where ordinal < 3"
        )
        await connection.execute("update workflows set name = 'forged' where workflow_id = 'w1'")
        await connection.execute("delete from jobs where workflow_id = 'w2'")
    assert await verify(database) != ()
    await rebuild(database)
    assert await verify(database) == ()
    assert len(kinds) >= 11, kinds
