"""What the services add to the bare engine: `make bench-pipeline`.

Alternates, in one run, the whole stack (workflow accepted → every artifact downloaded) and the bare engine (slide's
file → last cell) on the same slide, tiles, grid and normalisation; both must find the same number of cells. Each run of
the services begins with an empty result store and a newly uploaded slide; model and compiled code are warm on both
sides. The last line is one JSON object; seconds are medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from microtome.client import ApiClient
from microtome.embedded.supervisor import EmbeddedStack
from microtome.slides.inspection import inspect_slide
from microtome.slides.synthetic import write_synthetic_slide
from tests.bench import machine

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "slides" / "CMU-1-Small-Region.svs"
WORKERS = ("gateway", "scheduler", "tiler", "inference", "merger")


async def through_services(stack: EmbeddedStack, slide: Path, downloads: Path) -> dict[str, Any]:
    """One run; returns its seconds, CPU seconds and the job's summary."""
    for entry in (stack.data_dir / "results").glob("*"):
        shutil.rmtree(entry)
    pids = [pid for name in (*WORKERS, "nats", "postgres") if (pid := stack.pid(name)) is not None]
    async with ApiClient(stack.url, "bench") as client:
        uploaded = await client.upload_slide(slide)
        cpu = machine.cpu_seconds(pids)
        workflow = await client.create_workflow(
            "bench", [{"key": "cells", "type": "SEGMENT_CELLS", "slide_id": uploaded["id"]}]
        )
        began = time.perf_counter()
        job_id = workflow["jobs"][0]["id"]
        timeline: dict[str, float] = {}
        job: Any = None
        fetching: asyncio.Task[list[Path]] | None = None
        async for message in client.watch(workflow["id"]):
            if message["kind"] == "progress":
                timeline.setdefault(message["stage"], round(time.perf_counter() - began, 3))
            elif message["kind"] == "event":
                timeline.setdefault(message["type"], round(time.perf_counter() - began, 3))
                if message["type"] == "JobSucceeded":
                    # The fact says which files there are; what the workflow looks like with it comes after it.
                    told = [artifact["name"] for artifact in message["data"]["result"]["artifacts"]]
                    fetching = asyncio.create_task(client.download_files(job_id, told, downloads))
            else:
                (job,) = message["workflow"]["jobs"]
        # The last of the snapshots says how it ended.
        if job is None or job["status"] != "SUCCEEDED":
            raise SystemExit(f"the job did not succeed: {job and job['error']}")
        names = [artifact["name"] for artifact in job["result"]["artifacts"]]
        # Of a connection that came after the fact it was only the snapshot that told of it.
        fetched = await (fetching or client.download_files(job_id, names, downloads))
        if {path.name for path in fetched} != set(names):
            raise SystemExit(f"fetched were {fetched}, not {names}")
        timeline["fetched"] = round(time.perf_counter() - began, 3)
        seconds = time.perf_counter() - began
        cpu_s = machine.cpu_seconds(pids) - cpu
        summary = (await client.result(job_id))["summary"]
    return {"seconds": seconds, "cpu_s": cpu_s, "timeline": timeline, "summary": summary}


async def through_engine(slide: Path, mpp: float, summary: dict[str, Any]) -> dict[str, Any]:
    """One run in a fresh process, with the grid that the services used."""
    command = [sys.executable, "-m", "tests.bench.bare_engine", str(slide), "--mpp", str(mpp)]
    command += ["--tile-size", str(summary["tile_size"]), "--halo", str(summary["halo"])]
    child = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
    out, _ = await child.communicate()
    if child.returncode != 0:
        raise SystemExit(f"the bare engine failed with status {child.returncode}")
    result: dict[str, Any] = json.loads(out.splitlines()[-1])
    return result


def check_equal(services: dict[str, Any], engine: dict[str, Any]) -> None:
    """Two ways to do other work are not to be compared."""
    summary = services["summary"]
    ranges = summary["normalisation"]["low"], summary["normalisation"]["high"]
    ours = (summary["tiles_processed"], summary["cells"], *ranges)
    theirs = (engine["tiles"], engine["cells"], engine["low"], engine["high"])
    if ours != theirs or summary["tiles_cached"]:
        raise SystemExit(f"the services did {ours}, the engine {theirs}")


async def measure(slide: Path, repeats: int, home: Path) -> dict[str, Any]:
    """All runs, alternating; returns what the last line says."""
    mpp = inspect_slide(slide).mpp
    assert mpp is not None, "the slide of the benchmark knows its pixel size"
    downloads = home / "downloads"
    downloads.mkdir()
    services, engines = [], []
    async with EmbeddedStack(home / "stack") as stack:
        warm = await through_services(stack, slide, downloads)
        print("warm", json.dumps(_brief(warm)), flush=True)
        for number in range(repeats):
            # Whoever goes second finds the caches as the other left them: take turns.
            for who in ("services", "engine") if number % 2 == 0 else ("engine", "services"):
                if who == "services":
                    services.append(await through_services(stack, slide, downloads))
                    print(who, json.dumps(_brief(services[-1])), flush=True)
                else:
                    engines.append(await through_engine(slide, mpp, warm["summary"]))
                    print(who, json.dumps(engines[-1]), flush=True)
            check_equal(services[-1], engines[-1])
        memory = machine.peaks({name: pid for name in WORKERS if (pid := stack.pid(name)) is not None})
    services_s, engine_s = (statistics.median(run["seconds"] for run in runs) for runs in (services, engines))
    services_cpu, engine_cpu = (statistics.median(run["cpu_s"] for run in runs) for runs in (services, engines))
    return {
        "services_s": round(services_s, 3),
        "engine_s": round(engine_s, 3),
        "services_over_engine": round(services_s / engine_s, 3),
        # The least disturbed runs of each: on a shared machine the medians tell more about the neighbours.
        "best_over_best": round(min(run["seconds"] for run in services) / min(run["seconds"] for run in engines), 3),
        "services_cpu_s": round(services_cpu, 3),
        "engine_cpu_s": round(engine_cpu, 3),
        "services_cpu_over_engine_cpu": round(services_cpu / engine_cpu, 3),
        "tiles": engines[-1]["tiles"],
        "cells": engines[-1]["cells"],
        "tiles_per_second": round(engines[-1]["tiles"] / services_s, 3),
        "repeats": repeats,
        "slide": slide.name,
        "peak_rss_mb": {**memory, "engine": round(max(run["peak_rss_mb"] for run in engines), 1)},
        "machine": machine.facts(),
    }


def _brief(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "seconds": round(run["seconds"], 3),
        "cpu_s": round(run["cpu_s"], 3),
        "timeline": run["timeline"],
        "stage_seconds": run["summary"]["stage_seconds"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    home.chmod(0o755)  # Postgres enters it as another user where this runs as root.
    try:
        slide = options.slide or (REAL if REAL.exists() else home / "synthetic.tif")
        if not slide.exists():
            write_synthetic_slide(slide, size=3072, seed=1)
        print(json.dumps(asyncio.run(measure(slide, options.repeats, home))))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
