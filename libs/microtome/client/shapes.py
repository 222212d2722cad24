"""The JSON shapes of the API as types.

Promises: names and units as the API documents them; pixels are level-0 pixels, `mpp` is µm per pixel.
Refuses: to check values at run time; the server's OpenAPI contract is where that is tested.
"""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

Status = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
FINISHED: frozenset[str] = frozenset({"SUCCEEDED", "FAILED", "CANCELLED"})


class Level(TypedDict):
    """One level of a slide's pyramid."""

    width: int
    height: int
    downsample: float


class Slide(TypedDict):
    """An uploaded slide."""

    id: str
    filename: str
    size_bytes: int
    sha256: str
    vendor: str
    width: int
    height: int
    mpp: float | None
    mpp_source: Literal["vendor", "resolution_tag", "user", "assumed", "unknown"]
    objective_power: float | None
    stain: Literal["brightfield", "fluorescence"]
    levels: list[Level]
    notes: list[str]
    registered_at: str


class JobRequest(TypedDict):
    """One job of a workflow to be created; `depends_on` names keys of other jobs."""

    key: str
    type: str
    slide_id: str
    branch: NotRequired[str]
    depends_on: NotRequired[list[str]]
    parameters: NotRequired[dict[str, Any]]


class Waiting(TypedDict):
    """Why a job has not started."""

    kind: Literal["dependency", "branch", "seat", "worker", "retry", "halted"]
    job_id: str | None
    position: int | None
    until: str | None
    detail: str


class JobError(TypedDict):
    """Why a job failed."""

    code: str
    detail: str
    transient: bool


class Artifact(TypedDict):
    """A file that a job made; `url` is relative to the server."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    url: str


class JobResult(TypedDict):
    """What a job found and what it cost."""

    tiles_total: int
    tiles_skipped: int
    tiles_processed: int
    tiles_cached: int
    cells: int | None
    tissue_mm2: float | None
    cells_per_mm2: float | None
    engine: str
    model: str
    stage_seconds: dict[str, float]
    notes: list[str]
    artifacts: list[Artifact]


class Job(TypedDict):
    """One job; `progress` is 0..1."""

    id: str
    workflow_id: str
    key: str
    type: str
    slide_id: str
    branch: str
    depends_on: list[str]
    parameters: dict[str, Any]
    status: Status
    attempt: int
    stage: Literal["queued", "plan", "infer", "merge"] | None
    tiles_total: int | None
    tiles_processed: int
    tiles_skipped: int
    cells: int | None
    progress: float
    waiting_for: Waiting | None
    error: JobError | None
    created_at: str
    started_at: str | None
    finished_at: str | None
    result: JobResult | None


class Workflow(TypedDict):
    """One workflow with its jobs; `position` is the log position it was read at."""

    id: str
    name: str
    status: Status
    percent_complete: float
    created_at: str
    finished_at: str | None
    position: str
    jobs: list[Job]


class LiveMessage(TypedDict):
    """A websocket message: `snapshot` has `workflow`, `event` has `type`, `progress` has the counters."""

    kind: Literal["snapshot", "event", "progress"]
    workflow: NotRequired[Workflow]
    position: NotRequired[str]
    type: NotRequired[str]
    job_id: NotRequired[str | None]
    at: NotRequired[str]
    data: NotRequired[dict[str, Any]]
    attempt: NotRequired[int]
    stage: NotRequired[str]
    tiles_processed: NotRequired[int]
    tiles_total: NotRequired[int | None]
    tiles_skipped: NotRequired[int]
    cells: NotRequired[int | None]
