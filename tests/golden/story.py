"""A story in which every kind of event happens, told by the domain's own decisions."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import NAMESPACE_URL, uuid4, uuid5

from microtome.contracts.messages import (
    Artifact,
    Branch,
    BranchPolicy,
    Event,
    JobParameters,
    JobPlanned,
    JobResult,
    JobSpec,
    JobType,
    MppSource,
    Normalisation,
    Region,
    SlideDeleted,
    SlideLevel,
    SlideRegistered,
    StageSeconds,
    Stain,
    Staining,
    TissueOutline,
)
from microtome.domain import cluster as clusters
from microtome.domain.commands import (
    AddJobs,
    Cancel,
    CancelWorkflow,
    Command,
    DeleteArtifacts,
    LoseAttempt,
    Release,
    ReportFailure,
    ReportPlanned,
    ReportSuccess,
    Retry,
    Submit,
)
from microtome.domain.decisions import decide
from microtome.domain.enacting import Fact, enacted
from microtome.domain.evolution import evolve
from microtome.domain.limits import Limits
from microtome.domain.scheduling import schedule
from microtome.domain.state import Job, Workflow
from microtome.eventlog.log import Append, EventLog, NewEvent

LIMITS = Limits(max_workers=2, max_active_users=2, max_attempts=3)


def identity(name: str) -> str:
    """Return the same id for the same name, in every recording."""
    return str(uuid5(NAMESPACE_URL, f"microtome:golden:{name}"))


class Stage:
    """Where the story is played: commands of users and workers, decisions of the scheduler, one log."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._cluster = clusters.Cluster()

    async def say(self, stream: str, user: str, *events: Event) -> None:
        """Append facts that nobody decides."""
        await self._append([Fact(stream, user, event) for event in events])

    async def tell(self, workflow: str, user: str, command: Command) -> None:
        """Append what a command leads to."""
        state = await self.state(workflow)
        events = decide(state, command, LIMITS)
        assert events, f"{command} changes nothing"
        await self._append([Fact(f"workflow-{identity(workflow)}", user, event) for event in events])

    async def tick(self, later: timedelta = timedelta(0)) -> None:
        """Let the scheduler act, as if some time had passed."""
        decisions = schedule(self._cluster, LIMITS, datetime.now(UTC) + later)
        await self._append(list(enacted(self._cluster, decisions)))

    async def state(self, workflow: str) -> Workflow | None:
        """Return a workflow as it is."""
        state = None
        for event in await self._log.read_stream(f"workflow-{identity(workflow)}"):
            state = evolve(state, event.message, event.at)
        return state

    async def job(self, workflow: str, key: str) -> Job:
        """Return a job as it is."""
        state = await self.state(workflow)
        assert state is not None
        return state.jobs[identity(f"{workflow}/{key}")]

    async def plan(self, workflow: str, user: str, key: str) -> None:
        """The tiler plans the attempt that runs."""
        job = await self.job(workflow, key)
        planned = JobPlanned(
            job_id=job.job_id,
            attempt=job.attempt,
            tiles_total=120,
            tiles_skipped=23,
            normalisation=Normalisation(low=(12.5, 3.0, 0.25), high=(240.0, 241.5, 255.0)),
            scale=2.004008016,
            model="embedded",
            model_digest="cd" * 32,
        )
        await self.tell(workflow, user, ReportPlanned(planned))

    async def finish(self, workflow: str, user: str, key: str) -> None:
        """The merger reports success."""
        job = await self.job(workflow, key)
        await self.tell(workflow, user, ReportSuccess(job.job_id, job.attempt, RESULT))

    async def fail(self, workflow: str, user: str, key: str, *, transient: bool) -> None:
        """A worker reports a failure."""
        job = await self.job(workflow, key)
        code, detail = ("unavailable", "The store did not answer.") if transient else ("unreadable-slide", "Torn file.")
        command = ReportFailure(job.job_id, job.attempt, code, detail, transient, datetime.now(UTC))
        await self.tell(workflow, user, command)

    async def lose(self, workflow: str, user: str, key: str) -> None:
        """The lease of the attempt that runs expires."""
        job = await self.job(workflow, key)
        reason = "The lease expired in stage infer."
        await self.tell(workflow, user, LoseAttempt(job.job_id, job.attempt, "inference-1", reason))

    async def _append(self, facts: list[Fact]) -> None:
        streams: dict[str, list[NewEvent]] = {}
        for fact in facts:
            new = NewEvent(event_id=uuid4(), message=fact.event, tenant=fact.user_id, meta={"by": "story"})
            streams.setdefault(fact.stream, []).append(new)
        if not streams:
            return
        appends = [
            Append(stream, len(await self._log.read_stream(stream)), tuple(events))
            for stream, events in streams.items()
        ]
        for event in await self._log.append(*appends):
            self._cluster = clusters.evolve(self._cluster, event.message, event.at, event.stream)


