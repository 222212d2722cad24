"""A million cells through merge and all exports: `python -m tests.bench.million`.

Three procedural tile results, full of ellipses of the size of nuclei and measured as real ones are, are repeated over a
large grid and written into a result store. A fresh process then does what a merger does: it reads every tile, writes
all files of a job, hashes and publishes them. Also with a tenth of the cells, to see whether memory grows with them.
The last line is one JSON object: seconds in all, seconds and megabytes of each file, and peak resident memory. The exit
status is 1 where a million cells take longer, or more memory, than they may.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil

from microtome.artifacts import making
from microtome.artifacts.files import CellFiles
from microtome.artifacts.formats import CELL_FORMATS
from microtome.artifacts.making import Order, Segmentation, SourceSlide, along_curve, write_segmentation
from microtome.artifacts.store import ArtifactStore
from microtome.segmentation.cells import TileCells, write_cells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.measuring import measure_cells
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.stains import HE
from microtome.slides.synthetic import write_synthetic_slide
from microtome.tilestore import ResultStore
from microtome.tissue.mask import TissueMask, TissueParameters
from tests.bench import machine

KEY = "ab" * 32
TILE, HALO, SCALE, MPP = 1024, 96, 2.0, 0.25
GOAL_S, GOAL_MB = 30.0, 1500.0
# Pixels from nucleus to nucleus: from loose tissue to lymphocytes side by side.
PITCHES = (22, 25, 32)


def crowded(side: int, pitch: int) -> TileCells:
    """`side` x `side` pixels full of ellipses, with seeds inside, measured on noise."""
    random = np.random.default_rng(pitch)
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[-10:11, -10:11]
    corners = [(r, c) for r in range(0, side - 21, pitch) for c in range(0, side - 21, pitch)]
    for name, (row, column) in enumerate(corners, start=1):
        a, b, angle = random.uniform(5, 9.5), random.uniform(4, 9), random.uniform(0, np.pi)
        across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        labels[row : row + 21, column : column + 21][(across / a) ** 2 + (down / b) ** 2 < 1] = name
    names = np.arange(1, len(corners) + 1, dtype=np.int32)
    corner = np.array(corners, np.int32)
    box = np.concatenate([corner, corner + 21], axis=1)
    area, offsets, points = trace_contours(labels, names, box)
    pixels = random.integers(0, 256, (side, side, 3)).astype(np.uint8)
    measured = measure_cells(labels, names, box, area, offsets, points, pixels, HE)
    score = random.uniform(0.5, 1, len(names)).astype(np.float32)
    return TileCells(0, 0, corner[:, 0] + 10, corner[:, 1] + 10, area, score, offsets, points, measured)


def moved(cells: TileCells, tile: Tile) -> TileCells:
    """The same cells as those of another tile."""
    x, y = np.int32(tile.core.x), np.int32(tile.core.y)
    return replace(
        cells,
        row=tile.row,
        column=tile.column,
        seed_y=cells.seed_y + y,
        seed_x=cells.seed_x + x,
        ring_points=cells.ring_points + 2 * np.array([x, y], np.int32),
        seconds={"network": 1.0, "idle": 0.01},
    )


def prepare(home: Path, cells: int) -> Grid:
    """Write results of so many cells; give the grid that they fill."""
    core = TILE - 2 * HALO
    sources = [crowded(core, pitch) for pitch in PITCHES]
    # One tile more a side, as not every square has as many of each kind.
    across = math.ceil(math.sqrt(cells / np.mean([len(source) for source in sources]))) + 1
    # The outer tiles' cores are larger by a halo, which stays empty.
    side = across * core + 2 * HALO
    grid = Grid(side, side, TILE, HALO)
    store, left = ResultStore(home / "results"), cells
    for number, tile in enumerate(grid.tiles()):
        source = moved(sources[number % len(sources)], tile)
        some = source if len(source) <= left else source.chosen(np.arange(len(source)) < left)
        write_cells(some, store.tile(KEY, tile.row, tile.column))
        left -= len(some)
    assert left == 0
    return grid


class Timed(CellFiles):
    """Remembers what each file cost."""

    spent: dict[str, float]

    def __exit__(self, *error: object) -> None:
        began = time.perf_counter()
        super().__exit__(*error)
        Timed.spent = {**self.seconds, "closing": time.perf_counter() - began}


def merge(home: Path, side: int) -> dict[str, object]:
    """What a merger does, in this process."""
    making.CellFiles = Timed
    results, artifacts = ResultStore(home / "results"), ArtifactStore(home / "artifacts")
    grid = Grid(side, side, TILE, HALO)
    size = round(side * SCALE)
    slide = SourceSlide(
        slide_id="slide", sha256="0" * 64, path=home / "slide.tif", width=size, height=size, mpp=MPP, mpp_source="user"
    )
    bits = np.ones((1024, 1024), np.bool_)
    mask = TissueMask(bits, size, size, (size / 1024,) * 2, MPP * size / 1024, 0.05, TissueParameters(), ())
    wanted = along_curve(grid.tiles())
    how = Segmentation(
        grid=grid, scale=SCALE, content_key=KEY, tiles_total=len(grid), tiles_skipped=0, model="none",
        model_digest="cd" * 32, normalisation=Normalisation((0, 0, 0), (255, 255, 255)),
        planned=frozenset((tile.row, tile.column) for tile in wanted),
    )  # fmt: skip
    before = machine.peak_rss_mb(psutil.Process())
    cpu, began = time.process_time(), time.perf_counter()
    tiles = (results.read(KEY, tile.row, tile.column) for tile in wanted)
    with artifacts.draft("job", 1) as draft:
        summary = write_segmentation(
            tiles, Order(slide=slide, mask=mask, formats=CELL_FORMATS), how, draft, lambda _tiles, _cells: None
        )
        written = time.perf_counter()
        files = artifacts.publish(draft, "job", 1)
    done = time.perf_counter()
    return {
        "cells": summary.cells,
        "tiles": summary.tiles_processed,
        "seconds": round(done - began, 2),
        "write_s": round(written - began, 2),
        "publish_s": round(done - written, 2),
        "cpu_s": round(time.process_time() - cpu, 2),
        "of_files_s": {name: round(seconds, 2) for name, seconds in Timed.spent.items()},
        "megabytes": {file.name: round(file.size_bytes / 1e6, 1) for file in files},
        "sha256": {file.name: file.sha256 for file in files if file.name != "summary.json"},
        "imported_rss_mb": round(before, 1),
        "peak_rss_mb": round(machine.peak_rss_mb(psutil.Process()), 1),
        "seams": summary.seams,
    }


def measure(home: Path, cells: int) -> dict[str, object]:
    """Prepare, and merge in a process of its own."""
    home.mkdir()
    grid = prepare(home, cells)
    write_synthetic_slide(home / "slide.tif", size=2048, seed=1)
    os.sync()
    command = [sys.executable, "-m", "tests.bench.million", "--merge", str(home), "--side", str(grid.width)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    shutil.rmtree(home)
    found: dict[str, object] = json.loads(answer.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--merge", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.merge:
        print(json.dumps(merge(options.merge, options.side)))
        return 0
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    try:
        # The first one also compiles what no run before has compiled.
        few = measure(home / "few", options.cells // 10)
        print(json.dumps(few), flush=True)
        many = measure(home / "many", options.cells)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps({**many, "peak_rss_mb_of_a_tenth": few["peak_rss_mb"], "machine": machine.facts()}))
    return int(float(str(many["seconds"])) > GOAL_S or float(str(many["peak_rss_mb"])) > GOAL_MB)


if __name__ == "__main__":
    raise SystemExit(main())
