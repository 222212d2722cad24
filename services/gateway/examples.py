"""Examples of what is sent and answered, one story through the whole API: Ada has cells segmented on one slide.

Promises: every example is valid by the schema that it illustrates; a test sees to it. Refuses: to be complete; the
schemas are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Json = dict[str, Any]

SLIDE_ID = "7f0f2f0e-4c8c-4b0e-9d5e-2f4b1b8a6c11"
WORKFLOW_ID = "3d6f4f51-8f9e-4a2b-8c3d-5e6f7a8b9c0d"
MASK_ID = "b1c2d3e4-0000-5a6b-8c7d-111111111111"
CELLS_ID = "b1c2d3e4-0000-5a6b-8c7d-222222222222"
UPLOAD_ID = "5a1c7d0e-93f2-4b6a-a8d4-0c1e2f3a4b5c"
_SHA256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
_SUBMITTED = "2026-11-22T09:30:00.120000Z"
_STARTED = "2026-11-22T09:30:02.480000Z"
_FINISHED = "2026-11-22T09:31:07.950000Z"

SLIDE: Json = {
    "id": SLIDE_ID,
    "filename": "CMU-1.svs",
    "size_bytes": 177552579,
    "sha256": _SHA256,
    "vendor": "aperio",
    "width": 46000,
    "height": 32914,
    "mpp": 0.499,
    "mpp_source": "vendor",
    "objective_power": 20.0,
    "stain": "brightfield",
    "levels": [
        {"width": 46000, "height": 32914, "downsample": 1.0},
        {"width": 11500, "height": 8228, "downsample": 4.0001},
    ],
    "notes": [],
    "registered_at": "2026-11-22T09:28:41.002000Z",
}

_ARTIFACTS = [
    {
        "name": "cells.parquet",
        "media_type": "application/vnd.apache.parquet",
        "size_bytes": 48211907,
        "sha256": _SHA256,
        "url": f"/api/v1/jobs/{CELLS_ID}/artifacts/cells.parquet",
    },
    {
        "name": "overlay.jpg",
        "media_type": "image/jpeg",
        "size_bytes": 391044,
        "sha256": _SHA256,
        "url": f"/api/v1/jobs/{CELLS_ID}/artifacts/overlay.jpg",
    },
]
_RESULT: Json = {
    "tiles_total": 2280,
    "tiles_skipped": 1710,
    "tiles_processed": 570,
    "tiles_cached": 0,
    "cells": 214903,
    "tissue_mm2": 78.4,
    "cells_per_mm2": 2741.1,
    "engine": "onnxruntime-cpu",
    "model": "embedded",
    "stage_seconds": {"plan": 2.1, "infer": 58.7, "merge": 4.6},
    "notes": [],
    "artifacts": _ARTIFACTS,
}
_PARAMETERS: Json = {
    "mpp": None,
    "assume_mpp": None,
    "tile_size": None,
    "halo": None,
    "batch_size": None,
    "model": None,
    "stain": None,
    "region": None,
    "normalisation": None,
    "tissue": None,
}
_MASK: Json = {
    "id": MASK_ID,
    "workflow_id": WORKFLOW_ID,
    "key": "mask",
    "type": "TISSUE_MASK",
    "slide_id": SLIDE_ID,
    "branch": "main",
    "depends_on": [],
    "parameters": _PARAMETERS,
    "status": "RUNNING",
    "draft": False,
    "attempt": 1,
    "preemptions": 0,
    "stage": "plan",
    "expected_tiles": 1,
    "tiles_total": None,
    "tiles_processed": 0,
    "tiles_skipped": 0,
    "cells": None,
    "progress": 0.0,
    "waiting_for": None,
    "cause_job_id": None,
    "error": None,
    "created_at": _SUBMITTED,
    "started_at": _STARTED,
    "finished_at": None,
    "artifacts_deleted_at": None,
    "result": None,
}
JOB: Json = {
    **_MASK,
    "id": CELLS_ID,
    "key": "cells",
    "type": "INSTANSEG_WSI",
    "depends_on": [MASK_ID],
    "parameters": {**_PARAMETERS, "region": {"x": 4096, "y": 8192, "width": 20000, "height": 16000}},
    "status": "PENDING",
    "attempt": 0,
    "stage": None,
    "expected_tiles": 480,
    "waiting_for": {
        "kind": "dependency",
        "job_id": MASK_ID,
        "position": None,
        "until": None,
        "estimated_start": "2026-11-22T09:30:06Z",
        "detail": "Waits for job 'mask', which it depends on.",
    },
    "started_at": None,
}
WORKFLOW: Json = {
    "id": WORKFLOW_ID,
    "name": "CMU-1, upper half",
    "status": "RUNNING",
    "percent_complete": 0.0,
    "created_at": _SUBMITTED,
    "finished_at": None,
    "position": "7741:1093",
    "branches": [{"name": "main", "policy": "skip"}],
    "jobs": [_MASK, JOB],
}
_LIMITS: Json = {
    "max_workers": 4,
    "max_active_users": 3,
    "max_attempts": 5,
    "seat_tenure_seconds": None,
    "slice_seconds": 60.0,
    "max_upload_bytes": 68719476736,
    "max_body_bytes": 4194304,
    "user_quota_bytes": None,
    "upload_expiry_seconds": 86400.0,
    "rate_burst": 10,
    "rate_refill_per_s": 1.0,
    "max_pending_jobs": 10000,
    "max_in_flight": 128,
    "max_live_clients": 2000,
    "max_live_clients_per_user": 50,
    "max_open_uploads": 100,
    "max_jobs_per_request": 1000,
    "tile_size": 1024,
    "halo": 96,
    "halo_min": 96,
    "batch_size": 2,
    "model": "embedded",
    "model_mpp": 0.5,
}
_EVENT: Json = {
    "position": "7741:1093",
    "type": "JobStarted",
    "workflow_id": WORKFLOW_ID,
    "job_id": MASK_ID,
    "at": _STARTED,
    "data": {"jobId": MASK_ID, "attempt": 1, "slot": 0},
}

# By the name of the view that an operation answers with.
VIEWS: Mapping[str, Any] = {
    "Problem": {
        "type": "urn:microtome:problem:unknown-mpp",
        "title": "Pixel size unknown",
        "status": 422,
        "detail": "Job 'cells': plain.png does not say how large its pixels are. Give parameters.mpp (µm per pixel, if "
        "you know it) or parameters.assume_mpp (if you assume it), or give them at upload.",
        "instance": "/api/v1/workflows",
        "code": "unknown-mpp",
        "transient": False,
        "errors": [],
    },
    "Health": {"status": "ok"},
    "Status": {
        "version": "0.1.0",
        "limits": _LIMITS,
        "services": [{"name": "postgres", "state": "ok", "detail": "answers"}],
        "active_users": ["ada"],
        "waiting_users": ["grace"],
        "running_jobs": 1,
        "engine": "onnxruntime-cpu",
        "model": "embedded",
    },
    "Slide": SLIDE,
    "SlidePage": {"items": [SLIDE], "next_cursor": None},
    "AssociatedPicture": {
        "name": "label",
        "width": 387,
        "height": 463,
        "url": f"/api/v1/slides/{SLIDE_ID}/associated/label",
    },
    "UploadView": {
        "id": UPLOAD_ID,
        "filename": "CMU-1.svs",
        "size_bytes": 177552579,
        "url": f"/api/v1/uploads/{UPLOAD_ID}",
        "offset": 67108864,
        "state": "receiving",
        "created_at": "2026-11-22T09:26:00Z",
        "expires_at": "2026-11-23T09:27:30Z",
        "slide_id": None,
        "problem": None,
    },
    "Workflow": WORKFLOW,
    "WorkflowPage": {"items": [WORKFLOW], "next_cursor": "WzE3NjM4MDM4MDAxMjAwMDAsIjNkNmY0ZjUxIl0"},
    "Job": JOB,
    "JobPage": {"items": [JOB, _MASK], "next_cursor": None},
    "Artifact": _ARTIFACTS[0],
    "Manifest": {
        "job_id": CELLS_ID,
        "workflow_id": WORKFLOW_ID,
        "slide_id": SLIDE_ID,
        "type": "INSTANSEG_WSI",
        "attempt": 1,
        "finished_at": _FINISHED,
        "artifacts_deleted_at": None,
        "summary": {"cells": 214903, "tissue_mm2": 78.4, "cells_per_mm2": 2741.1},
        "result": _RESULT,
        "artifacts": _ARTIFACTS,
        "archive_url": f"/api/v1/jobs/{CELLS_ID}/artifacts.zip",
    },
    "Cells": {
        "count": 1,
        "returned": 1,
        "sampled": False,
        "outlines": [[4101.5, 8200.0, 4110.0, 8204.5, 4106.0, 8213.0, 4099.0, 8209.5]],
    },
    "Log": {
        "items": [
            {
                "id": "1:1",
                "attempt": 1,
                "time": "2026-11-22T09:30:02.611Z",
                "level": "info",
                "service": "tiler",
                "message": "2280 tiles, 1710 of them without tissue",
                "about": {"tiles": 2280},
            }
        ],
        "next_cursor": None,
    },
    "PastEventPage": {"items": [_EVENT], "next_cursor": None},
    "Timeline": {
        "job_id": CELLS_ID,
        "workflow_id": WORKFLOW_ID,
        "user_id": "ada",
        "key": "cells",
        "type": "INSTANSEG_WSI",
        "branch": "main",
        "status": "SUCCEEDED",
        "created_at": _SUBMITTED,
        "finished_at": _FINISHED,
        "as_of": _FINISHED,
        "waited_seconds": {"dependency": 2.36},
        "phases": [
            {
                "kind": "dependency",
                "detail": "Waits for job 'mask', which it depends on.",
                "job_id": MASK_ID,
                "position": None,
                "attempt": None,
                "since": _SUBMITTED,
                "until": _STARTED,
                "seconds": 2.36,
            }
        ],
        "attempts": [
            {
                "number": 1,
                "slot": 0,
                "started_at": _STARTED,
                "planned_at": "2026-11-22T09:30:04.590000Z",
                "ended_at": _FINISHED,
                "seconds": 65.47,
                "outcome": "succeeded",
                "detail": "",
                "tiles_total": 2280,
                "tiles_skipped": 1710,
                "workers": ["tiler", "merger"],
            }
        ],
        "stage_seconds": {"plan": 2.1, "infer": 58.7, "merge": 4.6},
    },
    "Users": {
        "active": [{"id": "ada", "seat": 0, "since": _STARTED, "running_jobs": 1}],
        "waiting": [{"id": "grace", "position": 1}],
    },
    "Me": {
        "id": "ada",
        "state": "active",
        "seat": 0,
        "active_since": _STARTED,
        "position": None,
        "running_jobs": 1,
        "pending_jobs": 1,
        "limits": {
            "max_upload_bytes": 68719476736,
            "quota_bytes": None,
            "max_unfinished_jobs": 10000,
            "submissions_burst": 10,
            "submissions_per_second": 1.0,
        },
        "usage": {
            "slides": 1,
            "slide_bytes": 177552579,
            "artifact_bytes": 48602951,
            "upload_bytes": 0,
            "drawn_bytes": 20480,
            "bytes_stored": 226155530,
            "workflows": 1,
            "jobs": {"DRAFT": 0, "PENDING": 1, "RUNNING": 1, "SUCCEEDED": 0},
        },
        "submissions": {"limit": 10, "remaining": 9, "full_in_seconds": 0.4},
    },
}

_JOB_IN: Json = {
    "key": "cells",
    "type": "INSTANSEG_WSI",
    "slide_id": SLIDE_ID,
    "depends_on": ["mask"],
    "parameters": {"region": {"x": 4096, "y": 8192, "width": 20000, "height": 16000}},
}
# By the name of the document that an operation takes.
DOCUMENTS: Mapping[str, Any] = {
    "WorkflowIn": {
        "name": "CMU-1, upper half",
        "branches": [{"name": "main", "policy": "skip"}],
        "jobs": [{"key": "mask", "type": "TISSUE_MASK", "slide_id": SLIDE_ID}, _JOB_IN],
    },
    "JobsIn": {"jobs": [{**_JOB_IN, "key": "again", "parameters": {"overlap": 128}, "draft": True}]},
    "JobIn": {**_JOB_IN, "key": "again"},
    "WorkflowJobIn": {"workflow_id": WORKFLOW_ID, **_JOB_IN, "key": "again"},
}
# By the media type of what is neither JSON nor a picture.
TEXTS: Mapping[str, str] = {
    "text/event-stream": "id: 7741:1093\nevent: event\n"
    f'data: {{"kind":"event","type":"JobStarted","job_id":"{MASK_ID}"}}\n\n',
    "text/plain": "2026-11-22T09:30:02.611Z INFO    tiler attempt 1: 2280 tiles, 1710 of them without tissue\n",
    "application/xml": '<?xml version="1.0" encoding="UTF-8"?><Image TileSize="254" Overlap="1" Format="jpeg"/>',
}
# By the name of the parameter.
PARAMETERS: Mapping[str, Any] = {
    "X-User-ID": "ada",
    "Idempotency-Key": "2026-11-22-cmu-1",
    "Last-Event-ID": "7741:1093",
    "Tus-Resumable": "1.0.0",
    "Upload-Length": "177552579",
    "Upload-Offset": "67108864",
    "Upload-Metadata": "filename Q01VLTEuc3Zz",
    "Upload-Checksum": "sha256 n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=",
    "after": "7741:1093",
    "assume_mpp": 0.5,
    "at": "2026-11-22T09:30:30Z",
    "attempt": 1,
    "bbox": "4096,8192,5120,9216",
    "branch": "main",
    "column": 3,
    "cursor": "WzE3NjM4MDM4MDAxMjAwMDAsIjNkNmY0ZjUxIl0",
    "filename": "CMU-1.svs",
    "format": "jpeg",
    "job_id": CELLS_ID,
    "level": 12,
    "limit": 50,
    "mpp": 0.499,
    "name": "cells",
    "row": 5,
    "sha256": _SHA256,
    "size": 512,
    "slide_id": SLIDE_ID,
    "status": "RUNNING",
    "upload_id": UPLOAD_ID,
    "user": "ada",
    "workflow_id": WORKFLOW_ID,
}
