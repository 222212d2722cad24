"""Writing all files of a job into a folder.

Promises: a pure function of the tile results, the mask and the slide, so that the same results give the same bytes;
memory is bounded by one tile's cells and a thumbnail, however large the slide. The merger and `microtome segment` both
come here and write the same files.
Refuses: to publish anything (see `microtome.artifacts.store`), and to know of workflows.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from microtome.artifacts import pictures as drawing
from microtome.artifacts.density import CellCounts
from microtome.artifacts.files import CellFiles
from microtome.artifacts.formats import CELL_FORMATS, EVERY_JOBS
from microtome.artifacts.hilbert import hilbert_index
from microtome.artifacts.outlines import outlines
from microtome.artifacts.pictures import Pictures, Whole
from microtome.artifacts.summary import Summary
from microtome.segmentation.cells import TileCells, read_cells, write_cells
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.seams import Seams, SeamScore
from microtome.segmentation.stains import HE, Stain
from microtome.tissue.mask import ALGORITHM, TissueMask
from microtome.tissue.outline import TissueOutline
from microtome.tissue.region import Region

# The engine of tiles whose files do not name it.
_UNKNOWN = "an unknown engine"

# Told after each tile, and now and then while files close: tiles and cells so far. What it raises ends the making.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSlide:
    """The slide that a job is about. `width`, `height`: level-0 pixels; `mpp`: µm per level-0 pixel.

    `mpp_source`: how that is known, as the summary says it ("vendor", "resolution_tag", "user", "assumed", "unknown").
    """

    slide_id: str
    sha256: str
    path: Path
    width: int
    height: int
    mpp: float | None
    mpp_source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What every job's files are made of. `mask`: of the whole slide; `region`: the part that was asked for.

    `outline`: what somebody drew as tissue, if anybody did; `mask` is then that drawing.
    `formats`: of the cells' files; `picture`: the slide at `thumbnail.PREVIEW_PIXELS`, uint8 RGB [h, w, 3], if it is at
    hand.
    """

    slide: SourceSlide
    mask: TissueMask
    region: Region | None = None
    outline: TissueOutline | None = None
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    formats: tuple[str, ...] = EVERY_JOBS
    picture: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Segmentation:
    """How cells were found. `scale`: level-0 pixels per model pixel; tiles are counted in the region, if there is one.

    `content_key` is part of every cell's id; `made_by`: the run that this is, as the tiles that it computed name it.
    """

    grid: Grid
    scale: float
    content_key: str
    tiles_total: int
    tiles_skipped: int
    model: str
    model_digest: str
    normalisation: Normalisation
    made_by: str = ""
    stain: Stain = HE
    # Rows and columns of the tiles that will come, if known: what the seam score must not wait for.
    planned: Collection[tuple[int, int]] | None = None


@dataclass(frozen=True, slots=True)
class _Written:
    """What was learnt while cells were written."""

    cells: int
    outside: int
    regrown: int
    cut: int
    network_px: int
    # Of the tiles that this run computed.
    seconds: Counter[str]
    cached: int
    # How many tiles ran on each engine; "" for those that do not say.
    engines: Counter[str]
    seams: Seams


def along_curve(tiles: Iterable[Tile]) -> list[Tile]:
    """Return the tiles along a Hilbert curve, so that neighbours on the slide are neighbours in the files."""
    given = list(tiles)
    rows = np.array([tile.row for tile in given], np.int64)
    columns = np.array([tile.column for tile in given], np.int64)
    return [given[index] for index in np.argsort(hilbert_index(columns, rows, 20), kind="stable")]


def write_tissue(order: Order, folder: Path, whole: Whole = lambda _path: None) -> Summary:
    """Write the files of a job that only looked for tissue into `folder`.

    `whole`: as `write_segmentation` has it. Raises `UnreadableSlide`.
    """
    began = time.perf_counter()
    with _pictures(order, folder, whole) as pictures:
        pictures.mask(order.outline)
        pictures.overlay()
    summary = _summary(order, "TISSUE_MASK", Counter(), (*order.notes, *order.mask.notes, *_region_notes(order)))
    return _saved(summary, folder, began)


