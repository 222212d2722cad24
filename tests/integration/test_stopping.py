"""A job that is cancelled or preempted stops within seconds in whatever stage it is, and leaves nothing half-written.

The tiler's and the merger's own handlers, on real servers and real files; what is left out is only who would have
started them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from microtome import clock
from microtome.artifacts.store import ArtifactStore
from microtome.bus import topology
from microtome.bus.worker import Worker
from microtome.contracts.codec import to_bytes
from microtome.contracts.messages import (
    JobFailed,
    JobParameters,
    JobPlanned,
    JobResult,
    JobSpec,
    JobStarted,
    JobSucceeded,
    JobType,
    MergeWork,
    Message,
    MppSource,
    Normalisation,
    PlanWork,
    Region,
    SeatGranted,
    SlideDeleted,
    SlideRegistered,
    Stain,
    WorkflowSubmitted,
)
from microtome.domain.commands import Cancel, Command, Preempt, ReportSuccess, Start
from microtome.domain.state import JobStatus
from microtome.eventlog.log import Append, StoredEvent
from microtome.joblog import JobLog
from microtome.process import Process, connected
from microtome.segmentation.cells import TileCells, write_cells
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.slides.synthetic import MPP, write_synthetic_slide
from microtome.tilestore import ResultStore
from microtome.tissue.mask import find_tissue
from microtome.tissue.store import save_mask
from microtome.workflows import new_event
from services.merger.clearing import clear_artifacts
from services.merger.handler import MergeHandler
from services.tiler.decoders import Decoders
from services.tiler.handler import PlanHandler
from services.tiler.settings import TilerSettings
from services.tiler.sharing import Shares

STOPS_WITHIN_S = 5.0
EDGE = 1024


@dataclass
class Bench:
    """One worker process's handlers and the log of one job."""

    process: Process
    settings: TilerSettings
    decoders: Decoders
    slide: Path
    job_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    workflow_id: str = field(default_factory=lambda: str(uuid.uuid4()))

    async def append(self, stream: str, version: int, *messages: Message) -> None:
        events = tuple(new_event(message, "ada") for message in messages)
        await self.process.log.append(Append(stream, version, events))

    async def start(self, kind: JobType = JobType.SEGMENT_CELLS, parameters: JobParameters | None = None) -> None:
        """A slide, a workflow of one job, a seat, and the job's first attempt."""
        slide_id = self.slide.parent.name
        path = str(self.slide.relative_to(self.settings.microtome_data_dir))
        facts = SlideRegistered(
            slide_id=slide_id, user_id="ada", filename="s.tif", sha256="a" * 64, width=EDGE, height=EDGE, mpp=MPP,
            mpp_source=MppSource.VENDOR, stain=Stain.BRIGHTFIELD, path=path,
        )  # fmt: skip
        job = JobSpec(
            job_id=self.job_id, key="cells", type=kind, slide_id=slide_id, branch="main", expected_tiles=4,
            parameters=parameters or JobParameters(tile_size=320, halo=96, batch_size=1),
        )  # fmt: skip
        await self.append(f"slide-{slide_id}", 0, facts)
        stream = f"workflow-{self.workflow_id}"
        submitted = WorkflowSubmitted(workflow_id=self.workflow_id, user_id="ada", name="w", jobs=(job,))
        await self.append(stream, 0, submitted)
        await self.append("seats", 0, SeatGranted(user_id="ada", seat=0))
        await self.append(stream, 1, JobStarted(job_id=self.job_id, attempt=1, slot=0))

    async def plan(self, concurrency: int = 1) -> Worker:
        """Take the started job, as the tiler does."""
        shares = Shares(2, self.process.queries, self.process.leases)
        handler = PlanHandler(self.process, self.settings, self.decoders, shares)
        worker = await self.process.bus.consume(
            topology.PLAN, handler, concurrency=concurrency, on_dead=handler.on_dead
        )
        await self.dispatch(1)
        return worker

    async def dispatch(self, attempt: int) -> None:
        work = PlanWork(job_id=self.job_id, workflow_id=self.workflow_id, user_id="ada", attempt=attempt)
        await self.process.bus.publish("work.plan", to_bytes(work), message_id=str(uuid.uuid4()))

    async def merge(self, work: MergeWork) -> Worker:
        """Take the job's tiles, as the merger does."""
        handler = MergeHandler(self.process, self.settings.microtome_data_dir, 1)
        worker = await self.process.bus.consume(topology.MERGE, handler, concurrency=1, on_dead=handler.on_dead)
        await self.process.bus.publish("work.merge", to_bytes(work), message_id=str(uuid.uuid4()))
        return worker

    async def end(self, command: Command) -> None:
        await self.process.workflows.execute(self.workflow_id, command)

    async def stopped(self, began: float) -> float:
        """The seconds until the attempt's own log says that it stopped."""
        await until(lambda: any("stopped" in line for line in self.log()), "the attempt stops")
        return time.monotonic() - began

    def log(self) -> list[str]:
        return [line.content["message"] for line in JobLog(self.settings.microtome_data_dir).read(self.job_id)]

    def pixels(self) -> list[Path]:
        return list((self.settings.tile_store_dir / self.job_id).rglob("*"))

    def artifacts(self) -> list[Path]:
        return list((self.settings.microtome_data_dir / "artifacts" / self.job_id).rglob("*"))

    async def events(self, kind: type[Message]) -> list[StoredEvent]:
        stream = await self.process.log.read_stream(f"workflow-{self.workflow_id}")
        return [event for event in stream if isinstance(event.message, kind)]