RESULT = JobResult(
    tiles_total=120,
    tiles_skipped=23,
    tiles_processed=97,
    tiles_cached=4,
    cells=2**33 + 1,
    tissue_mm2=14.25,
    cells_per_mm2=602_811_286.4,
    engine="onnx-cpu",
    model="embedded",
    stage_seconds=(StageSeconds(stage="plan", seconds=1.5), StageSeconds(stage="infer", seconds=61.0)),
    notes=("The pixel size is assumed: 0.25 µm.", "The tissue was drawn by the user."),
    artifacts=(
        Artifact(
            name="cells.parquet",
            media_type="application/vnd.apache.parquet",
            size_bytes=5_000_000_000,
            sha256="ef" * 32,
        ),
        Artifact(name="overlay.jpg", media_type="image/jpeg", size_bytes=81_234, sha256="0f" * 32),
        Artifact(name="cells.fgb", media_type="application/flatgeobuf", size_bytes=0, sha256="1e" * 32),
        Artifact(name="tissue_drawn.geojson", media_type="application/geo+json", size_bytes=612, sha256="2d" * 32),
    ),
)


def slide(name: str, user: str) -> SlideRegistered:
    """Return a slide with every member set."""
    return SlideRegistered(
        slide_id=identity(name),
        user_id=user,
        filename=f"{name} 切片.svs",
        size_bytes=5_000_000_000,
        sha256="ab" * 32,
        vendor="aperio",
        width=46_000,
        height=32_914,
        mpp=0.499,
        mpp_source=MppSource.VENDOR,
        objective_power=20.0,
        stain=Stain.BRIGHTFIELD,
        levels=(
            SlideLevel(width=46_000, height=32_914, downsample=1.0),
            SlideLevel(width=2_875, height=2_057, downsample=16.000243),
        ),
        notes=("Read as a whole.",),
        path=f"slides/{identity(name)}/slide.svs",
    )


def job(workflow: str, key: str, branch: str, depends_on: tuple[str, ...] = (), *, draft: bool = False) -> JobSpec:
    """Return a job of the story."""
    return JobSpec(
        job_id=identity(f"{workflow}/{key}"),
        key=key,
        type=JobType.TISSUE_MASK if key.startswith("mask") else JobType.SEGMENT_CELLS,
        slide_id=identity("lung"),
        branch=branch,
        depends_on=tuple(identity(f"{workflow}/{other}") for other in depends_on),
        parameters=JobParameters(assume_mpp=0.25, tile_size=1024, halo=96, batch_size=2, model="embedded"),
        draft=draft,
        expected_tiles=130,
    )


def drawn(polygons: int) -> JobParameters:
    """Return what is chosen for a job whose tissue somebody drew."""
    tissue = TissueOutline(sha256=f"{polygons:02d}" * 32, polygons=polygons, vertices=39_999)
    return JobParameters(mpp=0.499, staining=Staining.HDAB, tissue=tissue)


