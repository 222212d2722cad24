"""The bare engine with its results in files, as a process that can be killed: `python -m tests.integration.resumable`.

Arguments: a picture, a folder, the edge of a tile. Tiles whose file is there are not computed again.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from microtome.segmentation.cells import write_cells
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import ArrayReader
from microtome.segmentation.run import segment


def result_path(folder: Path, tile: Tile) -> Path:
    """Where a tile's cells go."""
    return folder / f"{tile.row}-{tile.column}.arrow"


def run(picture: Path, folder: Path, tile_size: int) -> int:
    """Compute what is missing; return how many tiles that was."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    model = load_model("embedded")
    engine = OnnxRuntimeEngine(model, device="cpu")
    normalisation = Normalisation.from_histogram(Histogram.of(pixels), model.percentiles)
    grid = Grid(pixels.shape[1], pixels.shape[0], tile_size)
    done = 0
    for tile, cells in segment(
        ArrayReader(pixels),
        model,
        engine,
        grid,
        normalisation=normalisation,
        wanted=lambda tile: not result_path(folder, tile).is_file(),
        batch_size=1,
    ):
        # How long it took is not part of what was found.
        write_cells(replace(cells, seconds={}), result_path(folder, tile))
        done += 1
    return done


if __name__ == "__main__":
    print(run(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
