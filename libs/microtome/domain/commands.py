"""What somebody wants of a workflow: the commands that `workflow.decide` answers with events.

Promises: plain frozen values; whatever depends on the clock carries `now` (aware).
Refuses: to be facts. A command may be turned down, an event may not.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from microtome.contracts.messages import Branch, JobPlanned, JobResult, JobSpec


@dataclass(frozen=True, slots=True)
class Submit:
    """The user submits a graph of jobs. Ids are the caller's; `depends_on` holds job ids.

    `branches`: those for which the user chose a policy.
    """

    workflow_id: str
    user_id: str
    name: str
    jobs: tuple[JobSpec, ...]
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class AddJobs:
    """The user adds jobs; in their branches they come after those that are there. Policies are for new branches."""

    jobs: tuple[JobSpec, ...]
    branches: tuple[Branch, ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """The user starts a draft: it is pending and the last of its branch."""

    job_id: str


@dataclass(frozen=True, slots=True)
class ReleaseAll:
    """The user starts all drafts of the workflow."""


@dataclass(frozen=True, slots=True)
class Start:
    """The scheduler begins the next attempt in a worker slot; seats, slots and retry times are its to keep."""

    job_id: str
    slot: int


@dataclass(frozen=True, slots=True)
class ReportPlanned:
    """The tiler says what there is to do."""

    planned: JobPlanned


@dataclass(frozen=True, slots=True)
class ReportSuccess:
    """The merger says that all artifacts of this attempt are in place."""

    job_id: str
    attempt: int
    result: JobResult


@dataclass(frozen=True, slots=True)
class ReportFailure:
    """A worker says that this attempt failed; with `transient`, trying again can help."""

    job_id: str
    attempt: int
    code: str
    detail: str
    transient: bool
    now: datetime


@dataclass(frozen=True, slots=True)
class LoseAttempt:
    """The scheduler says that this attempt's lease expired."""

    job_id: str
    attempt: int
    owner: str
    reason: str


@dataclass(frozen=True, slots=True)
class Preempt:
    """The scheduler takes this attempt's slot for a user who has none; its finished tiles stay."""

    job_id: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """The user wants no more of this job."""

    job_id: str


@dataclass(frozen=True, slots=True)
class CancelWorkflow:
    """The user wants no more of whatever has not ended yet."""


@dataclass(frozen=True, slots=True)
class Retry:
    """The user wants a new attempt at a failed, cancelled or skipped job, and at what was skipped because of it."""

    job_id: str


@dataclass(frozen=True, slots=True)
class RetryFailed:
    """The user wants a new attempt at every failed job."""


@dataclass(frozen=True, slots=True)
class DeleteArtifacts:
    """The user wants the files of a finished job deleted; its result stays known."""

    job_id: str


Command: TypeAlias = (
    Submit
    | AddJobs
    | Release
    | ReleaseAll
    | Start
    | ReportPlanned
    | ReportSuccess
    | ReportFailure
    | LoseAttempt
    | Preempt
    | Cancel
    | CancelWorkflow
    | Retry
    | RetryFailed
    | DeleteArtifacts
)
