"""One workflow: `decide` turns a command into events, `evolve` turns an event into the next state.

The front door: everything about one workflow under one name. Where it is done: `decisions` (with `growth` and
`retrying`), `evolution`, `eligibility` (what may run), `standing` (what is kept to answer that fast).
"""

from __future__ import annotations

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
from microtome.domain.decisions import backoff, check_attempt, decide
from microtome.domain.eligibility import finished_at, halted, runnable_work_left, startable, status
from microtome.domain.evolution import evolve
from microtome.domain.limits import Limits
from microtome.domain.standing import restored
from microtome.domain.state import Job, JobError, JobStatus, Workflow, WorkflowStatus

__all__ = [
    "AddJobs",
    "Cancel",
    "CancelWorkflow",
    "Command",
    "DeleteArtifacts",
    "Job",
    "JobError",
    "JobStatus",
    "Limits",
    "LoseAttempt",
    "Preempt",
    "Release",
    "ReleaseAll",
    "ReportFailure",
    "ReportPlanned",
    "ReportSuccess",
    "Retry",
    "RetryFailed",
    "Start",
    "Submit",
    "Workflow",
    "WorkflowStatus",
    "backoff",
    "check_attempt",
    "decide",
    "evolve",
    "finished_at",
    "halted",
    "restored",
    "runnable_work_left",
    "startable",
    "status",
]
