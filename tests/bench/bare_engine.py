"""The bare engine on one slide, in a process of its own: what the services are measured against.

Prints one JSON line. The clock starts when model and compiled code are warm, and runs from the slide's file to the last
cell: tissue, normalisation, decoding, network, outlines. Nothing is written.

    python -m tests.bench.bare_engine SLIDE --mpp 0.25 --tile-size 1024 --halo 96
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import psutil

from microtome.heap import keep_freed_memory
from microtome.segmentation.engines import open_engine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.run import segment
from microtome.segmentation.sampling import sample_histogram, sampling_grid, spread
from microtome.segmentation.warming import warm_up
from microtome.slides.reader import SlideReader
from microtome.slides.resample import warm_up as warm_up_resampling
from microtome.tissue.ground import Ground
from microtome.tissue.mask import find_tissue
from microtome.tissue.tiles import blocks_with_tissue, tiles_with_tissue

HEAD_WORKERS = 2


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("slide", type=Path)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--tile-size", type=int, required=True)
    parser.add_argument("--halo", type=int, required=True)
    options = parser.parse_args()
    keep_freed_memory()
    model = load_model(options.model)
    engine = open_engine(model)
    warm_up(model, engine, options.tile_size)
    warm_up_resampling()

    process = psutil.Process()
    cpu = sum(process.cpu_times()[:2])
    began = time.perf_counter()
    mask = find_tissue(options.slide, options.mpp)
    reader = SlideReader(options.slide, options.mpp, model.mpp)
    grid = Grid(reader.width, reader.height, options.tile_size, options.halo)
    wanted = tiles_with_tissue(grid, mask, reader.scale[0])
    blocks = blocks_with_tissue(sampling_grid(reader.width, reader.height), mask, reader.scale[0])
    normalisation = Normalisation.from_histogram(sample_histogram(reader, spread(blocks)), model.percentiles)
    planned = time.perf_counter()
    chosen = {(tile.row, tile.column) for tile in wanted}
    cells = sum(
        len(found)
        for _, found in segment(
            reader,
            model,
            engine,
            grid,
            normalisation=normalisation,
            wanted=lambda tile: (tile.row, tile.column) in chosen,
            ground=Ground(mask, reader.scale[0]).of,
            workers=HEAD_WORKERS,
        )
    )
    ended = time.perf_counter()
    print(
        json.dumps(
            {
                "seconds": ended - began,
                "plan_s": planned - began,
                "cpu_s": sum(process.cpu_times()[:2]) - cpu,
                "tiles": len(wanted),
                "cells": cells,
                "low": normalisation.low,
                "high": normalisation.high,
                "peak_rss_mb": peak_rss_mb(),
            }
        )
    )
    return 0


def peak_rss_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
