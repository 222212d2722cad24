"""What is so: the state of one workflow and of its jobs.

Promises: frozen values; a new state shares with the old one whatever did not change.
Refuses: to decide anything; see `workflow`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from microtome.contracts.messages import JobPlanned, JobResult, JobSpec
from microtome.domain.graph import Graph


class JobStatus(StrEnum):
    """Where a job is in its life."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def terminal(self) -> bool:
        """Whether only the user can make anything more of the job."""
        return self in _TERMINAL


_TERMINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})


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
    """Place in the submission, from 0."""
    status: JobStatus = JobStatus.PENDING
    attempt: int = 0
    """The attempt that runs or ran last; 0 before the first. It only ever rises."""
    slot: int | None = None
    """The worker slot, while running."""
    failures: int = 0
    """Attempts that failed or were lost since the submission or the user's last retry."""
    not_before: datetime | None = None
    """A pending job starts no earlier than this."""
    error: JobError | None = None
    """Why an earlier attempt failed or was lost, until one succeeds or the user retries."""
    result: JobResult | None = None
    planned: JobPlanned | None = None
    """The plan of the current attempt."""
    started_at: datetime | None = None
    """When the current attempt began."""
    finished_at: datetime | None = None

    @property
    def job_id(self) -> str:
        """The global id."""
        return self.spec.job_id

    @property
    def key(self) -> str:
        """The user's name for the job."""
        return self.spec.key


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """One workflow: its jobs by id, in the order of submission."""

    workflow_id: str
    user_id: str
    name: str
    submitted_at: datetime
    jobs: Mapping[str, Job]
    graph: Graph
