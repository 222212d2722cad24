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
StatusName = Literal["DRAFT", "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED"]
WorkflowStatusName = Literal["PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELLED"]
PolicyName = Literal["halt", "skip", "continue"]
StainingName = Literal["he", "hdab"]
StageName = Literal["queued", "plan", "infer", "merge"]
WaitingKind = Literal["dependency", "branch", "seat", "worker", "retry", "halted", "draft"]


class View(BaseModel):
    """Base of all answers: immutable."""

    model_config = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class FieldProblem(View):
    """What is wrong with one field of a request."""

    field: str
    detail: str


class Problem(View):
    """An error, by RFC 9457; some kinds say more, in members of their own."""

    model_config = ConfigDict(extra="allow")

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
    estimated_start: datetime | None = Field(description="When it will start, as far as rates of work are known.")
    detail: str


class JobError(View):
    """Why a job failed, or what went wrong in its last attempt."""

    code: str
    detail: str
    transient: bool


class Region(View):
    """A half-open rectangle of level-0 pixels."""

    x: int
    y: int
    width: int
    height: int


class Normalisation(View):
    """Intensities (0 to 255) that become 0 and 1, of red, green and blue."""

    low: list[float]
    high: list[float]


class DrawnTissue(View):
    """What the user drew as tissue; the job's file tissue_drawn.geojson has it."""

    sha256: str
    polygons: int
    vertices: int


class Parameters(View):
    """What the user chose for a job; null means the server's default."""

    mpp: float | None
    assume_mpp: float | None
    tile_size: int | None
    halo: int | None
    batch_size: int | None
    model: str | None
    stain: StainingName | None
    region: Region | None = Field(description="The part of the slide, in level-0 pixels; null: all of it.")
    normalisation: Normalisation | None
    tissue: DrawnTissue | None = Field(description="What counts as tissue; null: what is found.")


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
    draft: bool = Field(description="Whether you have not started it yet.")
    attempt: int = Field(description="The attempt that runs or ran last; 0 before the first.")
    preemptions: int = Field(description="Attempts that gave up their worker to a user who had none.")
    stage: StageName | None
    expected_tiles: int = Field(description="Tiles by the size of the slide or region, known before the plan.")
    tiles_total: int | None = Field(description="Tiles as planned, with those that hold no tissue.")
    tiles_processed: int
    tiles_skipped: int
    cells: int | None
    progress: float = Field(ge=0, le=1)
    waiting_for: WaitingFor | None
    cause_job_id: str | None = Field(description="The job because of which this one was skipped.")
    error: JobError | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    artifacts_deleted_at: datetime | None
    result: JobResult | None


class Branch(View):
    """A branch and what the failure of one of its jobs means for the later ones."""

    name: str
    policy: PolicyName


class Workflow(View):
    """A workflow with all its jobs."""

    id: str
    name: str
    status: WorkflowStatusName
    percent_complete: float = Field(ge=0, le=100, description="By tiles: a large job counts more than a small one.")
    created_at: datetime
    finished_at: datetime | None
    position: str = Field(description="Place in the log of the newest fact in this answer, xid:position.")
    branches: list[Branch]
    jobs: list[Job]


class WorkflowPage(View):
    """A part of the list of workflows."""

    items: list[Workflow]
    next_cursor: str | None = Field(description="Give it as `cursor` for what follows; null at the end.")


class JobPage(View):
    """A part of the list of jobs."""

    items: list[Job]
    next_cursor: str | None = Field(description="Give it as `cursor` for what follows; null at the end.")


