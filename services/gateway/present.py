"""From what is known to what is shown: domain values become the API's documents.

Promises: the same facts give the same document, and each has the fields that `views` describes; progress that nobody
has reported is what the facts alone prove. Refuses: to fetch anything. Documents are plain values and not the
models of `views`: a workflow may have a thousand jobs, and checking what was made here would cost more than making it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from microtome.contracts import messages
from microtome.contracts.messages import BranchPolicy, JobType, MppSource, Stain, Staining
from microtome.domain import workflow as workflows
from microtome.domain.scheduling import Waiting
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.leases.lease import Standing
from microtome.readmodels.queries import JobRecord, SlideRecord, WorkflowRecord
from services.gateway import views

_SOURCES: Mapping[MppSource, views.MppSourceName] = {
    MppSource.VENDOR: "vendor",
    MppSource.RESOLUTION_TAG: "resolution_tag",
    MppSource.USER: "user",
    MppSource.ASSUMED: "assumed",
}
_TYPES: Mapping[JobType, views.JobTypeName] = {
    JobType.TISSUE_MASK: "TISSUE_MASK",
    JobType.SEGMENT_CELLS: "SEGMENT_CELLS",
    JobType.INSTANSEG_WSI: "INSTANSEG_WSI",
}
_POLICIES: Mapping[BranchPolicy, views.PolicyName] = {
    BranchPolicy.HALT: "halt",
    BranchPolicy.SKIP: "skip",
    BranchPolicy.CONTINUE: "continue",
}
_STAININGS: Mapping[Staining, views.StainingName] = {Staining.HE: "he", Staining.HDAB: "hdab"}
_WAITING = frozenset({JobStatus.PENDING, JobStatus.DRAFT})
_GIVEN_UP = frozenset({"CANCELLED", "SKIPPED"})
_NOTHING_CHOSEN = messages.JobParameters()


def slide(record: SlideRecord) -> views.Slide:
    """A slide as the API shows it."""
    facts = record.facts
    return views.Slide(
        id=facts.slide_id,
        filename=facts.filename,
        size_bytes=facts.size_bytes,
        sha256=facts.sha256,
        vendor=facts.vendor,
        width=facts.width,
        height=facts.height,
        mpp=facts.mpp,
        mpp_source=_SOURCES.get(facts.mpp_source, "unknown"),
        objective_power=facts.objective_power,
        stain="fluorescence" if facts.stain is Stain.FLUORESCENCE else "brightfield",
        levels=[
            views.SlideLevel(width=level.width, height=level.height, downsample=level.downsample)
            for level in facts.levels
        ],
        notes=list(facts.notes),
        registered_at=record.registered_at,
    )


def workflow(
    record: WorkflowRecord, waiting: Mapping[str, Waiting], standings: Mapping[str, Standing]
) -> dict[str, Any]:
    """A `views.Workflow` with its jobs. `waiting` and `standings` are by job id; what they lack is shown as unknown."""
    state = record.state
    jobs = [
        job(state.workflow_id, created_at(record, each), each, waiting.get(job_id), standings.get(job_id))
        for job_id, each in state.jobs.items()
    ]
    return {
        "id": state.workflow_id,
        "name": state.name,
        "status": workflows.status(state).value,
        "percent_complete": percent_complete(state, jobs),
        "created_at": state.submitted_at,
        "finished_at": workflows.finished_at(state),
        "position": str(record.cursor),
        "branches": _branches(state),
        "jobs": jobs,
    }


def _branches(state: Workflow) -> list[dict[str, str]]:
    """The branches in the order in which they first occur, each with its policy."""
    names = dict.fromkeys(job.spec.branch for job in state.jobs.values())
    return [{"name": name, "policy": _POLICIES[state.policy(name)]} for name in names]


def percent_complete(state: Workflow, jobs: Iterable[Mapping[str, Any]]) -> float:
    """How much of the work is done, 0 to 100: each job counts by its tiles (planned, else expected; at least one)."""
    work = done = 0.0
    for each in jobs:
        tiles = state.jobs[each["id"]].tiles
        work += tiles
        # Of what was given up nothing is left to do, however far it came.
        done += tiles * (1.0 if each["status"] in _GIVEN_UP else each["progress"])
    return round(100 * done / work, 1) if work else 0.0


def created_at(record: WorkflowRecord, job: Job) -> datetime:
    """When a job was submitted, or added to its workflow."""
    return record.added_at.get(job.job_id, record.state.submitted_at)


def job(
    workflow_id: str, created_at: datetime, job: Job, waiting: Waiting | None, standing: Standing | None
) -> dict[str, Any]:
    """A `views.Job`: one job of a workflow."""
    if standing is not None and (job.status is not JobStatus.RUNNING or standing.attempt != job.attempt):
        standing = None
    counts = _counts(job, standing)
    spec = job.spec
    return {
        "id": spec.job_id,
        "workflow_id": workflow_id,
        "key": spec.key,
        "type": _TYPES[spec.type],
        "slide_id": spec.slide_id,
        "branch": spec.branch,
        "depends_on": spec.depends_on,
        "parameters": _parameters(spec.parameters),
        "status": job.status.value,
        "draft": job.draft,
        "attempt": job.attempt,
        "preemptions": job.preemptions,
        "stage": _stage(job, standing),
        "expected_tiles": max(1, spec.expected_tiles),
        "tiles_total": counts.tiles_total,
        "tiles_processed": counts.tiles_processed,
        "tiles_skipped": counts.tiles_skipped,
        "cells": counts.cells,
        "progress": _fraction(job, counts),
        "waiting_for": _waiting(waiting, job) if job.status in _WAITING else None,
        "cause_job_id": job.cause_job_id,
        "error": _error(job),
        "created_at": created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "artifacts_deleted_at": job.artifacts_deleted_at,
        "result": None if job.result is None else _result(job, job.result),
    }


@dataclass(frozen=True, slots=True)
class _Counts:
    tiles_total: int | None = None
    tiles_processed: int = 0
    tiles_skipped: int = 0
    cells: int | None = None


def _counts(job: Job, standing: Standing | None) -> _Counts:
    if job.result is not None:
        result = job.result
        return _Counts(result.tiles_total, result.tiles_processed, result.tiles_skipped, result.cells)
    planned = job.planned
    total = planned.tiles_total if planned is not None else None
    skipped = planned.tiles_skipped if planned is not None else 0
    if standing is None:
        return _Counts(total, 0, skipped)
    progress = standing.progress
    cells = progress.cells if job.spec.type is not JobType.TISSUE_MASK else None
    # What was planned is a fact; a worker's report may be from before it.
    return _Counts(total if total is not None else progress.tiles_total, progress.tiles_processed, skipped, cells)


def _stage(job: Job, standing: Standing | None) -> views.StageName | None:
    if job.status is not JobStatus.RUNNING:
        return None
    if standing is not None:
        return standing.stage
    return "queued" if job.planned is None else "infer"


def _fraction(job: Job, counts: _Counts) -> float:
    """From 0 to 1; the merge is what is missing at 0.99."""
    if job.status is JobStatus.SUCCEEDED:
        return 1.0
    to_do = (counts.tiles_total or 0) - counts.tiles_skipped
    if to_do <= 0 or job.status in _WAITING:
        return 0.0
    return round(0.99 * min(1.0, counts.tiles_processed / to_do), 4)


def _parameters(chosen: messages.JobParameters | None) -> dict[str, Any]:
    chosen = chosen or _NOTHING_CHOSEN
    region, normalisation = chosen.region, chosen.normalisation
    return {
        "mpp": chosen.mpp,
        "assume_mpp": chosen.assume_mpp,
        "tile_size": chosen.tile_size,
        "halo": chosen.halo,
        "batch_size": chosen.batch_size,
        "model": chosen.model,
        "stain": _STAININGS.get(chosen.staining),
        "region": None if region is None else _region(region),
        "normalisation": None if normalisation is None else {"low": normalisation.low, "high": normalisation.high},
        "tissue": None if chosen.tissue is None else _drawn(chosen.tissue),
    }


def _drawn(tissue: messages.TissueOutline) -> dict[str, Any]:
    return {"sha256": tissue.sha256, "polygons": tissue.polygons, "vertices": tissue.vertices}


def _region(region: messages.Region) -> dict[str, int]:
    return {"x": region.x, "y": region.y, "width": region.width, "height": region.height}


def _waiting(waiting: Waiting | None, job: Job) -> dict[str, Any]:
    if waiting is None:
        draft = job.status is JobStatus.DRAFT
        waiting = Waiting(
            kind="draft" if draft else "worker",
            detail="A draft: start it." if draft else "The scheduler has not looked at this job yet.",
        )
    return {
        "kind": waiting.kind,
        "job_id": waiting.job_id,
        "position": waiting.position,
        "until": waiting.until,
        "estimated_start": waiting.estimated_start,
        "detail": waiting.detail,
    }


def _error(job: Job) -> dict[str, Any] | None:
    if job.error is None:
        return None
    return {"code": job.error.code, "detail": job.error.detail, "transient": job.error.transient}


def _result(job: Job, result: messages.JobResult) -> dict[str, Any]:
    return {
        "tiles_total": result.tiles_total,
        "tiles_skipped": result.tiles_skipped,
        "tiles_processed": result.tiles_processed,
        "tiles_cached": result.tiles_cached,
        "cells": result.cells,
        "tissue_mm2": result.tissue_mm2,
        "cells_per_mm2": result.cells_per_mm2,
        "engine": result.engine,
        "model": result.model,
        "stage_seconds": {stage.stage: stage.seconds for stage in result.stage_seconds},
        "notes": result.notes,
        "artifacts": [_artifact(job, artifact) for artifact in result.artifacts],
    }


def manifest(record: JobRecord, summary: dict[str, Any] | None) -> dict[str, Any]:
    """A `views.Manifest` of a job that succeeded; `summary` is what it wrote, None once its files are deleted."""
    job = record.job
    result = {} if job.result is None else _result(job, job.result)
    return {
        "job_id": job.job_id,
        "workflow_id": record.workflow_id,
        "slide_id": job.spec.slide_id,
        "type": _TYPES[job.spec.type],
        "attempt": job.attempt,
        "finished_at": job.finished_at,
        "artifacts_deleted_at": job.artifacts_deleted_at,
        "summary": summary,
        "result": result,
        "artifacts": result.get("artifacts", []),
        "archive_url": f"/api/v1/jobs/{job.job_id}/artifacts.zip",
    }


def artifacts(job: Job) -> list[dict[str, Any]]:
    """`views.Artifact` of each file of a job that succeeded, none before."""
    files = job.result.artifacts if job.result is not None else ()
    return [_artifact(job, artifact) for artifact in files]


def _artifact(job: Job, artifact: messages.Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "media_type": artifact.media_type,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "url": f"/api/v1/jobs/{job.job_id}/artifacts/{quote(artifact.name)}",
    }
