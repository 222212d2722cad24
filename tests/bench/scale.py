"""Whether cost grows with the slide and memory does not: `make bench-scale`.

Segments slides mosaicked from real tissue (without `../shared` from a generated slide) at 0.5 µm/px, each in a process
of its own that is as warm as a worker's when it has started and has run once, with all files that a job has. The last
line is one JSON object: seconds per megapixel and peak memory of each, and how far the seconds lie from their mean;
the exit status is 1 where one lies further than 10 % from it, or memory grows by more than a quarter.

Slides are made before the first is segmented (a second for each 30 million pixels, on one core). With `--slides DIR`
they stay there, and the next run takes what is there. The largest slide and its files take a byte and a half a pixel.
"""

from __future__ import annotations

import argparse
import json
import shutil
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
# The largest peak over the smallest, where memory is that of a few tiles.
MOST_GROWTH = 1.25
# Of disk, for each pixel of the slides that are made, and of the largest that is segmented: more than was seen.
SLIDE_BYTES, RESULT_BYTES = 0.5, 1.5


def source(folder: Path) -> Path:
    """What the slides are put together from."""
    real = SHARED / "slides" / "CMU-1-Small-Region.svs"
    if real.is_file():
        return real
    generated = folder / "generated.tif"
    write_synthetic_slide(generated, size=2048, seed=7)
    return generated


def prepare(edges: list[int], slides: Path, folder: Path) -> dict[int, Path]:
    """Make the slides that are not there yet, if there is room for them and for what is found on them."""
    paths = {edge: slides / f"mosaic-{edge}.tif" for edge in edges}
    missing = {edge: path for edge, path in paths.items() if not path.exists()}
    needed = {slides: SLIDE_BYTES * sum(edge**2 for edge in missing), folder: RESULT_BYTES * max(edges) ** 2}
    for place in {slides, folder}:
        room = shutil.disk_usage(place).free
        # Both may lie on one disk.
        if room < sum(needed.values()):
            raise SystemExit(f"{place} has {room / 1e9:.1f} GB of room; {sum(needed.values()) / 1e9:.1f} are wanted.")
    tissue = source(folder)
    for edge, path in missing.items():
        aside = path.with_suffix(".new.tif")
        write_mosaic(tissue, aside, width=edge, height=edge, mpp=MPP)
        aside.replace(path)
    return paths


def measure(edge: int, slide: Path, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Segment one slide of `edge` pixels a side."""
    threads = str(usable_cores())
    with Child(sys.executable, "-m", "tests.bench.engine_ours", options.model, options.engine, threads) as child:
        runs = [
            child.ask(what="segment", image=str(slide), mpp=MPP, out=str(folder / "out"), labels=None)
            for _ in range(options.repeats)
        ]
        engine = child.hello["engine"]
    written = sum(path.stat().st_size for path in (folder / "out").iterdir())
    shutil.rmtree(folder / "out")
    best = min(runs, key=lambda run: float(run["seconds"]))
    return {
        "edge": edge,
        "seconds": round(best["seconds"], 2),
        "s_per_mpix": round(best["seconds"] / (edge**2 / 1e6), 4),
        "mpix_per_s": round(edge**2 / 1e6 / best["seconds"], 2),
        "cells": best["cells"],
        "slide_mb": round(slide.stat().st_size / 1e6, 1),
        "files_mb": round(written / 1e6, 1),
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
    parser.add_argument("--slides", type=Path, metavar="DIR", help="where the slides are kept for the next run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="microtome-bench-") as name:
        folder = Path(name)
        slides = options.slides or folder
        slides.mkdir(parents=True, exist_ok=True)
        found = []
        for edge, slide in prepare(options.edges, slides, folder).items():
            found.append(measure(edge, slide, options, folder))
            print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    rates = [each["s_per_mpix"] for each in found]
    mean = statistics.mean(rates)
    spread = max(abs(rate - mean) for rate in rates) / mean
    peaks = [each["peak_mb"] for each in found]
    growth = max(peaks) / min(peaks)
    print(
        json.dumps(
            {
                "slides": found,
                "spread": round(spread, 3),
                "most_spread": MOST_SPREAD,
                "peak_mb_grows_by": round(growth, 3),
                "most_growth": MOST_GROWTH,
                "machine": machine.facts(),
            }
        )
    )
    if spread > MOST_SPREAD:
        print(f"Seconds a megapixel lie up to {spread:.0%} from their mean.", file=sys.stderr)
    if growth > MOST_GROWTH:
        print(f"Peak memory grows by a factor of {growth:.2f}.", file=sys.stderr)
    return int(spread > MOST_SPREAD or growth > MOST_GROWTH)


if __name__ == "__main__":
    raise SystemExit(main())
