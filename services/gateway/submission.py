"""From a submitted JSON document to an event: what only the slides and the graph can tell is checked here.

Promises: a workflow that is accepted names slides of its user that its jobs can work on, and a graph that can be
walked; everything else is refused with a code that says what to do. The same `Idempotency-Key` gives the same
workflow. Refuses: to start anything; the scheduler does.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import JobParameters, JobSpec, JobType, SlideRegistered, Stain
from microtome.domain.workflow import Submit, decide
from microtome.errors import (
    Conflict,
    InvalidRequest,
    InvalidWorkflow,
    NotFound,
    UnknownModel,
    UnknownMpp,
    UnsuitableSlide,
)
from microtome.eventlog.log import Append, EventLog
from microtome.readmodels.queries import Queries
from microtome.workflows import new_event, stream_of
from services.gateway.documents import MIN_CORE, JobIn, ParametersIn, WorkflowIn

_NAMESPACE = uuid.UUID("0d0c2f0b-7b0e-4f5a-9a53-1f1c8a6f5b52")
# Half of what the bus takes in one message.
MAX_EVENT_BYTES = 512 * 1024
_TYPES = {kind.name: kind for kind in JobType if kind is not JobType.UNSPECIFIED}


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the server takes where a job does not say; sizes in model pixels."""

    tile_size: int
    halo: int
    # The one model that inference serves, and how much context it needs.
    model: str
    halo_min: int


class Submissions:
    """Accepts workflows."""

    def __init__(self, log: EventLog, queries: Queries, defaults: Defaults) -> None:
        self._log = log
        self._queries = queries
        self._defaults = defaults

    async def submit(self, user_id: str, wanted: WorkflowIn, idempotency_key: str | None) -> str:
        """Record the workflow and return its id.

        Raises `InvalidWorkflow`, `InvalidRequest`, `UnknownModel`, `UnknownMpp`, `UnsuitableSlide`; `Conflict` when the
        idempotency key was used for a different workflow.
        """
        workflow_id = str(_workflow_id(user_id, idempotency_key))
        slides = await self._slides(user_id, wanted)
        ids = _job_ids(workflow_id, wanted)
        specs = tuple(self._spec(job, ids, slides) for job in wanted.jobs)
        command = Submit(workflow_id, user_id, wanted.name, specs)
        (event,) = decide(None, command)
        size = len(to_bytes(event))
        if size > MAX_EVENT_BYTES:
            raise InvalidWorkflow(
                f"The workflow takes {size} bytes as one event, more than the {MAX_EVENT_BYTES} that the bus carries. "
                "Submit it as several workflows, or with fewer dependencies and shorter names."
            )
        for job, spec in zip(wanted.jobs, specs, strict=True):
            _check_suitable(job, spec, slides[job.slide_id])
        new = new_event(event, user_id, event_id=uuid.uuid5(_NAMESPACE, workflow_id))
        (stored,) = await self._log.append(Append(stream_of(workflow_id), 0, (new,)))
        if stored.message != event:
            raise Conflict("This Idempotency-Key was used for a different workflow.")
        return workflow_id

    async def _slides(self, user_id: str, wanted: WorkflowIn) -> Mapping[str, SlideRegistered]:
        slides: dict[str, SlideRegistered] = {}
        for job in wanted.jobs:
            if job.slide_id not in slides:
                try:
                    slides[job.slide_id] = (await self._queries.slide(user_id, job.slide_id)).facts
                except NotFound:
                    raise InvalidWorkflow(f"Job {job.key!r}: you have no slide {job.slide_id!r}.") from None
        return slides

    def _spec(self, job: JobIn, ids: Mapping[str, str], slides: Mapping[str, SlideRegistered]) -> JobSpec:
        if job.type not in _TYPES:
            known = ", ".join(_TYPES)
            raise InvalidWorkflow(f"Job {job.key!r}: there is no job type {job.type!r}; the types are {known}.")
        self._check_parameters(job)
        return JobSpec(
            job_id=ids[job.key],
            key=job.key,
            type=_TYPES[job.type],
            slide_id=slides[job.slide_id].slide_id,
            branch=job.branch,
            # A key that names no job stays as it is, so that the domain can name it.
            depends_on=tuple(ids.get(key, key) for key in job.depends_on),
            parameters=_parameters(job.parameters),
        )

    def _check_parameters(self, job: JobIn) -> None:
        key, chosen = job.key, job.parameters
        tile_size = chosen.tile_size if chosen.tile_size is not None else self._defaults.tile_size
        halo = chosen.halo if chosen.halo is not None else self._defaults.halo
        if chosen.model not in (None, self._defaults.model):
            raise UnknownModel(
                f"Job {key!r}: this server runs the model {self._defaults.model!r}; choose it, or leave model out."
            )
        # The tissue mask is found without tiles; what is said about them does it no harm.
        if halo < self._defaults.halo_min and _TYPES[job.type] is not JobType.TISSUE_MASK:
            raise InvalidRequest(
                f"Job {key!r}: with a halo of {halo}, cells at the seams of tiles would come out differently, because "
                f"the model sees further. Choose a halo of at least {self._defaults.halo_min}, or leave it out."
            )
        core = tile_size - 2 * halo
        if core < MIN_CORE:
            raise InvalidRequest(
                f"Job {key!r}: tiles of {tile_size} with a halo of {halo} leave a core of {core} pixels; "
                f"at least {MIN_CORE} are needed. Choose a larger tile_size or a smaller halo."
            )


def _workflow_id(user_id: str, idempotency_key: str | None) -> uuid.UUID:
    return uuid.uuid4() if idempotency_key is None else uuid.uuid5(_NAMESPACE, f"{user_id}/{idempotency_key}")


def _job_ids(workflow_id: str, wanted: WorkflowIn) -> dict[str, str]:
    ids: dict[str, str] = {}
    for job in wanted.jobs:
        if job.key in ids:
            raise InvalidWorkflow(f"The key {job.key!r} is given to more than one job.")
        ids[job.key] = str(uuid.uuid5(uuid.UUID(workflow_id), job.key))
    return ids


def _parameters(chosen: ParametersIn) -> JobParameters:
    return JobParameters(
        mpp=chosen.mpp,
        assume_mpp=chosen.assume_mpp,
        tile_size=chosen.tile_size,
        halo=chosen.halo,
        batch_size=chosen.batch_size,
        model=chosen.model,
    )


def _check_suitable(job: JobIn, spec: JobSpec, slide: SlideRegistered) -> None:
    """Refuse now what could only fail later. The tissue mask needs neither a pixel size nor a stain."""
    if spec.type is JobType.TISSUE_MASK:
        return
    if slide.stain is Stain.FLUORESCENCE:
        raise UnsuitableSlide(
            f"Job {job.key!r}: {slide.filename} looks like fluorescence; the model was made for H&E in brightfield "
            "and would find cells that are not there. TISSUE_MASK works on it."
        )
    if slide.mpp is None and job.parameters.mpp is None and job.parameters.assume_mpp is None:
        raise UnknownMpp(
            f"Job {job.key!r}: {slide.filename} does not say how large its pixels are. Give parameters.mpp (µm per "
            "pixel, if you know it) or parameters.assume_mpp (if you assume it), or give them at upload."
        )
