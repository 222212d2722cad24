"""Whether cost grows with the slide and memory does not: `make bench-scale`.

Segments slides mosaicked from real tissue (without `../shared` from a generated slide) at 0.5 µm/px, each in a process
of its own that has loaded its model and its compiled code and has run once, with all files that a job has. The last
line is one JSON object: seconds per megapixel and peak memory of each, and how far the seconds lie from their mean;
the exit status is 1 where one lies further than 10 % from it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from microtome.segmentation.engine import usable_cores
from microtome.slides.mosaic import write_mosaic
from microtome.slides.synthetic import write_synthetic_slide
from tests.bench import machine
from tests.bench.child import Child
from tests.bench.engine import MPP, SHARED

# How far seconds a megapixel may lie from their mean where cost grows with the slide and with nothing else.
MOST_SPREAD = 0.10


def source(folder: Path) -> Path:
    """What the slides are put together from."""
    real = SHARED / "slides" / "CMU-1-Small-Region.svs"
    if real.is_file():
        return real
    generated = folder / "generated.tif"
    write_synthetic_slide(generated, size=2048, seed=7)
    return generated


def measure(edge: int, tissue: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Segment one slide of `edge` pixels a side."""
    slide = folder / f"{edge}.tif"
    write_mosaic(tissue, slide, width=edge, height=edge, mpp=MPP)
    threads = str(usable_cores())
    with Child(sys.executable, "-m", "tests.bench.engine_ours", options.model, options.engine, threads) as child:
        runs = [
            child.ask(what="segment", image=str(slide), mpp=MPP, out=str(folder / "out"), labels=None)
            for _ in range(options.repeats)
        ]
        engine = child.hello["engine"]
    slide.unlink()
    best = min(runs, key=lambda run: float(run["seconds"]))
    return {
        "edge": edge,
        "seconds": round(best["seconds"], 2),
        "s_per_mpix": round(best["seconds"] / (edge**2 / 1e6), 4),
        "cells": best["cells"],
        "peak_mb": round(max(run["peak_mb"] for run in runs), 1),
        "idle": best["idle"],
        "stages": {name: round(value, 2) for name, value in best["stages"].items()},
        "engine": engine,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, nargs="+", default=[5_000, 10_000, 20_000], help="pixels a side")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as name:
        folder = Path(name)
        tissue = source(folder)
        found = []
        for edge in options.edges:
            found.append(measure(edge, tissue, options, folder))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    rates = [each["s_per_mpix"] for each in found]
    mean = statistics.mean(rates)
    spread = max(abs(rate - mean) for rate in rates) / mean
    print(
        json.dumps(
            {
                "slides": found,
                "spread": round(spread, 3),
                "most_spread": MOST_SPREAD,
                "peak_mb_grows_by": round(found[-1]["peak_mb"] / found[0]["peak_mb"], 3),
                "machine": machine.facts(),
            }
        )
    )
    if spread > MOST_SPREAD:
        print(f"Seconds a megapixel lie up to {spread:.0%} from their mean.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