async def play(log: EventLog) -> None:
    """Ada's large workflow, Bob's small one, Cyd who waits."""
    stage = Stage(log)
    await stage.say(f"slide-{identity('lung')}", "ada", slide("lung", "ada"))
    await stage.say(f"slide-{identity('skin')}", "bob", slide("skin", "bob"))
    everything = job("large", "everything", "main", draft=True)
    region = JobParameters(
        mpp=0.5,
        region=Region(x=100, y=200, width=3_000, height=4_000),
        normalisation=Normalisation(low=(1.0, 2.0, 3.0), high=(200.0, 210.0, 220.0)),
        staining=Staining.HE,
    )
    jobs = (
        replace(job("large", "mask", "main"), parameters=drawn(1)),
        job("large", "cells", "main", ("mask",)),
        replace(job("large", "maybe-1", "optional"), parameters=drawn(2)),
        job("large", "maybe-2", "optional"),
        job("large", "after-maybe", "loose", ("maybe-2",)),
        replace(job("large", "free", "loose"), parameters=drawn(2)),
        replace(everything, parameters=region),
        job("large", "never", "main", draft=True),
    )
    branches = (
        Branch(name="optional", policy=BranchPolicy.SKIP),
        Branch(name="loose", policy=BranchPolicy.CONTINUE),
    )
    await stage.tell("large", "ada", Submit(identity("large"), "ada", "Lung, all of it", jobs, branches))
    await stage.tick()
    await stage.plan("large", "ada", "maybe-1")

    # Bob gets a slot that Ada gives up, and leaves when he is done.
    few = (job("small", "mask", "main"),)
    await stage.tell("small", "bob", Submit(identity("small"), "bob", "Skin", few))
    await stage.tick()
    await stage.plan("small", "bob", "mask")
    await stage.finish("small", "bob", "mask")
    await stage.tick()

    # What fails: for a while, for good, and what that means in a branch that skips.
    running = [key for key in ("mask", "maybe-1") if (await stage.job("large", key)).slot is not None]
    assert len(running) == 2, running
    await stage.fail("large", "ada", "maybe-1", transient=True)
    await stage.tick(timedelta(minutes=5))
    await stage.lose("large", "ada", "mask")
    await stage.tick(timedelta(minutes=5))
    while (await stage.job("large", "maybe-1")).slot is None:
        await stage.tick(timedelta(minutes=5))
    await stage.fail("large", "ada", "maybe-1", transient=False)
    await stage.tell("large", "ada", Retry(identity("large/maybe-1")))

    # What is added, started and deleted.
    await stage.tell("large", "ada", Release(identity("large/everything")))
    more = (job("large", "more-1", "main", ("mask",)), job("large", "more-2", "extra", draft=True))
    await stage.tell("large", "ada", AddJobs(more, (Branch(name="extra", policy=BranchPolicy.SKIP),)))
    await stage.tick(timedelta(minutes=5))
    await stage.plan("large", "ada", "mask")
    await stage.finish("large", "ada", "mask")
    await stage.tell("large", "ada", DeleteArtifacts(identity("large/mask")))
    await stage.tick(timedelta(minutes=5))
    await stage.tell("large", "ada", Cancel(identity("large/free")))
    await stage.say(f"slide-{identity('skin')}", "bob", SlideDeleted(slide_id=identity("skin")))

    # A workflow that its user gives up, and two users for one seat.
    await stage.tell("given-up", "bob", Submit(identity("given-up"), "bob", "", (job("given-up", "a", "x"),)))
    await stage.tick(timedelta(minutes=5))
    await stage.tell("waiting", "cyd", Submit(identity("waiting"), "cyd", "In line", (job("waiting", "a", "x"),)))
    await stage.tick(timedelta(minutes=5))
    await stage.tell("given-up", "bob", CancelWorkflow())
    late = Submit(identity("late"), "dan", "Behind Cyd", (job("late", "a", "x"),))
    await stage.tell("late", "dan", late)
    await stage.tick(timedelta(minutes=5))
