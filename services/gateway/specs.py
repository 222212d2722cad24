"""From a job as it is asked for to a job as it is recorded: what only slide and server can tell is checked here.

Promises: a job that passes names a slide that it can work on and parameters that the engine can work with;
everything else is refused with a code that says what to do. Refuses: to look at the graph; the domain does.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from microtome.contracts import messages
from microtome.contracts.messages import (
    Branch,
    BranchPolicy,
    JobParameters,
    JobSpec,
    JobType,
    Normalisation,
    Region,
    SlideRegistered,
    Stain,
    Staining,
)
from microtome.errors import InvalidRequest, InvalidTissue, InvalidWorkflow, UnknownModel, UnknownMpp, UnsuitableSlide
from microtome.tissue.outline import TissueOutline, read_outline
from services.gateway.documents import MAX_PIXELS, MIN_CORE, BranchIn, JobIn, ParametersIn

_TYPES = {kind.name: kind for kind in JobType if kind is not JobType.UNSPECIFIED}
_STAININGS = {"he": Staining.HE, "hdab": Staining.HDAB, None: Staining.UNSPECIFIED}
_POLICIES = {"halt": BranchPolicy.HALT, "skip": BranchPolicy.SKIP, "continue": BranchPolicy.CONTINUE}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the server takes where a job does not say; sizes in model pixels."""

    tile_size: int
    halo: int
    # The one model that inference serves, how much context it needs, and µm per pixel that it sees.
    model: str
    halo_min: int
    model_mpp: float


def job_ids(workflow_id: str, jobs: Iterable[JobIn]) -> dict[str, str]:
    """The global ids of jobs by key: the same key in the same workflow has the same id. Raises `InvalidWorkflow`."""
    ids: dict[str, str] = {}
    for job in jobs:
        if job.key in ids:
            raise InvalidWorkflow(f"The key {job.key!r} is given to more than one job.")
        ids[job.key] = str(uuid.uuid5(uuid.UUID(workflow_id), job.key))
    return ids


def specs(
    jobs: Sequence[JobIn],
    ids: Mapping[str, str],
    slides: Mapping[str, SlideRegistered],
    defaults: Defaults,
    drawn: Mapping[str, TissueOutline] = MappingProxyType({}),
    *,
    draft: bool = False,
) -> tuple[JobSpec, ...]:
    """The jobs as they are recorded. `ids`: global ids by key, also of other jobs that they may depend on.

    `drawn`: what was drawn as tissue, by the jobs' keys. `draft`: whether a job that does not say is one.
    Raises `InvalidWorkflow`, `InvalidRequest`, `UnknownModel`, `UnknownMpp`, `UnsuitableSlide`.
    """
    return tuple(_spec(job, ids, slides, defaults, drawn.get(job.key), draft=draft) for job in jobs)


def outlines(jobs: Iterable[JobIn], slides: Mapping[str, SlideRegistered]) -> dict[str, TissueOutline]:
    """What the jobs say is tissue, by their keys, checked against their slides; slow for large ones.

    Raises `InvalidTissue`.
    """
    drawn: dict[str, TissueOutline] = {}
    for job in jobs:
        slide, given = slides.get(job.slide_id), job.parameters.tissue
        if slide is None or given is None:
            continue
        try:
            drawn[job.key] = read_outline(given.model_dump(), slide.width, slide.height)
        except InvalidTissue as error:
            raise InvalidTissue(f"Job {job.key!r}: {error.detail}") from None
    return drawn


def branches(chosen: Iterable[BranchIn]) -> tuple[Branch, ...]:
    """The policies as they are recorded. Raises `InvalidWorkflow` for two of one branch."""
    policies: dict[str, BranchPolicy] = {}
    for branch in chosen:
        if branch.name in policies:
            raise InvalidWorkflow(f"The branch {branch.name!r} is given more than one policy.")
        policies[branch.name] = _POLICIES[branch.policy]
    return tuple(Branch(name=name, policy=policy) for name, policy in policies.items())


def _spec(
    job: JobIn,
    ids: Mapping[str, str],
    slides: Mapping[str, SlideRegistered],
    defaults: Defaults,
    drawn: TissueOutline | None,
    *,
    draft: bool,
) -> JobSpec:
    if job.type not in _TYPES:
        known = ", ".join(_TYPES)
        raise InvalidWorkflow(f"Job {job.key!r}: there is no job type {job.type!r}; the types are {known}.")
    slide = slides.get(job.slide_id)
    if slide is None:
        raise InvalidWorkflow(f"Job {job.key!r}: you have no slide {job.slide_id!r}.")
    kind = _TYPES[job.type]
    core = _core(job, kind, defaults)
    _check_region(job, slide)
    _check_suitable(job, kind, slide)
    return JobSpec(
        job_id=ids[job.key],
        key=job.key,
        type=kind,
        slide_id=slide.slide_id,
        branch=job.branch,
        # A key that names no job stays as it is, so that the domain can name it.
        depends_on=tuple(ids.get(key, key) for key in job.depends_on),
        parameters=_parameters(job.parameters, drawn),
        draft=draft if job.draft is None else job.draft,
        expected_tiles=1 if kind is JobType.TISSUE_MASK else _tiles(job.parameters, slide, core, defaults.model_mpp),
    )


