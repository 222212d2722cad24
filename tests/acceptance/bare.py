"""The undisturbed run: the bare engine on a slide, without the stack, its log, its queues and its cache."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import shapely

from microtome.artifacts.outlines import outlines
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.run import segment
from microtome.segmentation.sampling import sample_histogram, sampling_grid, spread
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import MPP
from microtome.tissue.ground import Ground
from microtome.tissue.mask import find_tissue
from microtome.tissue.tiles import blocks_with_tissue, tiles_with_tissue

Ring = tuple[tuple[float, float], ...]
# By the position of the seed, which is what makes a cell the same cell.
Cells = dict[tuple[int, int], Ring]


def bare_cells(path: Path, *, tile_size: int, halo: int, mpp: float = MPP) -> Cells:
    """All cells of a slide; by default of a synthetic one."""
    model = load_model("embedded")
    reader = SlideReader(path, mpp, model.mpp)
    grid = Grid(reader.width, reader.height, tile_size, halo)
    mask, scale = find_tissue(path, mpp), reader.scale[0]
    tiles = tiles_with_tissue(grid, mask, scale)
    blocks = blocks_with_tissue(sampling_grid(reader.width, reader.height), mask, scale)
    normalisation = Normalisation.from_histogram(sample_histogram(reader, spread(blocks)), model.percentiles)
    found: Cells = {}
    engine = OnnxRuntimeEngine(model)
    ground = Ground(mask, scale).of
    for _, tile in segment(reader, model, engine, grid, normalisation=normalisation, tiles=tiles, ground=ground):
        on_slide = outlines(tile, reader.scale[0], "0" * 64)
        for index, seed in enumerate(zip(on_slide.seed_x.tolist(), on_slide.seed_y.tolist(), strict=True)):
            assert seed not in found
            found[seed] = _ring(on_slide.ring(index).tolist())
    return found


def cells_in(parquet: Path) -> tuple[Cells, list[str]]:
    """The cells of a cells.parquet, and their ids."""
    table = pq.read_table(parquet, columns=["id", "geometry", "seed_x", "seed_y"]).to_pydict()
    rings = [_ring(shapely.from_wkb(wkb).exterior.coords[:-1]) for wkb in table["geometry"]]
    seeds = list(zip(table["seed_x"], table["seed_y"], strict=True))
    assert len(set(seeds)) == len(seeds) == len(set(table["id"]))
    return dict(zip(seeds, rings, strict=True)), sorted(table["id"])


def _ring(points) -> Ring:
    """A ring that begins at its least point, since where a ring begins means nothing."""
    ring = [(float(x), float(y)) for x, y in points]
    least = ring.index(min(ring))
    return tuple(ring[least:] + ring[:least])
