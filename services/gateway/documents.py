"""What a user may submit: the JSON of requests, checked for form.

Promises: numbers are in the ranges that the engine can work with; unknown fields are refused, so that a
misspelt parameter is never silently ignored. Refuses: nothing about the graph or the slides; that
is decided where slides are known.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from microtome.settings import BatchSize, TileOverlap, TileSize
from microtome.tissue.outline import MAX_DEPTH

MIN_CORE = 64
MAX_JOBS = 1000
MAX_PIXELS = 2**31 - 1
# Polygons, rings, points, numbers.
_DEEPEST = 4
_LARGEST = 2**53

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
ModelName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")]
Mpp = Annotated[float, Field(ge=0.05, le=10, allow_inf_nan=False)]
PolicyName = Literal["halt", "skip", "continue"]
StainingName = Literal["he", "hdab"]
Intensity = Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]
Channels = Annotated[list[Intensity], Field(min_length=3, max_length=3)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RegionIn(_Strict):
    """A rectangle of level-0 pixels: `x <= column < x + width`, `y <= row < y + height`."""

    x: int = Field(ge=0, le=MAX_PIXELS)
    y: int = Field(ge=0, le=MAX_PIXELS)
    width: int = Field(ge=1, le=MAX_PIXELS)
    height: int = Field(ge=1, le=MAX_PIXELS)


class NormalisationIn(_Strict):
    """Intensities (0 to 255) that become 0 and 1, of red, green and blue; taken instead of measuring the slide."""

    low: Channels
    high: Channels

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must be less than high in every channel")
        return self


def _geometry(given: dict[str, Any], depth: int = 0) -> dict[str, Any]:
    """What says where the polygons are, its members always in the same order. What is too deep is refused later."""
    kept: dict[str, Any] = {}
    if "type" in given:
        kept["type"] = given["type"] if isinstance(given["type"], str) else None
    if "coordinates" in given:
        kept["coordinates"] = _numbers(given["coordinates"])
    if depth > MAX_DEPTH:
        return kept
    if "geometry" in given:
        inner = given["geometry"]
        kept["geometry"] = _geometry(inner, depth + 1) if isinstance(inner, dict) else None
    if "features" in given:
        features = given["features"]
        kept["features"] = (
            [_geometry(feature, depth + 1) if isinstance(feature, dict) else None for feature in features]
            if isinstance(features, list)
            else None
        )
    return kept


def _numbers(given: object, depth: int = 0) -> object:
    """Numbers in lists, as deep as a MultiPolygon's are; what is none of these becomes None, which is no point."""
    if isinstance(given, list):
        if depth >= _DEEPEST:
            return None
        return [one if type(one) is float else _numbers(one, depth + 1) for one in given]
    # Larger integers are on no slide, and not all that writes JSON can write them.
    return given if isinstance(given, int | float) and abs(given) <= _LARGEST else None


