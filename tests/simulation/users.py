"""Users who submit, add, start, cancel and retry whatever and whenever they like."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from microtome import clock
from microtome.contracts.messages import Branch, BranchPolicy, JobSpec, JobType
from microtome.domain.commands import (
    AddJobs,
    Cancel,
    CancelWorkflow,
    Command,
    Release,
    ReleaseAll,
    Retry,
    RetryFailed,
    Submit,
)
from microtome.domain.workflow import decide
from microtome.errors import MicrotomeError, Unavailable
from microtome.eventlog.log import Append
from microtome.workflows import Workflows, new_event, stream_of
from tests.simulation.wires import WiredLog

POLICIES = (BranchPolicy.UNSPECIFIED, BranchPolicy.HALT, BranchPolicy.SKIP, BranchPolicy.CONTINUE)
BRANCHES = ("a", "b", "c")


@dataclass
class Accounts:
    """What all users together have been told: these workflows are in."""

    acknowledged: set[str] = field(default_factory=set)
    commands: int = 0
    refused: int = 0


class User:
    """One user at the gateway's door."""

    def __init__(self, name: str, chance: random.Random, log: WiredLog, workflows: Workflows, book: Accounts) -> None:
        self._name = name
        self._chance = chance
        self._log = log
        self._workflows = workflows
        self._book = book
        self._mine: dict[str, list[JobSpec]] = {}

    async def live(self, until: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < until:
            try:
                await self._act()
            except Unavailable:
                pass  # the user sees 503 and may or may not try something else
            except MicrotomeError:
                self._book.refused += 1
            await asyncio.sleep(self._chance.uniform(0.05, 4.0))

    async def _act(self) -> None:
        self._book.commands += 1
        if not self._mine or self._chance.random() < 0.3:
            await self._submit()
            return
        workflow_id = self._chance.choice(list(self._mine))
        specs = self._mine[workflow_id]
        job_id = self._chance.choice(specs).job_id
        command: Command
        match self._chance.choices(range(7), (5, 4, 3, 1, 3, 2, 1))[0]:
            case 0:
                added = self._jobs(specs, self._chance.randint(1, 2))
                command = AddJobs(jobs=added, branches=self._policies(added, specs))
                specs.extend(added)
            case 1:
                command = Cancel(job_id)
            case 2:
                command = Retry(job_id)
            case 3:
                command = CancelWorkflow()
            case 4:
                command = RetryFailed()
            case 5:
                command = Release(job_id)
            case _:
                command = ReleaseAll()
        await self._workflows.execute(workflow_id, command)

    async def _submit(self) -> None:
        workflow_id = str(clock.new_id())
        jobs = self._jobs([], self._chance.randint(1, 6))
        command = Submit(
            workflow_id=workflow_id,
            user_id=self._name,
            name="simulated",
            jobs=jobs,
            branches=self._policies(jobs, []),
        )
        (submitted,) = decide(None, command)
        event_id: UUID = clock.new_id()
        append = Append(stream_of(workflow_id), 0, (new_event(submitted, self._name, event_id=event_id),))
        for attempt in range(4):
            try:
                await self._log.append(append)
                break
            except Unavailable:
                # It may be in or not: the same ids again.
                if attempt == 3:
                    raise
        self._mine[workflow_id] = list(jobs)
        self._book.acknowledged.add(workflow_id)

    def _jobs(self, known: list[JobSpec], count: int) -> tuple[JobSpec, ...]:
        jobs: list[JobSpec] = []
        chance = self._chance
        for number in range(count):
            earlier = [*known, *jobs]
            needed = chance.sample(earlier, min(len(earlier), chance.choice((0, 0, 0, 1, 1, 2))))
            jobs.append(
                JobSpec(
                    job_id=str(clock.new_id()),
                    key=f"j{len(known) + number}",
                    type=JobType.TISSUE_MASK,
                    slide_id="slide",
                    branch=chance.choice(BRANCHES),
                    depends_on=tuple(job.job_id for job in needed),
                    draft=chance.random() < 0.1,
                    expected_tiles=chance.choice((1, 1, 2, 3, 8)),
                )
            )
        return tuple(jobs)

    def _policies(self, jobs: tuple[JobSpec, ...], known: list[JobSpec]) -> tuple[Branch, ...]:
        names = sorted({job.branch for job in jobs} - {job.branch for job in known})
        chosen: list[Any] = [Branch(name=name, policy=self._chance.choice(POLICIES)) for name in names]
        return tuple(branch for branch in chosen if self._chance.random() < 0.7)
