"""What each service's memory is on a small and on a large slide: `make bench-memory`.

Segments two mosaics of the same tissue, 5,000 and 20,000 pixels a side, each through a fresh stack, and compares the
peak resident memory of every service, decoding processes included. The last line is one JSON object. Pages that
processes share are counted in each of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from microtome.embedded.supervisor import EmbeddedStack
from microtome.slides.mosaic import write_mosaic
from microtome.slides.synthetic import write_synthetic_slide
from tests.bench import machine
from tests.bench.pipeline import REAL, WORKERS, through_services

# As a 40x scanner has it; so a quarter of the pixels reach the network.
MPP = 0.25


async def segment(slide: Path, home: Path) -> dict[str, Any]:
    """Segment one slide through a stack of its own."""
    home.mkdir()
    home.chmod(0o755)
    downloads = home / "downloads"
    downloads.mkdir()
    async with EmbeddedStack(home / "stack") as stack:
        run = await through_services(stack, slide, downloads)
        memory = machine.peaks({name: pid for name in WORKERS if (pid := stack.pid(name)) is not None})
        restarts = sum(stack.restarts(name) for name in WORKERS)
    if restarts:
        raise SystemExit("a service was restarted, so its peak is not known")
    return {
        "seconds": round(run["seconds"], 1),
        "tiles": run["summary"]["tiles_processed"],
        "cells": run["summary"]["cells"],
        "slide_mb": round(slide.stat().st_size / 2**20, 1),
        "peak_rss_mb": memory,
    }


def measure(sizes: list[int], home: Path) -> dict[str, Any]:
    """Segment a mosaic of each size; returns what the last line says."""
    source = REAL
    if not source.exists():
        source = home / "synthetic.tif"
        write_synthetic_slide(source, size=2048, seed=1)
    runs = {}
    for size in sizes:
        slide = home / f"mosaic-{size}.tif"
        write_mosaic(source, slide, width=size, height=size, mpp=MPP)
        runs[str(size)] = asyncio.run(segment(slide, home / str(size)))
        print(size, json.dumps(runs[str(size)]), flush=True)
    first, last = (runs[str(size)]["peak_rss_mb"] for size in (min(sizes), max(sizes)))
    growth = {name: round(last[name] - first[name], 1) for name in last if name in first}
    return {"mpp": MPP, "source": source.name, "runs": runs, "growth_mb": growth, "machine": machine.facts()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000], help="pixels a side")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    home.chmod(0o755)
    try:
        print(json.dumps(measure(options.sizes, home)))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