class GeoJsonIn(BaseModel):
    """A GeoJSON Polygon, MultiPolygon, Feature or FeatureCollection of these, in level-0 pixels from the upper left.

    What else it holds is passed over, so that what QuPath exports can be given as it is.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: Literal["Polygon", "MultiPolygon", "Feature", "FeatureCollection"]
    coordinates: list[Any] | None = Field(default=None, description="Closed rings of [x, y].")
    geometry: dict[str, Any] | None = Field(default=None, description="Of a Feature.")
    features: list[Any] | None = Field(default=None, description="Of a FeatureCollection.")

    @model_validator(mode="before")
    @classmethod
    def _only_what_counts(cls, given: object) -> object:
        """Properties are of any depth and size; without them, the same polygons are the same request."""
        return _geometry(given) if isinstance(given, dict) else given


class ParametersIn(_Strict):
    """What a user may choose for a job. Absent means: the server's default."""

    mpp: Mpp | None = Field(default=None, description="µm per level-0 pixel, if you know it.")
    assume_mpp: Mpp | None = Field(default=None, description="µm per level-0 pixel, as an assumption that you choose.")
    tile_size: TileSize | None = Field(default=None, description="Edge with halo, model pixels.")
    halo: TileOverlap | None = Field(default=None, description="Context on each side, model pixels.")
    overlap: TileOverlap | None = Field(default=None, description="Another name for halo.")
    batch_size: BatchSize | None = Field(default=None, description="Tiles that the model takes at once.")
    model: ModelName | None = Field(default=None, description="The model; this server runs one, see /status.")
    stain: StainingName | None = Field(
        default=None,
        description="What the slide was stained with, which colours are measured by: he (hematoxylin and eosin, taken "
        "if absent) or hdab (hematoxylin and DAB).",
    )
    region: RegionIn | None = Field(default=None, description="Only this part of the slide, in level-0 pixels.")
    normalisation: NormalisationIn | None = Field(
        default=None, description="Intensities that the model sees as 0 and 1, instead of measured ones."
    )

    tissue: GeoJsonIn | None = Field(
        default=None,
        description="What counts as tissue, instead of what is found: cells count that lie inside by their seed. The "
        "file tissue.geojson of a job, edited, will do. The normalisation stays the slide's own.",
    )

    @model_validator(mode="after")
    def _said_once(self) -> Self:
        if self.mpp is not None and self.assume_mpp is not None:
            raise ValueError("give mpp (you know it) or assume_mpp (you assume it), not both")
        if self.halo is not None and self.overlap is not None:
            raise ValueError("halo and overlap are the same; give one of them")
        return self

    @property
    def chosen_halo(self) -> int | None:
        """The halo under either of its names."""
        return self.halo if self.halo is not None else self.overlap


class JobIn(_Strict):
    """One job of a workflow."""

    key: Key = Field(description="Your name for the job, unique in the workflow.")
    type: str = Field(max_length=64, description="TISSUE_MASK, SEGMENT_CELLS or INSTANSEG_WSI.")
    slide_id: str = Field(max_length=64)
    branch: Key = Field(default="main", description="Jobs of one branch run one after the other, in this order.")
    depends_on: list[Key] = Field(default_factory=list, max_length=MAX_JOBS, description="Keys of other jobs.")
    parameters: ParametersIn = ParametersIn()
    draft: bool | None = Field(
        default=None, description="A draft waits until you start it. Absent: as the workflow says."
    )


class BranchIn(_Strict):
    """What happens to the later jobs of a branch when one of them fails."""

    name: Key
    policy: PolicyName = Field(
        description="halt: they wait until you retry or cancel the failed one; skip: they are skipped; continue: they "
        "run all the same. A job whose dependency came to nothing waits (halt) or is skipped (skip, continue)."
    )


Branches = Annotated[list[BranchIn], Field(max_length=MAX_JOBS)]


class WorkflowIn(_Strict):
    """A graph of jobs."""

    name: Name
    jobs: list[JobIn] = Field(min_length=1, max_length=MAX_JOBS)
    branches: Branches = Field(default_factory=list, description="Policies of branches; the others halt.")
    draft: bool = Field(default=False, description="Whether jobs that do not say are drafts.")


class JobsIn(_Strict):
    """Jobs to be added to a workflow; in their branches they come after those that are there. One job may come bare."""

    jobs: list[JobIn] = Field(min_length=1, max_length=MAX_JOBS)
    branches: Branches = Field(default_factory=list, description="Policies of branches that are new.")
    draft: bool = Field(default=False, description="Whether jobs that do not say are drafts.")

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        return {"jobs": [value]} if isinstance(value, dict) and "key" in value and "jobs" not in value else value


class WorkflowJobIn(JobIn):
    """One job to be added to a workflow that is there."""

    workflow_id: str = Field(max_length=64)

    def job(self) -> JobIn:
        """The job without the workflow."""
        return JobIn(**{name: getattr(self, name) for name in JobIn.model_fields})
