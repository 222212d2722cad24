"""What is so: the state of one workflow and of its jobs.

Promises: frozen values; a new state shares with the old one whatever did not change.
Refuses: to decide anything (see `decisions`) and to change (see `evolution`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from microtome.contracts.messages import BranchPolicy, JobPlanned, JobResult, JobSpec
from microtome.domain.graph import Graph


class JobStatus(StrEnum):
    """Where a job is in its life."""

    DRAFT = "DRAFT"
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    SKIPPED = "SKIPPED"

    @property
    def terminal(self) -> bool:
        """Whether only the user can make anything more of the job."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.SKIPPED})


class WorkflowStatus(StrEnum):
    """Where a workflow is: PENDING until a job starts, RUNNING until nothing more can run by itself."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobError:
    """Why an attempt came to nothing."""

    code: str
    detail: str
    transient: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job of a workflow."""

    spec: JobSpec
    order: int
    """Place in the workflow, from 0, in the order of submission."""
    turn: int
    """Place in the line of its branch: the lower turn goes first. No two jobs of a workflow have the same."""
    status: JobStatus = JobStatus.PENDING
    draft: bool = False
    """The user has not started it yet, whether it is a draft still or was cancelled as one."""
    attempt: int = 0
    """The attempt that runs or ran last; 0 before the first. It only ever rises."""
    slot: int | None = None
    """The worker slot, while running."""
    failures: int = 0
    """Attempts that failed or were lost since the submission or the user's last retry."""
    preemptions: int = 0
    """Attempts that gave up their slot to another user."""
    not_before: datetime | None = None
    """A pending job starts no earlier than this."""
    error: JobError | None = None
    """Why an earlier attempt failed or was lost, until one succeeds or the user retries."""
    cause_job_id: str | None = None
    """The job that is the reason why this one was skipped."""
    result: JobResult | None = None
    planned: JobPlanned | None = None
    """The plan of the current attempt, else of the last one."""
    ran: timedelta = timedelta(0)
    """How long earlier attempts ran whose finished tiles the next one finds: those preempted or lost."""
    started_at: datetime | None = None
    """When the current attempt began."""
    finished_at: datetime | None = None
    artifacts_deleted_at: datetime | None = None

    @property
    def job_id(self) -> str:
        """The global id."""
        return self.spec.job_id

    @property
    def key(self) -> str:
        """The user's name for the job."""
        return self.spec.key

    @property
    def tiles(self) -> int:
        """How much work the job is: the tiles with tissue, once planned, else those expected; at least 1."""
        if self.planned is not None:
            return max(1, self.planned.tiles_total - self.planned.tiles_skipped)
        return max(1, self.spec.expected_tiles)


def empty() -> Mapping[JobStatus, int]:
    """Return no jobs in any status."""
    return dict.fromkeys(JobStatus, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One workflow: its jobs by id, in the order of submission.

    What follows the graph is derived from the jobs and kept beside them (see `standing`), so that an event need not
    look at all of them. A set of jobs is an integer: the job with turn n is its bit n.
    """

    workflow_id: str
    user_id: str
    name: str
    submitted_at: datetime
    jobs: Mapping[str, Job]
    submitted: int = 0
    """How many of the jobs came with the submission; the others were added."""
    policies: Mapping[str, BranchPolicy] = field(default_factory=dict)
    """What the user chose for a branch; the others halt."""
    graph: Graph
    by_status: Mapping[JobStatus, int] = field(default_factory=empty)
    """The jobs in each status."""
    ready: int = 0
    """The pending jobs that only wait for capacity or for their retry time."""
    doomed: int = 0
    """The pending jobs that are to be skipped. None outlives the append that doomed it."""

    @property
    def next_turn(self) -> int:
        """The turn of the next job that joins a line."""
        return len(self.graph.turns)

    def policy(self, branch: str) -> BranchPolicy:
        """Return what a failure means in this branch, never UNSPECIFIED."""
        return self.policies.get(branch, BranchPolicy.HALT)

    def at_turn(self, turn: int) -> Job:
        """Return the job with this turn; raises KeyError if there is none."""
        return self.jobs[self.graph.turns[turn]]
