"""kill -9 in the middle of a job: it ends all the same, and with the cells of an undisturbed run."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from microtome.client import ApiClient, Job, Workflow
from microtome.embedded.supervisor import SERVICES
from tests.acceptance.bare import Cells, bare_cells, cells_in
from tests.acceptance.conftest import TILES, Live, cells, until, write_on_glass

SEED = 11
TISSUE = 768
# Makes merging last long enough to be killed in.
GLASS = 3072


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Cells:
    path: Path = tmp_path_factory.mktemp("undisturbed") / "slide.tif"
    write_on_glass(path, tissue=TISSUE, edge=GLASS, seed=SEED)
    found = bare_cells(path, tile_size=TILES["tile_size"], halo=TILES["halo"])
    assert len(found) > 100
    return found


@dataclass(frozen=True)
class Underway:
    """A job in its middle."""

    user: ApiClient
    workflow: Workflow
    job: Job


async def underway(live: Live) -> Underway:
    """Start a job that nobody computed before, and wait for some of its tiles, but not all."""
    user = live.user()
    slide = await live.slide(user, size=TISSUE, seed=SEED, glass=GLASS)
    for results in (live.stack.data_dir / "results").iterdir():
        shutil.rmtree(results)
    workflow = await user.create_workflow("disturbed", [cells(slide)])
    job = await live.job(
        user, workflow["jobs"][0]["id"], lambda job: job["tiles_processed"] >= 4, "four tiles are done"
    )
    assert job["status"] == "RUNNING"
    assert job["tiles_total"] is not None
    assert job["tiles_processed"] < job["tiles_total"] - job["tiles_skipped"]
    return Underway(user, workflow, job)


async def assert_as_undisturbed(live: Live, under: Underway, undisturbed: Cells) -> Job:
    """The job succeeds, each cell is there once, and nothing lies around."""
    (job,) = (await live.finished(under.user, under.workflow))["jobs"]
    assert job["status"] == "SUCCEEDED", job["error"]
    found, _ = cells_in(await under.user.download(job["id"], "cells.parquet", live.folder / "cells.parquet"))
    assert found == undisturbed
    assert job["result"] is not None
    assert job["result"]["cells"] == len(undisturbed)
    assert not live.pixels(job["id"])
    assert not [path for path in live.artifacts(job["id"]) if path.name.startswith(".")]
    (outcomes,) = (await live.history()).of(under.workflow["id"]).values()
    assert [run.outcome for run in outcomes] == ["lost"] * (job["attempt"] - 1) + ["succeeded"]
    return job


@pytest.fixture(autouse=True)
async def all_up(live: Live) -> None:
    """A service that a test before this one killed may still be starting."""
    for name in SERVICES:
        await asyncio.to_thread(live.thread.run, live.stack.wait_ready(name))


@pytest.mark.parametrize("service", SERVICES)
async def test_a_job_outlives_the_kill_of_a_service(live: Live, undisturbed: Cells, service: str) -> None:
    under = await underway(live)
    await live.kill(service)
    job = await assert_as_undisturbed(live, under, undisturbed)
    if service == "tiler":  # its lease was lost, and what had been computed was not computed again
        assert job["attempt"] > 1
        assert job["result"] is not None
        assert job["result"]["tiles_cached"] >= under.job["tiles_processed"]
    else:
        assert job["attempt"] == 1


async def test_a_job_outlives_the_kill_of_a_merger_that_merges(live: Live, undisturbed: Cells) -> None:
    under = await underway(live)
    pid = live.stack.pid("merger")
    assert pid is not None

    await live.merging(under.job["id"])
    os.kill(pid, signal.SIGSTOP)
    assert live.drafts(under.job["id"]), "the merger was stopped in the middle"
    await live.kill("merger")
    job = await assert_as_undisturbed(live, under, undisturbed)
    assert job["attempt"] == 2


async def test_a_job_outlives_the_kill_of_postgres(live: Live, undisturbed: Cells) -> None:
    under = await underway(live)
    before = await live.events()
    await live.kill("postgres")
    await assert_as_undisturbed(live, under, undisturbed)
    assert (await live.events())[: len(before)] == before


async def test_a_job_goes_on_in_the_same_attempt_when_services_are_restarted(live: Live, undisturbed: Cells) -> None:
    under = await underway(live)
    restarted = ("tiler", "inference")
    pids = {name: live.stack.pid(name) for name in restarted}
    for pid in pids.values():
        assert pid is not None
        os.kill(pid, signal.SIGTERM)
    job = await assert_as_undisturbed(live, under, undisturbed)
    assert job["attempt"] == 1
    for name in restarted:
        assert live.stack.pid(name) != pids[name]
        ends = [line for line in live.stack.log(name).read_text().splitlines() if line.startswith("[supervisor]")]
        assert " ended with 0," in ends[-1]


async def test_a_job_cancelled_while_its_tiler_is_dead_leaves_no_pixels(live: Live) -> None:
    under = await underway(live)
    await live.kill("tiler")
    assert live.pixels(under.job["id"])
    await under.user.cancel(under.job["id"])

    async def clean() -> bool:
        return not live.pixels(under.job["id"])

    await until(clean, "the next tiler clears up")


async def test_a_job_outlives_the_loss_of_all_of_jetstream(live: Live, undisturbed: Cells) -> None:
    under = await underway(live)
    store = live.stack.home / "nats" / "jetstream"
    assert any(store.rglob("*.blk")), "NATS does not keep its streams here"
    with live.paused("inference"), live.paused("nats"):
        shutil.rmtree(store)
        await live.kill("nats")
    job = await assert_as_undisturbed(live, under, undisturbed)
    assert job["attempt"] == 1
    resent = [line for line in live.logged("tiler") if "sent again" in line["message"]]
    assert job["id"] in {line["job_id"] for line in resent}, "no tiles were lost with the queue"
