"""An order for the merger: a painted slide, its mask, and tile results of the real network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from microtome.artifacts.formats import CELL_FORMATS
from microtome.contracts.messages import JobType, MergeWork, MppSource, Normalisation, SlideRegistered, StageSeconds
from microtome.segmentation.cells import write_cells
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation as Range
from microtome.segmentation.run import segment
from microtome.segmentation.sampling import sample_histogram
from microtome.slides.mosaic import write_mosaic
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import write_synthetic_slide
from microtome.tilestore import ResultStore
from microtome.tissue.mask import find_tissue
from microtome.tissue.store import save_mask
from microtome.tissue.tiles import tiles_with_tissue
from services.merger.making import Order

# Not half of the model's pixel size: level-0 coordinates are no whole multiples of the model's.
MPP = 0.37
CELL_FILES = {
    "cells.parquet", "cells.geojson", "cells.csv", "cells.fgb", "density.png", "density.tif", "combined.jpg",
}  # fmt: skip
KEY, TISSUE = "ab" * 32, "cd" * 32
FILES = {"tissue_mask.png", "tissue.geojson", "thumbnail.jpg", "overlay.jpg", "summary.json"}


@dataclass(frozen=True)
class Segmented:
    order: Order
    seeds: frozenset[tuple[int, int]]


def segment_mosaic(folder: Path) -> Segmented:
    """Paint a slide, find its tissue and segment it, into `folder`."""
    path = folder / "slide.tif"
    write_synthetic_slide(folder / "source.tif", size=1024, seed=3)
    write_mosaic(folder / "source.tif", path, width=2600, height=900, mpp=MPP)
    model = load_model("embedded")
    reader = SlideReader(path, MPP, model.mpp)
    results = ResultStore(folder / "results")
    mask = find_tissue(path, MPP)
    save_mask(mask, results.tissue(TISSUE))
    grid = Grid(reader.width, reader.height, 512, 128)
    wanted = tiles_with_tissue(grid, mask, reader.scale[0])
    assert 1 < len(wanted) <= len(grid)
    normalisation = Range.from_histogram(sample_histogram(reader, wanted), model.percentiles)
    seeds: set[tuple[int, int]] = set()
    chosen = {(tile.row, tile.column) for tile in wanted}
    engine = OnnxRuntimeEngine(model, "cpu")
    for tile, cells in segment(
        reader, model, engine, grid, normalisation=normalisation, wanted=lambda t: (t.row, t.column) in chosen
    ):
        write_cells(cells.made(engine.name, "job/1"), results.tile(KEY, tile.row, tile.column))
        seeds |= set(zip(cells.seed_x.tolist(), cells.seed_y.tolist(), strict=True))
    work = MergeWork(
        job_id="job",
        workflow_id="workflow",
        user_id="alice",
        attempt=1,
        content_key=KEY,
        tissue_key=TISSUE,
        grid_width=reader.width,
        grid_height=reader.height,
        tile_size=512,
        halo=128,
        scale=reader.scale[0],
        mpp=MPP,
        mpp_source=MppSource.ASSUMED,
        tiles_total=len(grid),
        tiles_skipped=len(grid) - len(wanted),
        model=model.name,
        model_digest=model.digest,
        normalisation=Normalisation(low=normalisation.low, high=normalisation.high),
        stage_seconds=(StageSeconds(stage="plan", seconds=0.5),),
    )
    slide = SlideRegistered(slide_id="slide", user_id="alice", sha256="0" * 64, width=2600, height=900, mpp=None)
    order = Order(
        work=work,
        job_type=JobType.SEGMENT_CELLS,
        slide=slide,
        slide_path=path,
        results=results,
        region=None,
        formats=CELL_FORMATS,
    )
    return Segmented(order, frozenset(seeds))