def write_segmentation(
    tiles: Iterator[TileCells],
    order: Order,
    segmentation: Segmentation,
    folder: Path,
    progress: Progress,
    whole: Whole = lambda _path: None,
) -> Summary:
    """Write every file of a segmentation into `folder`.

    `tiles`: the results of all tiles that have tissue and may own cells of the region, in the order of `along_curve`.
    `whole(path)` is told of most files, in some thread, as soon as nothing more will be written to them.
    Raises `UnreadableSlide`, and what `tiles` and `progress` raise; the folder is then worthless.
    """
    began = time.perf_counter()
    with _pictures(order, folder, whole) as pictures:
        pictures.mask(order.outline)
        written = _write_cells(tiles, order, segmentation, folder, pictures, progress, whole)
    cells, seconds = written.cells, written.seconds
    summary = _summary(order, "SEGMENT_CELLS", seconds, _notes(order, segmentation, written))
    area, grid = summary.tissue_mm2, segmentation.grid
    summary = replace(
        summary,
        cells=cells,
        cells_per_mm2=round(cells / area, 2) if area else None,
        cells_outside_tissue=written.outside,
        tiles_total=segmentation.tiles_total,
        tiles_skipped=segmentation.tiles_skipped,
        tiles_processed=segmentation.tiles_total - segmentation.tiles_skipped,
        tiles_cached=written.cached,
        grid_width=grid.width,
        grid_height=grid.height,
        tile_size=grid.tile_size,
        halo=grid.halo,
        scale=segmentation.scale,
        engine=", ".join(sorted(engine or _UNKNOWN for engine in written.engines)) or None,
        model=segmentation.model,
        model_digest=segmentation.model_digest,
        normalisation={
            "low": list(segmentation.normalisation.low),
            "high": list(segmentation.normalisation.high),
        },
        content_key=segmentation.content_key,
        stain=segmentation.stain.key,
        network_mpix=round(written.network_px / 1e6, 4),
        regrown=written.regrown,
        cut=written.cut,
        seams=asdict(written.seams),
        engine_idle_fraction=idle_fraction(seconds),
    )
    return _saved(summary, folder, began)


def idle_fraction(seconds: Mapping[str, float]) -> float | None:
    """The share of its time that the network stood still while there were tiles to do; None if it did nothing."""
    busy, idle = seconds.get("network", 0.0), seconds.get("idle", 0.0)
    return round(idle / (busy + idle), 4) if busy + idle > 0 else None


def _saved(summary: Summary, folder: Path, began: float) -> Summary:
    seconds = {**summary.stage_seconds, "merge": round(time.perf_counter() - began, 4)}
    summary = replace(summary, stage_seconds=seconds)
    summary.save(folder / "summary.json")
    return summary


def _part(order: Order) -> TissueMask:
    """The tissue of the part of the slide that the job is about."""
    return order.mask if order.region is None else order.region.clip(order.mask)


def _pictures(order: Order, folder: Path, whole: Whole) -> Pictures:
    return Pictures(order.slide.path, order.slide.width, _part(order), folder, order.picture, whole)


def warm_up() -> None:
    """Compile what writes cells, so that the first job does not wait for it."""
    drawing.warm_up()
    grid = Grid(64, 64, 64, 0)
    seed = np.array([32], np.int32)
    ring = np.array([[64, 60], [70, 66], [64, 72], [58, 66]], np.int32)
    measured = np.ones((1, len(MEASUREMENTS)), np.float32)
    cell = TileCells(0, 0, seed, seed, seed, measured[0, :1], np.array([0, 4], np.int32), ring, measured)
    with tempfile.TemporaryDirectory() as name:
        # From a file, as compiled code tells arrays that may be written from others.
        path = Path(name) / "tile.arrow"
        write_cells(cell, path)
        SeamScore(grid).add(read_cells(path))
        with CellFiles(Path(name), 0.5, HE, {}, formats=CELL_FORMATS) as files:
            files.append(outlines(read_cells(path), 1.0, "0" * 64, 0.5))


def _write_cells(
    results: Iterator[TileCells],
    order: Order,
    segmentation: Segmentation,
    folder: Path,
    pictures: Pictures,
    progress: Progress,
    whole: Whole,
) -> _Written:
    slide, region, scale, key = order.slide, order.region, segmentation.scale, segmentation.content_key
    cells, outside, tiles, regrown, cut, network_px, cached = 0, 0, 0, 0, 0, 0, 0
    seconds, engines = Counter[str](), Counter[str]()
    properties = {"coordinates": "level-0 pixels", "content_key": key, "model": segmentation.model}
    counts = CellCounts(slide.width, slide.height, slide.mpp)
    seams = SeamScore(segmentation.grid, segmentation.planned)

    def go_on() -> None:
        progress(tiles, cells)

    with CellFiles(folder, slide.mpp, segmentation.stain, properties, go_on, order.formats, whole) as files:
        for result in results:
            # Seams are those of the tiles: a region's edge is none.
            seams.add(result)
            tile = result if region is None else region.choose(result, scale)
            tile = tile if order.outline is None else order.outline.choose(tile, scale)
            on_slide = outlines(tile, scale, key, slide.mpp)
            files.append(on_slide)
            pictures.cells(on_slide)
            counts.append(on_slide)
            cells, tiles = cells + len(tile), tiles + 1
            # What was drawn holds all cells that are left, also where it is finer than its mask.
            outside += 0 if order.outline is not None else _outside(tile, order.mask, scale)
            regrown, cut, network_px = regrown + result.regrown, cut + result.cut, network_px + result.network_px
            engines[result.engine] += 1
            # What a tile took that another run computed is that run's time.
            if result.made_by == segmentation.made_by:
                seconds.update(result.seconds)
            else:
                cached += 1
            progress(tiles, cells)
        # Beside the last tile's cells on their way into the files, and the files as they close.
        pictures.finish(counts.density())
        pictures.overlay()
    return _Written(cells, outside, regrown, cut, network_px, seconds, cached, engines, seams.result())


