"""Microtome's own ways over a slide without the stack; started by `bench-engine`.

    python -m tests.bench.engine_ours MODEL ENGINE THREADS

Reads one JSON object a line: {"what": "engine" | "segment", "image": path, "mpp": µm per pixel, "out": folder,
"labels": path to write the label image to, or null}; answers with one. "engine": from the file to its cells.geojson, as
the package does it. "segment": what `microtome segment` does, with all files. Model, engine and compiled code are
loaded, and have run once, before the first is read; nothing that was read or decoded is kept from one run to the next.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.making import along_curve, idle_fraction
from microtome.artifacts.outlines import outlines
from microtome.heap import keep_freed_memory
from microtome.segmentation.cells import TileCells
from microtome.segmentation.engine import Engine
from microtome.segmentation.engines import open_engine
from microtome.segmentation.grid import STRIDE, Grid, Tile
from microtome.segmentation.model import Model, load_model
from microtome.segmentation.run import segment
from microtome.segmentation.sampling import measure_normalisation, sampling_grid
from microtome.segmentation.warming import warm_up
from microtome.slides import opening, resample, thumbnail, tiff_tiles
from microtome.slides.conversion import make_readable
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import MPP, write_synthetic_slide
from microtome.standalone.labels import LabelImage
from microtome.standalone.running import Wishes, segment_image
from microtome.tissue.fitting import LARGEST, fitting_grid
from microtome.tissue.ground import Ground
from microtome.tissue.mask import find_tissue
from microtome.tissue.tiles import blocks_with_tissue, tiles_with_tissue
from tests.bench.convolution import Executed


class Bare:
    """The engine alone: tissue, normalisation, network, head, cells.geojson."""

    def __init__(self, model: Model, engine: Engine, threads: int) -> None:
        self._model, self._engine, self._threads = model, engine, threads
        self._executed = Executed.of(model, engine.name)

    def run(self, image: Path, mpp: float, out: Path) -> tuple[dict[str, Any], list[TileCells], Grid]:
        """One run; the clock runs from the file to the whole cells.geojson."""
        seconds: Counter[str] = Counter()
        began = time.perf_counter()
        link = out / image.name
        link.symlink_to(image.resolve())
        image, _ = make_readable(link, passing=True)
        reader = SlideReader(image, mpp, self._model.mpp)
        opened = time.perf_counter()
        mask = find_tissue(image, mpp)
        found = time.perf_counter()
        scale = reader.scale[0]
        grid = fitting_grid(reader.width, reader.height, self._model.halo, mask, scale)
        tiles = along_curve(tiles_with_tissue(grid, mask, scale))
        blocks = blocks_with_tissue(sampling_grid(reader.width, reader.height), mask, scale)
        measured = measure_normalisation(reader, blocks, self._model.percentiles, grid, tiles, threads=self._threads)
        planned = time.perf_counter()
        results, written = [], 0.0
        with CellsGeoJson(out / "cells.geojson", threads=self._threads) as file:
            for _, cells in segment(
                reader, self._model, self._engine, grid,
                normalisation=measured, tiles=tiles, ground=Ground(mask, scale).of,
                decoders=self._threads, workers=self._threads,
            ):  # fmt: skip
                start = time.perf_counter()
                file.append(outlines(cells, scale, "0" * 64))
                written += time.perf_counter() - start
                seconds.update(cells.seconds)
                results.append(cells)
        ended = time.perf_counter()
        stages = {
            "open": opened - began,
            "tissue": found - opened,
            "plan": planned - found,
            **seconds,
            "write": written,
        }
        pixels = sum(cells.network_px for cells in results)
        told = {
            "seconds": ended - began,
            "stages": stages,
            "network_mpix": pixels / 1e6,
            "network_gflop": sum(map(self._flops, tiles, results)) / 1e9,
            "tiles": len(tiles),
        }
        return told, results, grid

    def _flops(self, tile: Tile, cells: TileCells) -> float:
        """Operations of the convolutions for a tile's patches."""
        halo = -(-self._model.halo_min // STRIDE) * STRIDE
        return sum(self._executed.flops(taken.grown(halo).intersection(tile.padded), taken) for taken in cells.patches)


def forget() -> None:
    """Drop what this process keeps of slides."""
    opening._cache.clear()
    opening._decoded.clear()
    opening._whole.clear()
    tiff_tiles.forget_tiles()
    thumbnail._kept.cache_clear()


def answer(wish: dict[str, Any], model: Model, engine: Engine, threads: int) -> dict[str, Any]:
    """One run."""
    out, image = Path(wish["out"]), Path(wish["image"])
    shutil.rmtree(out, ignore_errors=True)
    forget()
    if wish["what"] == "segment":
        began = time.perf_counter()
        wishes = Wishes(image=image, out=out, mpp=wish["mpp"], threads=threads)
        summary = segment_image(wishes, lambda _: engine, lambda *_: None)
        seconds = time.perf_counter() - began
        stages = dict(summary.stage_seconds)
        return {"seconds": seconds, "cells": summary.cells, "stages": stages, "idle": summary.engine_idle_fraction}
    out.mkdir(parents=True)
    told, results, grid = Bare(model, engine, threads).run(image, wish["mpp"], out)
    if wish["labels"]:
        labels = LabelImage(grid.width, grid.height)
        for found in results:
            labels.draw(found)
        np.save(wish["labels"], labels.pixels)
    return {
        **told,
        "cells": sum(map(len, results)),
        "idle": idle_fraction(told["stages"]),
        "engine": engine.name,
        "note": engine.note,
    }


def ready(model: Model, engine: Engine, threads: int) -> None:
    """Make everything ready as a worker does; then run once on a small slide, both ways."""
    warm_up(model, engine, LARGEST)
    resample.warm_up()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_synthetic_slide(folder / "slide.tif", size=1024, seed=1)
        for what in ("engine", "segment"):
            wish = {"what": what, "image": str(folder / "slide.tif"), "mpp": MPP, "out": str(folder / "out")}
            answer({**wish, "labels": str(folder / "labels.npy")}, model, engine, threads)


def main() -> None:
    name, wish, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    keep_freed_memory()
    model = load_model(name)
    engine = open_engine(model, wish, threads)
    ready(model, engine, threads)
    print(json.dumps({"ready": True, "engine": engine.name, "note": engine.note}), file=answers)
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), model, engine, threads)), file=answers)


if __name__ == "__main__":
    main()