async def until(look: Callable[[], object], what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not look():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        await asyncio.sleep(0.01)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("slide") / "s.tif"
    write_synthetic_slide(path, size=EDGE, seed=5)
    return path


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(1)
    yield decoders
    decoders.close()


@pytest.fixture
async def bench(
    database_url: str,
    fresh_nats_url: str,
    decoders: Decoders,
    slide: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bench]:
    monkeypatch.setenv("MICROTOME_DATABASE_URL", database_url)
    monkeypatch.setenv("MICROTOME_NATS_URL", fresh_nats_url)
    monkeypatch.setenv("MICROTOME_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TILE_STORE_DIR", str(tmp_path / "tiles"))
    settings = TilerSettings.from_environment()
    stored = settings.microtome_data_dir / "slides" / str(uuid.uuid4()) / "s.tif"
    stored.parent.mkdir(parents=True)
    stored.write_bytes(slide.read_bytes())
    await decoders.start()
    async with connected("tiler", settings) as process:
        yield Bench(process, settings, decoders, stored)


ENDS: dict[str, Callable[[str], Command]] = {"cancelled": Cancel, "preempted": lambda job: Preempt(job, 1)}


@pytest.mark.parametrize("how", ENDS)
async def test_while_it_is_planned_or_fed(bench: Bench, how: str) -> None:
    # The only decoder is busy with somebody else's slide, so that planning waits.
    busy = asyncio.create_task(bench.decoders.call(time.sleep, 3))
    await asyncio.sleep(0.3)
    await bench.start()
    worker = await bench.plan()
    await until(lambda: "plan begins" in bench.log(), "planning begins")
    if how == "preempted":  # this one when its tiles wait for the network, which nobody runs here
        await until(lambda: [path for path in bench.pixels() if path.suffix == ".npy"], "tiles are decoded")
        await until(lambda: "planned" in bench.log(), "the plan is in the log")
    await bench.end(ENDS[how](bench.job_id))
    seconds = await bench.stopped(time.monotonic())
    assert seconds < STOPS_WITHIN_S
    await worker.stop(grace_s=1.0)
    await busy
    assert not bench.pixels()
    context = await bench.process.queries.job_context(bench.job_id)
    assert context.status is (JobStatus.CANCELLED if how == "cancelled" else JobStatus.PENDING)
    assert (context.planned is None) is (how == "cancelled")


async def test_it_can_be_started_again_at_once(bench: Bench) -> None:
    """The next attempt is fed by the same tiler while the one before it does not know yet that it is over."""
    await bench.start()
    worker = await bench.plan(concurrency=2)
    await until(lambda: bench.log().count("looks for cells") == 1, "tiles are fed")
    await bench.end(Preempt(bench.job_id, 1))
    await bench.end(Start(bench.job_id, 0))
    await bench.dispatch(2)
    await until(lambda: bench.log().count("looks for cells") == 2, "the next attempt's tiles are fed")
    await bench.stopped(time.monotonic())
    # Longer than a feeder goes without asking for its share.
    await asyncio.sleep(1.0)
    assert not await bench.events(JobFailed)
    assert [path for path in bench.pixels() if path.suffix == ".npy"]
    await bench.end(Cancel(bench.job_id))
    await until(lambda: sum("stopped" in line for line in bench.log()) == 2, "the next attempt stops")
    await worker.stop(grace_s=1.0)
    assert not [path for path in bench.pixels() if path.is_file()]


@pytest.mark.parametrize("how", ENDS)
async def test_while_it_is_merged(bench: Bench, how: str) -> None:
    await bench.start()
    work = await asyncio.to_thread(_many_tiles, bench)
    worker = await bench.merge(work)
    await until(bench.artifacts, "the merger writes")
    await bench.end(ENDS[how](bench.job_id))
    seconds = await bench.stopped(time.monotonic())
    assert seconds < STOPS_WITHIN_S
    await worker.stop(grace_s=1.0)
    assert not bench.artifacts()
    assert not await bench.events(JobSucceeded)


@pytest.mark.parametrize("how", ["succeeded", "cancelled"])
async def test_what_killed_mergers_left_goes_when_one_starts(bench: Bench, how: str) -> None:
    root = bench.settings.microtome_data_dir / "artifacts"
    store = ArtifactStore(root)
    await bench.start()
    await bench.end(Preempt(bench.job_id, 1))
    await bench.end(Start(bench.job_id, 0))
    for attempt in ("1", "2", ".draft-1-killed", ".draft-2-killed", ".draft-3-at-work"):
        (root / bench.job_id / attempt).mkdir(parents=True)
    (root / "nobody" / "1").mkdir(parents=True)

    async def left() -> set[str]:
        await clear_artifacts(bench.process.queries, store)
        return {path.name for path in bench.artifacts()}

    assert len(await left()) == 5, "the job runs"
    end = Cancel(bench.job_id) if how == "cancelled" else ReportSuccess(bench.job_id, 2, JobResult())
    await bench.end(end)
    assert await left() == {".draft-3-at-work"} | ({"2"} if how == "succeeded" else set())
    assert store.attempts("nobody") == (1,)


async def test_what_the_user_chose_is_what_is_planned_and_everybody_says_who_they_are(bench: Bench) -> None:
    given = Normalisation(low=(10.0, 11.0, 12.0), high=(200.0, 201.0, 202.0))
    region = Region(x=0, y=0, width=128, height=225)
    await bench.start(parameters=JobParameters(tile_size=320, halo=96, region=region, normalisation=given))
    worker = await bench.plan()
    await until(lambda: "planned" in bench.log(), "the plan is in the log")
    (planned,) = await bench.events(JobPlanned)
    assert isinstance(planned.message, JobPlanned)
    assert planned.message.normalisation == given
    assert (planned.message.tiles_total, planned.message.tiles_skipped) == (2, 0)
    assert planned.meta["worker"] == bench.process.owner
    assert planned.meta["host"]
    await bench.end(Cancel(bench.job_id))
    await bench.stopped(time.monotonic())
    await worker.stop(grace_s=1.0)


@pytest.mark.parametrize(
    ("deleted", "code", "said"),
    [(True, "slide-deleted", "The slide was deleted"), (False, "unreadable-slide", "There is no file s.tif")],
)
async def test_a_job_whose_slide_has_no_file_fails_for_good_and_says_why(
    bench: Bench, deleted: bool, code: str, said: str
) -> None:
    await bench.start()
    bench.slide.unlink()
    if deleted:
        slide_id = bench.slide.parent.name
        await bench.append(f"slide-{slide_id}", 1, SlideDeleted(slide_id=slide_id))
    worker = await bench.plan()
    await until(lambda: any("failed" in line for line in bench.log()), "the job fails")
    await worker.stop(grace_s=1.0)
    (failed,) = await bench.events(JobFailed)
    assert isinstance(failed.message, JobFailed)
    assert (failed.message.code, failed.message.transient, failed.message.retry_at) == (code, False, None)
    assert f"failed: {said}" in "\n".join(bench.log())


async def test_what_a_machine_cannot_do_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tile store that takes nothing: no fault of the slide. When it is tried again, the worker's clock, which is an
    hour ahead here, has no say in.
    """
    real = clock.now
    monkeypatch.setattr(clock, "now", lambda: real() + timedelta(hours=1))
    await bench.start()
    bench.settings.tile_store_dir.mkdir(exist_ok=True)
    (bench.settings.tile_store_dir / bench.job_id).write_text("in the way")
    worker = await bench.plan()
    await until(lambda: any("tried again" in line for line in bench.log()), "the attempt fails")
    await worker.stop(grace_s=1.0)
    (failed,) = await bench.events(JobFailed)
    assert isinstance(failed.message, JobFailed)
    assert (failed.message.code, failed.message.transient) == ("machine-failed", True)
    assert failed.message.retry_at is not None
    assert timedelta(0) < failed.message.retry_at - failed.at < timedelta(minutes=1)


def _many_tiles(bench: Bench, rows: int = 100) -> MergeWork:
    """Results of so many tiles that merging them takes longer than stopping."""
    results = ResultStore(bench.settings.microtome_data_dir / "results")
    mask = find_tissue(bench.slide, MPP)
    save_mask(replace(mask, bits=np.ones_like(mask.bits)), results.tissue("t"))
    nothing = np.zeros(0, np.int32)
    empty = TileCells(0, 0, nothing, nothing, nothing, nothing.astype(np.float32), np.zeros(1, np.int32),
                      np.zeros((0, 2), np.int32), np.zeros((0, len(MEASUREMENTS)), np.float32))  # fmt: skip
    first = results.tile("k", 0, 0)
    write_cells(empty, first)
    for row in range(rows):
        for column in range(rows):
            if row or column:
                results.tile("k", row, column).hardlink_to(first)
    edge = rows * 128 + 192
    return MergeWork(
        job_id=bench.job_id, workflow_id=bench.workflow_id, user_id="ada", attempt=1, content_key="k", tissue_key="t",
        grid_width=edge, grid_height=edge, tile_size=320, halo=96, scale=EDGE / edge, mpp=MPP,
        mpp_source=MppSource.VENDOR, tiles_total=rows * rows, model="embedded",
        normalisation=Normalisation(low=(0.0, 0.0, 0.0), high=(255.0, 255.0, 255.0)),
    )  # fmt: skip