def _core(job: JobIn, kind: JobType, defaults: Defaults) -> int:
    """The edge of what a tile owns, in model pixels, once tile size, halo and model are checked."""
    key, chosen = job.key, job.parameters
    tile_size = chosen.tile_size if chosen.tile_size is not None else defaults.tile_size
    halo = chosen.chosen_halo if chosen.chosen_halo is not None else defaults.halo
    if chosen.model not in (None, defaults.model):
        raise UnknownModel(
            f"Job {key!r}: this server runs the model {defaults.model!r}; choose it, or leave model out."
        )
    # The tissue mask is found without tiles; what is said about them does it no harm.
    if halo < defaults.halo_min and kind is not JobType.TISSUE_MASK:
        raise InvalidRequest(
            f"Job {key!r}: with a halo of {halo}, cells at the seams of tiles would come out differently, because "
            f"the model sees further. Choose a halo of at least {defaults.halo_min}, or leave it out."
        )
    core = tile_size - 2 * halo
    if core < MIN_CORE:
        raise InvalidRequest(
            f"Job {key!r}: tiles of {tile_size} with a halo of {halo} leave a core of {core} pixels; "
            f"at least {MIN_CORE} are needed. Choose a larger tile_size or a smaller halo."
        )
    return core


def _check_region(job: JobIn, slide: SlideRegistered) -> None:
    region = job.parameters.region
    if region is None:
        return
    if region.x + region.width > slide.width or region.y + region.height > slide.height:
        raise InvalidRequest(
            f"Job {job.key!r}: the region reaches to {region.x + region.width}, {region.y + region.height}, but "
            f"{slide.filename} ends at {slide.width}, {slide.height} (level-0 pixels)."
        )


def _check_suitable(job: JobIn, kind: JobType, slide: SlideRegistered) -> None:
    """Refuse now what could only fail later. The tissue mask needs neither a pixel size nor a stain."""
    if kind is JobType.TISSUE_MASK:
        return
    if slide.stain is Stain.FLUORESCENCE:
        raise UnsuitableSlide(
            f"Job {job.key!r}: {slide.filename} looks like fluorescence; the model was made for H&E in brightfield "
            "and would find cells that are not there. TISSUE_MASK works on it."
        )
    if _mpp(job.parameters, slide) is None:
        raise UnknownMpp(
            f"Job {job.key!r}: {slide.filename} does not say how large its pixels are. Give parameters.mpp (µm per "
            "pixel, if you know it) or parameters.assume_mpp (if you assume it), or give them at upload."
        )


def _mpp(chosen: ParametersIn, slide: SlideRegistered) -> float | None:
    if chosen.mpp is not None:
        return chosen.mpp
    return slide.mpp if slide.mpp is not None else chosen.assume_mpp


def _tiles(chosen: ParametersIn, slide: SlideRegistered, core: int, model_mpp: float) -> int:
    """How many tiles the slide or the region has, tissue or not; at least 1."""
    width, height = (
        (slide.width, slide.height) if chosen.region is None else (chosen.region.width, chosen.region.height)
    )
    scale = (_mpp(chosen, slide) or model_mpp) / model_mpp
    across, down = (max(1, math.ceil(edge * scale / core)) for edge in (width, height))
    return min(across * down, MAX_PIXELS)


def _parameters(chosen: ParametersIn, drawn: TissueOutline | None) -> JobParameters:
    region, normalisation = chosen.region, chosen.normalisation
    return JobParameters(
        mpp=chosen.mpp,
        assume_mpp=chosen.assume_mpp,
        tile_size=chosen.tile_size,
        halo=chosen.chosen_halo,
        batch_size=chosen.batch_size,
        model=chosen.model,
        staining=_STAININGS[chosen.stain],
        region=None if region is None else Region(x=region.x, y=region.y, width=region.width, height=region.height),
        normalisation=None
        if normalisation is None
        else Normalisation(low=tuple(normalisation.low), high=tuple(normalisation.high)),
        tissue=None
        if drawn is None
        else messages.TissueOutline(sha256=drawn.sha256, polygons=len(drawn.polygons), vertices=drawn.vertices),
    )
