"""What writing a cell costs: `python -m tests.bench.artifacts`.

Writes synthetic cells, tile after tile, as the merger does. The last line is one JSON object: CPU microseconds for each
cell and writer, and the peak resident memory after a tenth of the cells and after all of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import outlines
from microtome.artifacts.preview import Preview
from microtome.segmentation.cells import TileCells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.measuring import measure_cells
from microtome.segmentation.stains import HE
from tests.bench import machine

SIDE, PITCH = 1024, 22
TILES_ACROSS = 10


def crowded_tile() -> TileCells:
    """A tile full of ellipses of the size of nuclei."""
    random = np.random.default_rng(0)
    labels = np.zeros((SIDE, SIDE), np.int32)
    y, x = np.mgrid[-10:11, -10:11]
    corners = [(r, c) for r in range(0, SIDE - PITCH, PITCH) for c in range(0, SIDE - PITCH, PITCH)]
    for name, (row, column) in enumerate(corners, start=1):
        a, b, angle = random.uniform(5, 9.5), random.uniform(4, 9), random.uniform(0, np.pi)
        across, down = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
        labels[row : row + 21, column : column + 21][(across / a) ** 2 + (down / b) ** 2 < 1] = name
    names = np.arange(1, len(corners) + 1, dtype=np.int32)
    corner = np.array(corners, np.int32)
    area, offsets, points = trace_contours(labels, names, np.concatenate([corner, corner + 21], axis=1))
    pixels = random.integers(0, 256, (SIDE, SIDE, 3)).astype(np.uint8)
    boxes = np.concatenate([corner, corner + 21], axis=1)
    measured = measure_cells(labels, names, boxes, area, offsets, points, pixels, HE, mpp=0.5)
    score = np.full(len(names), 0.9, np.float32)
    return TileCells(0, 0, corner[:, 0] + 10, corner[:, 1] + 10, area, score, offsets, points, measured)


def moved(tile: TileCells, number: int) -> TileCells:
    """The same cells in another place of the slide."""
    x, y = SIDE * np.int32(number % TILES_ACROSS), SIDE * np.int32(number // TILES_ACROSS)
    points = tile.ring_points + 2 * np.array([x, y], np.int32)
    place = tile.seed_y + y, tile.seed_x + x
    return TileCells(0, 0, *place, tile.area_px, tile.score, tile.ring_offsets, points, tile.measurements)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=200_000)
    options = parser.parse_args()
    tile = crowded_tile()
    tiles = -(-options.cells // len(tile))
    spent = dict.fromkeys(("outlines", "parquet", "geojson", "preview"), 0.0)
    peaks = []
    with tempfile.TemporaryDirectory() as folder:
        preview = Preview(np.full((2048, 2048, 3), 255, np.uint8), 2 * SIDE * TILES_ACROSS)
        with (
            CellsParquet(Path(folder) / "cells.parquet", 0.25, {}) as parquet,
            CellsGeoJson(Path(folder) / "cells.geojson", 0.25) as geojson,
        ):
            for number in range(tiles):
                cells = moved(tile, number)
                clock = [time.process_time()]
                on_slide = outlines(cells, 2.0, "ab" * 32)
                clock.append(time.process_time())
                for write in (parquet.append, geojson.append, preview.cells):
                    write(on_slide)
                    clock.append(time.process_time())
                for name, seconds in zip(spent, np.diff(clock), strict=True):
                    spent[name] += seconds
                if number == tiles // 10:
                    peaks.append(machine.peak_rss_mb(psutil.Process()))
        peaks.append(machine.peak_rss_mb(psutil.Process()))
    count = tiles * len(tile)
    print(
        json.dumps(
            {
                "cells": count,
                "points_per_cell": round(len(tile.ring_points) / len(tile), 1),
                "us_per_cell": {name: round(seconds / count * 1e6, 2) for name, seconds in spent.items()},
                "peak_rss_mb": [round(peak, 1) for peak in peaks],
                "machine": machine.facts(),
            }
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
