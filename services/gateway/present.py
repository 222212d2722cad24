"""From what is known to what is shown: domain values become the API's documents.

Promises: the same facts give the same document, and each has the fields that `views` describes; progress that nobody
has reported is what the facts alone prove. Refuses: to fetch anything. Documents are plain values and not the
models of `views`: a workflow may have a thousand jobs, and checking what was made here would cost more than making it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from microtome.contracts import messages
from microtome.contracts.messages import JobType, MppSource, Stain
from microtome.domain import workflow as workflows
from microtome.domain.scheduling import Waiting
from microtome.domain.state import Job, JobStatus, Workflow
from microtome.leases.lease import Standing
from microtome.readmodels.queries import SlideRecord, WorkflowRecord
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
    jobs = [job(state, each, waiting.get(job_id), standings.get(job_id)) for job_id, each in state.jobs.items()]
    return {
        "id": state.workflow_id,
        "name": state.name,
        "status": workflows.status(state).value,
        "percent_complete": percent_complete(state, jobs),
        "created_at": state.submitted_at,
        "finished_at": workflows.finished_at(state),
        "position": str(record.cursor),
        "jobs": jobs,
    }


def percent_complete(state: Workflow, jobs: Iterable[Mapping[str, Any]]) -> float:
    """How much of the work is done, 0 to 100: each job counts by its tiles (planned, else expected; at least one)."""
    work = done = 0.0
    for each in jobs:
        tiles = max(1, (each["tiles_total"] or 0) - each["tiles_skipped"] or state.jobs[each["id"]].spec.expected_tiles)
        work += tiles
        # Of what was given up nothing is left to do, however far it came.
        done += tiles * (1.0 if each["status"] in _GIVEN_UP else each["progress"])
    return round(100 * done / work, 1) if work else 0.0


def job(state: Workflow, job: Job, waiting: Waiting | None, standing: Standing | None) -> dict[str, Any]:
    """A `views.Job`: one job of a workflow."""
    if standing is not None and (job.status is not JobStatus.RUNNING or standing.attempt != job.attempt):
        standing = None
    counts = _counts(job, standing)
    spec = job.spec
    return {
        "id": spec.job_id,
        "workflow_id": state.workflow_id,
        "key": spec.key,
        "type": _TYPES[spec.type],
        "slide_id": spec.slide_id,
        "branch": spec.branch,
        "depends_on": spec.depends_on,
        "parameters": _parameters(spec.parameters),
        "status": job.status.value,
        "attempt": job.attempt,
        "stage": _stage(job, standing),
        "tiles_total": counts.tiles_total,
        "tiles_processed": counts.tiles_processed,
        "tiles_skipped": counts.tiles_skipped,
        "cells": counts.cells,
        "progress": _fraction(job, counts),
        "waiting_for": _waiting(waiting) if job.status is JobStatus.PENDING else None,
        "error": _error(job),
        "created_at": state.submitted_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
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
    if to_do <= 0 or job.status is JobStatus.PENDING:
        return 0.0
    return round(0.99 * min(1.0, counts.tiles_processed / to_do), 4)


def _parameters(chosen: messages.JobParameters | None) -> dict[str, Any]:
    chosen = chosen or _NOTHING_CHOSEN
    return {
        "mpp": chosen.mpp,
        "assume_mpp": chosen.assume_mpp,
        "tile_size": chosen.tile_size,
        "halo": chosen.halo,
        "batch_size": chosen.batch_size,
        "model": chosen.model,
    }


def _waiting(waiting: Waiting | None) -> dict[str, Any]:
    if waiting is None:
        detail = "The scheduler has not looked at this job yet."
        return {"kind": "worker", "job_id": None, "position": None, "until": None, "detail": detail}
    return {
        "kind": waiting.kind,
        "job_id": waiting.job_id,
        "position": waiting.position,
        "until": waiting.until,
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


def artifacts(job: Job) -> list[views.Artifact]:
    """The files of a job that succeeded, none before."""
    files = job.result.artifacts if job.result is not None else ()
    return [views.Artifact(**_artifact(job, artifact)) for artifact in files]


def _artifact(job: Job, artifact: messages.Artifact) -> dict[str, Any]:
    return {
        "name": artifact.name,
        "media_type": artifact.media_type,
        "size_bytes": artifact.size_bytes,
        "sha256": artifact.sha256,
        "url": f"/api/v1/jobs/{job.job_id}/artifacts/{quote(artifact.name)}",
    }