def _outside(cells: TileCells, mask: TissueMask, scale: float) -> int:
    """How many cells have a seed whose centre is not on the tissue."""
    (height, width), (across, down) = mask.bits.shape, mask.downsample
    x = np.minimum((cells.seed_x + 0.5) * scale / across, width - 1).astype(np.int64)
    y = np.minimum((cells.seed_y + 0.5) * scale / down, height - 1).astype(np.int64)
    return len(cells) - int(np.count_nonzero(mask.bits[y, x]))


def _region_notes(order: Order) -> tuple[str, ...]:
    region = order.region
    if region is None:
        return ()
    where = f"{region.width} x {region.height} level-0 pixels at ({region.x}, {region.y})"
    return (f"Only a part of the slide: {where}. Tissue, area and cells are of that part, cells by their seed.",)


def _notes(order: Order, segmentation: Segmentation, written: _Written) -> tuple[str, ...]:
    notes = [*order.notes, *order.mask.notes, *_region_notes(order)]
    where = "this slide" if order.region is None else "this part of the slide"
    tissue = _fraction(order) > 0
    if not tissue and (order.region is None or segmentation.tiles_skipped == segmentation.tiles_total):
        notes.append("Without tissue, no cells were looked for.")
    elif written.cells == 0 and tissue:
        notes.append(f"There is tissue on {where}, but no cells were found in it.")
    if written.cached:
        notes.append(
            f"{written.cached} tiles had a result from another attempt or job; what they took is not in the seconds of "
            "network, head and contours here."
        )
    if len(written.engines) > 1:
        each = ", ".join(f"{tiles} on {engine or _UNKNOWN}" for engine, tiles in sorted(written.engines.items()))
        notes.append(f"More than one engine worked on the tiles: {each}.")
    if written.cut:
        notes.append(
            f"{written.cut} cells are larger than the largest window that a halo of {segmentation.grid.halo} pixels "
            "leaves room for, and end there."
        )
    if order.slide.mpp_source == "assumed":
        notes.append(f"The pixel size of {order.slide.mpp} µm is an assumption that the user chose.")
    return tuple(notes)


def _summary(order: Order, job_type: str, seconds: Mapping[str, float], notes: tuple[str, ...]) -> Summary:
    slide, region = order.slide, order.region
    fraction = _fraction(order)
    area = _area_mm2(order)
    stages = {stage: round(value, 4) for stage, value in sorted(seconds.items())}
    return Summary(
        job_type=job_type,
        slide_id=slide.slide_id,
        slide_sha256=slide.sha256,
        width=slide.width,
        height=slide.height,
        mpp=slide.mpp,
        mpp_source=slide.mpp_source,
        tissue_mm2=None if area is None else round(area, 6),
        tissue_fraction=round(fraction, 6),
        stage_seconds={**order.stage_seconds, **stages},
        notes=notes,
        region=None if region is None else asdict(region),
        tissue=_how_found(order),
    )


def _area_mm2(order: Order) -> float | None:
    """The area of the tissue; of what was drawn as exactly as it was drawn."""
    slide, region, mask = order.slide, order.region, order.mask
    if order.outline is not None:
        drawn = order.outline.area_px(_box(order))
        return None if slide.mpp is None else drawn * (slide.mpp / 1000) ** 2
    if region is None or mask.mpp is None:
        return mask.area_mm2
    return region.tissue_pixels(mask) * (mask.mpp / 1000) ** 2


def _fraction(order: Order) -> float:
    """The share of the slide or of the region that is tissue."""
    if order.outline is not None:
        left, top, right, bottom = _box(order)
        return order.outline.area_px((left, top, right, bottom)) / ((right - left) * (bottom - top))
    return order.mask.fraction if order.region is None else order.region.fraction(order.mask)


def _box(order: Order) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of the part of the slide that the job is about, level-0 pixels."""
    slide, region = order.slide, order.region
    return (0, 0, slide.width, slide.height) if region is None else region.on(slide.width, slide.height)


def _how_found(order: Order) -> dict[str, Any]:
    mask = order.mask
    found: dict[str, Any] = {"width": mask.bits.shape[1], "height": mask.bits.shape[0], "mpp": mask.mpp}
    if order.outline is not None:
        return {**found, "drawn": {"sha256": order.outline.sha256, "polygons": len(order.outline.polygons)}}
    return {**found, "algorithm": ALGORITHM, "threshold": round(mask.threshold, 4), **asdict(mask.parameters)}
