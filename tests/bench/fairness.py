"""What a user with few tiles notices of a user with many: `make bench-fairness`.

One stack, with its defaults. User A has a large slide, user B a small one; B's job is timed (accepted → succeeded)
alone, beside one running job of A, beside three, and beside as many as there are worker slots. B is a new user each
time, so nothing of B's is computed twice. The last line is one JSON object; factors are against B alone. As long as
two users are served, half of the network is B's, so a factor should be a little over 2, however much A runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from microtome.client import ApiClient
from microtome.embedded.supervisor import EmbeddedStack
from microtome.slides.mosaic import write_mosaic
from microtome.slides.synthetic import MPP, write_synthetic_slide
from tests.bench import machine

# Edges in pixels of the model's size, for tiles of 1024 with a halo of 96: cores of 832.
TILE, CORE = 1024, 832
SMALL = 4 * CORE, 3 * CORE
LARGE = 20 * CORE, 20 * CORE
MAX_WORKERS = 4
# Different grids of one slide, so that A's jobs have no tile in common.
HALOS = (96, 112, 128, 144)
FINISHED = ("SUCCEEDED", "FAILED", "CANCELLED", "SKIPPED")


async def run_small(stack: EmbeddedStack, slide: Path) -> dict[str, Any]:
    """Time B's job; return its seconds, from acceptance to success, and its tiles."""
    async with ApiClient(stack.url, f"b-{uuid.uuid4().hex[:8]}") as b:
        uploaded = await b.upload_slide(slide)
        began = time.perf_counter()
        workflow = await b.create_workflow(
            "small",
            [
                {
                    "key": "cells",
                    "type": "SEGMENT_CELLS",
                    "slide_id": uploaded["id"],
                    "parameters": {"halo": HALOS[0], "tile_size": TILE},
                }
            ],
        )
        job_id = workflow["jobs"][0]["id"]
        while (job := await b.job(job_id))["status"] not in FINISHED:
            await asyncio.sleep(0.05)
        seconds = time.perf_counter() - began
        if job["status"] != "SUCCEEDED":
            raise SystemExit(f"the small job did not succeed: {job['error']}")
        assert job["result"] is not None
        return {"seconds": seconds, "tiles": job["result"]["tiles_processed"]}


async def tiles_done(a: ApiClient, jobs: list[str]) -> list[int]:
    """How many tiles of A's jobs have a result."""
    return [(await a.job(job))["tiles_processed"] for job in jobs]


async def beside(stack: EmbeddedStack, large: Path, small: Path, jobs: int) -> dict[str, Any]:
    """Time B's job beside `jobs` of A's, all of which have had tiles through the network."""
    async with ApiClient(stack.url, f"a-{uuid.uuid4().hex[:8]}") as a:
        uploaded = await a.upload_slide(large)
        workflow = await a.create_workflow(
            "large",
            [
                {
                    "key": f"cells{halo}",
                    "type": "SEGMENT_CELLS",
                    "slide_id": uploaded["id"],
                    "branch": f"b{halo}",
                    "parameters": {"halo": halo, "tile_size": TILE},
                }
                for halo in HALOS[:jobs]
            ],
        )
        ids = [job["id"] for job in workflow["jobs"]]
        while min(before := await tiles_done(a, ids)) < 2:
            await asyncio.sleep(0.2)
        measured = await run_small(stack, small)
        after = await tiles_done(a, ids)
        for job_id in ids:
            await a.cancel(job_id)
        while "RUNNING" in [(await a.job(job_id))["status"] for job_id in ids]:
            await asyncio.sleep(0.1)
        return {**measured, "tiles_of_a_meanwhile": sum(after) - sum(before)}


async def measure(home: Path, repeats: int, most: int) -> dict[str, Any]:
    """All runs; returns what the last line says."""
    source, large, small = home / "source.tif", home / "large.tif", home / "small.tif"
    write_synthetic_slide(source, size=3072, seed=1)
    write_mosaic(source, large, width=LARGE[0], height=LARGE[1], mpp=MPP)
    write_mosaic(source, small, width=SMALL[0], height=SMALL[1], mpp=MPP)
    runs: dict[int, list[dict[str, Any]]] = {}
    async with EmbeddedStack(home / "stack", env={"MAX_WORKERS": str(MAX_WORKERS)}) as stack:
        await run_small(stack, small)
        for _ in range(repeats):
            for jobs in (0, 1, 3, MAX_WORKERS):
                if jobs <= most:
                    run = await (beside(stack, large, small, jobs) if jobs else run_small(stack, small))
                    print(json.dumps({"beside": jobs, **run}), flush=True)
                    runs.setdefault(jobs, []).append(run)
    seconds = {jobs: statistics.median(run["seconds"] for run in those) for jobs, those in runs.items()}
    named = {0: "alone", 1: "beside_one", 3: "beside_three", MAX_WORKERS: "beside_all_slots"}
    return {
        **{f"b_{named[jobs]}_s": round(value, 3) for jobs, value in seconds.items()},
        **{f"factor_{named[jobs]}": round(value / seconds[0], 3) for jobs, value in seconds.items() if jobs},
        # In tiles instead of seconds: what the network did from B's wish to B's end, over B's own part of it. What else
        # this machine does at the time does not show in it.
        **{f"factor_in_tiles_{named[jobs]}": round(_in_tiles(those), 3) for jobs, those in runs.items() if jobs},
        "b_tiles": runs[0][0]["tiles"],
        "a_tiles_each": (LARGE[0] // CORE) * (LARGE[1] // CORE),
        "repeats": repeats,
        "machine": machine.facts(),
    }


def _in_tiles(runs: list[dict[str, Any]]) -> float:
    return statistics.median((run["tiles"] + run["tiles_of_a_meanwhile"]) / run["tiles"] for run in runs)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--most", type=int, default=MAX_WORKERS, help="at most so many jobs of A's at once")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    home.chmod(0o755)  # Postgres enters it as another user where this runs as root.
    try:
        print(json.dumps(asyncio.run(measure(home, options.repeats, options.most))))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
