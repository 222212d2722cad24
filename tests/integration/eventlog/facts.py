"""Events for the tests, as the domain would make them."""

from __future__ import annotations

from uuid import uuid4

from microtome.contracts.messages import (
    JobParameters,
    JobSpec,
    JobType,
    Message,
    MppSource,
    SlideLevel,
    SlideRegistered,
    Stain,
    WorkflowSubmitted,
)
from microtome.eventlog.log import Append, EventLog, NewEvent, StoredEvent


def fact(message: Message, tenant: str = "ada", **meta: str) -> NewEvent:
    return NewEvent(event_id=uuid4(), message=message, tenant=tenant, meta=meta)


async def store(log: EventLog, stream: str, *messages: Message, tenant: str = "ada") -> tuple[StoredEvent, ...]:
    version = len(await log.read_stream(stream))
    return await log.append(Append(stream, version, tuple(fact(message, tenant) for message in messages)))


def slide(slide_id: str = "slide-1", user: str = "ada") -> SlideRegistered:
    return SlideRegistered(
        slide_id=slide_id,
        user_id=user,
        filename="CMU-1.svs",
        size_bytes=5_000_000_000,
        sha256="ab" * 32,
        vendor="aperio",
        width=46000,
        height=32914,
        mpp=0.499,
        mpp_source=MppSource.VENDOR,
        objective_power=20.0,
        stain=Stain.BRIGHTFIELD,
        levels=(SlideLevel(width=46000, height=32914, downsample=1.0),),
        notes=("read as a whole",),
        path=f"slides/{slide_id}/CMU-1.svs",
    )


def submitted(workflow_id: str, jobs: dict[str, tuple[str, tuple[str, ...]]], user: str = "ada") -> WorkflowSubmitted:
    """`jobs`: key -> (branch, keys that it depends on). The id of a job is `<workflow>-<key>`."""
    return WorkflowSubmitted(
        workflow_id=workflow_id,
        user_id=user,
        name=f"name of {workflow_id}",
        jobs=tuple(
            JobSpec(
                job_id=f"{workflow_id}-{key}",
                key=key,
                type=JobType.SEGMENT_CELLS,
                slide_id="slide-1",
                branch=branch,
                depends_on=tuple(f"{workflow_id}-{each}" for each in depends_on),
                parameters=JobParameters(mpp=0.25),
            )
            for key, (branch, depends_on) in jobs.items()
        ),
    )
