"""What the API answers with: the JSON shapes, as the OpenAPI document shows them.

Promises: snake_case, RFC 3339 times, every field always present (null where there is nothing to say).
Refuses: to hold logic; `present` fills these in.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MppSourceName = Literal["vendor", "resolution_tag", "user", "assumed", "unknown"]
StainName = Literal["brightfield", "fluorescence"]
JobTypeName = Literal["TISSUE_MASK", "SEGMENT_CELLS", "INSTANSEG_WSI"]
StatusName = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
StageName = Literal["queued", "plan", "infer", "merge"]
WaitingKind = Literal["dependency", "branch", "seat", "worker", "retry", "halted"]


class View(BaseModel):
    """Base of all answers: immutable."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class FieldProblem(View):
    """What is wrong with one field of a request."""

    field: str
    detail: str


class Problem(View):
    """An error, by RFC 9457."""

    type: str = Field(description="urn:microtome:problem:<code>")
    title: str
    status: int
    detail: str = Field(description="What is wrong and what to do.")
    instance: str
    code: str = Field(description="Stable name of the kind of error.")
    transient: bool = Field(description="Whether trying again can help.")
    errors: list[FieldProblem] = Field(default_factory=list)


class SlideLevel(View):
    """One resolution of a slide's pyramid, in pixels."""

    width: int
    height: int
    downsample: float


class Slide(View):
    """A stored slide. `mpp` is µm per level-0 pixel."""

    id: str
    filename: str
    size_bytes: int
    sha256: str
    vendor: str
    width: int
    height: int
    mpp: float | None
    mpp_source: MppSourceName
    objective_power: float | None
    stain: StainName
    levels: list[SlideLevel]
    notes: list[str]
    registered_at: datetime


class Artifact(View):
    """One file that a job produced."""

    name: str
    media_type: str
    size_bytes: int
    sha256: str
    url: str


class JobResult(View):
    """What came out of a job. Stage times are wall seconds."""

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


class WaitingFor(View):
    """Why a pending job has not started, and where it stands."""

    kind: WaitingKind
    job_id: str | None = Field(description="The job that it waits for.")
    position: int | None = Field(description="Place in line, 1 is next.")
    until: datetime | None = Field(description="When it is tried again.")
    detail: str


class JobError(View):
    """Why a job failed, or what went wrong in its last attempt."""

    code: str
    detail: str
    transient: bool


class Parameters(View):
    """What the user chose for a job; null means the server's default."""

    mpp: float | None
    assume_mpp: float | None
    tile_size: int | None
    halo: int | None
    batch_size: int | None
    model: str | None


class Job(View):
    """One job, its progress and its result."""

    id: str
    workflow_id: str
    key: str
    type: JobTypeName
    slide_id: str
    branch: str
    depends_on: list[str] = Field(description="Ids of jobs of the same workflow.")
    parameters: Parameters
    status: StatusName
    attempt: int
    stage: StageName | None
    tiles_total: int | None
    tiles_processed: int
    tiles_skipped: int
    cells: int | None
    progress: float = Field(ge=0, le=1)
    waiting_for: WaitingFor | None
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    result: JobResult | None


class Workflow(View):
    """A workflow with all its jobs."""

    id: str
    name: str
    status: StatusName
    percent_complete: float
    created_at: datetime
    finished_at: datetime | None
    position: str = Field(description="Place in the log of the newest fact in this answer, xid:position.")
    jobs: list[Job]


class Cells(View):
    """Outlines of cells in level-0 pixels, each `x0, y0, x1, y1, …`."""

    count: int = Field(description="Cells in the rectangle.")
    returned: int
    sampled: bool = Field(description="Whether only an even sample of them is returned.")
    outlines: list[list[float]]


class Health(View):
    """The gateway works and reaches the log."""

    status: Literal["ok"]


class Limits(View):
    """What this installation accepts and how much runs at once."""

    max_workers: int
    max_active_users: int
    max_attempts: int
    max_upload_bytes: int
    max_body_bytes: int
    tile_size: int
    halo: int
    batch_size: int


class ServiceSeen(View):
    """A part of the system and whether it answers; of workers, whether they were heard in the last 15 seconds."""

    name: str
    state: Literal["ok", "lagging", "silent", "unreachable", "unknown"]
    detail: str


class Status(View):
    """How the installation is doing."""

    version: str
    limits: Limits
    services: list[ServiceSeen]
    active_users: list[str] = Field(description="Users who hold a seat.")
    waiting_users: list[str] = Field(description="Users in line for a seat, next first.")
    running_jobs: int
    engine: str | None = Field(description="As last reported by a finished job; null before the first.")
    model: str


Json = dict[str, Any]
