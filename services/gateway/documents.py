"""What a user may submit: the JSON of `POST /workflows`, checked for form.

Promises: numbers are in the ranges that the engine can work with; unknown fields are refused, so that a
misspelt parameter is never silently ignored. Refuses: nothing about the graph or the slides; that
is decided where slides are known.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from microtome.settings import BatchSize, TileOverlap, TileSize

MIN_CORE = 64
MAX_JOBS = 1000

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Mpp = Annotated[float, Field(ge=0.05, le=10, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ParametersIn(_Strict):
    """What a user may choose for a job. Absent means: the server's default."""

    mpp: Mpp | None = Field(default=None, description="µm per level-0 pixel, if you know it.")
    assume_mpp: Mpp | None = Field(default=None, description="µm per level-0 pixel, as an assumption that you choose.")
    tile_size: TileSize | None = Field(default=None, description="Edge with halo, model pixels.")
    halo: TileOverlap | None = Field(default=None, description="Context on each side, model pixels.")
    batch_size: BatchSize | None = Field(default=None, description="Tiles that the model takes at once.")
    model: ModelName | None = None

    @model_validator(mode="after")
    def _one_pixel_size(self) -> Self:
        if self.mpp is not None and self.assume_mpp is not None:
            raise ValueError("give mpp (you know it) or assume_mpp (you assume it), not both")
        return self


class JobIn(_Strict):
    """One job of a workflow."""

    key: Key = Field(description="Your name for the job, unique in the workflow.")
    type: str = Field(max_length=64, description="TISSUE_MASK, SEGMENT_CELLS or INSTANSEG_WSI.")
    slide_id: str = Field(max_length=64)
    branch: Key = Field(default="main", description="Jobs of one branch run one after the other, in this order.")
    depends_on: list[Key] = Field(default_factory=list, max_length=MAX_JOBS, description="Keys of other jobs.")
    parameters: ParametersIn = ParametersIn()


class WorkflowIn(_Strict):
    """A graph of jobs."""

    name: Name
    jobs: list[JobIn] = Field(min_length=1, max_length=MAX_JOBS)
