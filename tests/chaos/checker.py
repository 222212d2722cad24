"""What is left of a campaign, judged from the log and the artifacts alone.

Promises: names every job that was lost, run twice to an effect, or ended with other cells than an undisturbed run;
every acknowledged command that the log does not know; every moment at which the law did not hold; every file that is
not what its event says. Refuses: to ask the services, which may all be wrong in the same way.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from microtome.contracts.messages import (
    JobCancelled,
    JobResult,
    JobSpec,
    JobStarted,
    JobSucceeded,
    JobType,
    WorkflowSubmitted,
)
from microtome.eventlog.log import StoredEvent
from tests.acceptance import laws
from tests.acceptance.bare import Cells, cells_in


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """What the API said yes to."""

    workflows: Mapping[str, str]
    """Workflow id → its user."""
    cancelled: frozenset[str]
    """Job ids."""


@dataclass
class Verdict:
    """What was found; a clean campaign has no faults."""

    jobs: int = 0
    succeeded: int = 0
    cancelled: int = 0
    attempts: int = 0
    cells_compared: int = 0
    faults: list[str] = field(default_factory=list)


def judge(
    events: Sequence[StoredEvent],
    artifacts: Path,
    acknowledged: Acknowledged,
    undisturbed: Mapping[str, Cells],
    *,
    max_workers: int,
    max_active_users: int,
) -> Verdict:
    """Judge a campaign that has come to its end. `undisturbed`: slide id → its cells."""
    verdict = Verdict()
    try:
        laws.check(events, max_workers=max_workers, max_active_users=max_active_users)
    except laws.Broken as broken:
        verdict.faults.append(f"the law was broken: {broken}")
    jobs = _jobs(events)
    for workflow_id in acknowledged.workflows.keys() - {workflow for workflow, _ in jobs.values()}:
        verdict.faults.append(f"workflow {workflow_id} was acknowledged and is not in the log")
    ends = _ends(events)
    for job_id, (_, spec) in jobs.items():
        _judge_job(verdict, job_id, spec, ends.get(job_id, []), acknowledged, artifacts, undisturbed)
    verdict.jobs = len(jobs)
    verdict.attempts = sum(1 for event in events if isinstance(event.message, JobStarted))
    _judge_ids(verdict, events)
    return verdict


def _jobs(events: Iterable[StoredEvent]) -> dict[str, tuple[str, JobSpec]]:
    return {
        spec.job_id: (event.message.workflow_id, spec)
        for event in events
        if isinstance(event.message, WorkflowSubmitted)
        for spec in event.message.jobs
    }


def _ends(events: Iterable[StoredEvent]) -> dict[str, list[JobSucceeded | JobCancelled]]:
    ends: dict[str, list[JobSucceeded | JobCancelled]] = {}
    for event in events:
        if isinstance(event.message, (JobSucceeded, JobCancelled)):
            ends.setdefault(event.message.job_id, []).append(event.message)
    return ends


def _judge_job(
    verdict: Verdict,
    job_id: str,
    spec: JobSpec,
    ends: Sequence[JobSucceeded | JobCancelled],
    acknowledged: Acknowledged,
    artifacts: Path,
    undisturbed: Mapping[str, Cells],
) -> None:
    def fault(text: str) -> None:
        verdict.faults.append(f"job {job_id} ({spec.key}): {text}")

    if len(ends) != 1:
        fault("was lost" if not ends else f"ended {len(ends)} times")
        return
    (end,) = ends
    if isinstance(end, JobCancelled):
        verdict.cancelled += 1
        if list((artifacts / job_id).glob("[0-9]*")):
            fault("is cancelled and left artifacts")
        if job_id not in acknowledged.cancelled:
            fault("is cancelled, and nobody asked for it")
        return
    if job_id in acknowledged.cancelled:
        fault("succeeded although its cancellation was acknowledged")
    verdict.succeeded += 1
    folder = artifacts / job_id / str(end.attempt)
    kept = {path.name for path in (artifacts / job_id).iterdir()} if (artifacts / job_id).is_dir() else set()
    if kept != {str(end.attempt)}:
        fault(f"left the folders {sorted(kept)}, and attempt {end.attempt} succeeded")
    assert end.result is not None
    if _judge_files(fault, folder, end.result) and spec.type is not JobType.TISSUE_MASK:
        found, _ = cells_in(folder / "cells.parquet")
        verdict.cells_compared += len(found)
        if found != undisturbed[spec.slide_id]:
            fault(f"found {len(found)} cells that are not the {len(undisturbed[spec.slide_id])} of an undisturbed run")


def _judge_files(fault, folder: Path, result: JobResult) -> bool:
    good = True
    for artifact in result.artifacts:
        path = folder / artifact.name
        if not path.is_file():
            fault(f"{artifact.name} is missing")
            good = False
        elif hashlib.sha256(path.read_bytes()).hexdigest() != artifact.sha256:
            fault(f"{artifact.name} is not what the log says")
            good = False
    return good


def _judge_ids(verdict: Verdict, events: Iterable[StoredEvent]) -> None:
    twice = [event_id for event_id, count in Counter(event.event_id for event in events).items() if count > 1]
    verdict.faults += [f"event {event_id} is in the log twice" for event_id in twice]