class Manifest(View):
    """What a finished job made: its summary and its files with their checksums."""

    job_id: str
    workflow_id: str
    slide_id: str
    type: JobTypeName
    attempt: int
    finished_at: datetime
    artifacts_deleted_at: datetime | None
    summary: dict[str, Any] | None = Field(description="summary.json; null once the files were deleted.")
    result: JobResult
    artifacts: list[Artifact]
    archive_url: str = Field(description="All files in one zip.")


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
    """What this installation accepts and how much runs at once: every limit that its operator can choose."""

    max_workers: int = Field(description="MAX_WORKERS: jobs that run at once.")
    max_active_users: int = Field(description="MAX_ACTIVE_USERS: users whose jobs run at the same time.")
    max_attempts: int = Field(description="MAX_ATTEMPTS: automatic attempts at one job.")
    seat_tenure_seconds: float | None = Field(
        description="SEAT_TENURE: how long a user stays active while others wait; null: until their work is done."
    )
    slice_seconds: float = Field(description="SLICE_SECONDS: how long a job keeps its worker while another user waits.")
    max_upload_bytes: int = Field(description="MAX_UPLOAD_BYTES: size of one slide.")
    max_body_bytes: int = Field(description="MAX_BODY_BYTES: size of a JSON body.")
    user_quota_bytes: int | None = Field(description="USER_QUOTA_BYTES: all that a user stores; null: no limit.")
    upload_expiry_seconds: float = Field(description="UPLOAD_EXPIRY_SECONDS: an idle resumable upload is forgotten.")
    rate_burst: int | None = Field(description="RATE_BURST: submissions at once; null: no limit.")
    rate_refill_per_s: float | None = Field(description="RATE_REFILL_PER_S: submissions per second after that.")
    max_pending_jobs: int | None = Field(description="MAX_PENDING_JOBS: unfinished jobs of a user; null: no limit.")
    max_in_flight: int = Field(description="MAX_IN_FLIGHT: requests that one process works on at once.")
    max_live_clients: int = Field(description="MAX_LIVE_CLIENTS: live views that one process keeps.")
    max_live_clients_per_user: int | None = Field(
        description="MAX_LIVE_CLIENTS_PER_USER: those of one user, in one process; null: no limit."
    )
    max_open_uploads: int | None = Field(
        description="MAX_OPEN_UPLOADS: resumable uploads that a user may have under way; null: no limit."
    )
    max_jobs_per_request: int = Field(description="Jobs in one submission.")
    tile_size: int = Field(description="TILE_SIZE: edge of a tile with its halo, model pixels.")
    halo: int = Field(description="TILE_OVERLAP: context on each side of a tile, model pixels.")
    halo_min: int = Field(description="The least halo that the model can do with.")
    batch_size: int = Field(description="BATCH_SIZE: tiles in one message.")
    model: str = Field(description="INSTANSEG_MODEL: the one model of this installation.")
    model_mpp: float = Field(description="µm per pixel that the model sees.")


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


class ActiveUser(View):
    """A user who holds a seat, so that their jobs may run."""

    id: str
    seat: int
    since: datetime
    running_jobs: int


class WaitingUser(View):
    """A user in line for a seat."""

    id: str
    position: int = Field(description="1 is next.")


class Users(View):
    """Who is active, by seat, and who waits, next first."""

    active: list[ActiveUser]
    waiting: list[WaitingUser]


class UserLimits(View):
    """What one user may do; null: as much as they like."""

    max_upload_bytes: int
    quota_bytes: int | None
    max_unfinished_jobs: int | None
    submissions_burst: int | None
    submissions_per_second: float | None


class Usage(View):
    """What a user has. Bytes are of files that are there."""

    slides: int
    slide_bytes: int
    artifact_bytes: int
    upload_bytes: int = Field(description="Promised to uploads under way; counts against the quota.")
    drawn_bytes: int = Field(description="Tissue that was drawn on slides; counts against the quota.")
    bytes_stored: int = Field(description="Slides and artifacts together.")
    workflows: int
    jobs: dict[str, int] = Field(description="Number of jobs by status.")


class Allowance(View):
    """What a user may submit now."""

    limit: int
    remaining: int
    full_in_seconds: float


class Me(View):
    """The user who asks."""

    id: str
    state: Literal["active", "waiting", "idle"] = Field(description="Holds a seat, is in line for one, or neither.")
    seat: int | None
    active_since: datetime | None
    position: int | None = Field(description="Place in line for a seat, 1 is next.")
    running_jobs: int
    pending_jobs: int
    limits: UserLimits
    usage: Usage
    submissions: Allowance | None = Field(description="null: submissions are not limited.")


Json = dict[str, Any]
