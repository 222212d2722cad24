"""A merge order of the bus, as `microtome.artifacts.making` takes it.

Promises: every tile that has tissue is asked for, in the order in which the files want them; a result that is missing
or damaged is found out, with all others that are, and is made again by the next attempt.
Refuses: to publish anything; see `microtome.artifacts.store`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from microtome.artifacts import making
from microtome.artifacts.formats import EVERY_JOBS
from microtome.artifacts.making import Progress, Segmentation, SourceSlide, along_curve
from microtome.artifacts.summary import Summary
from microtome.contracts.messages import JobResult, JobType, MergeWork, SlideRegistered, StageSeconds, Staining
from microtome.segmentation.cells import TileCells
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.stains import HDAB, HE
from microtome.tilestore import ResultGone, ResultStore, attempt_prefix
from microtome.tissue.outline import TissueOutline
from microtome.tissue.region import Region
from microtome.tissue.tiles import tiles_with_tissue


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make, of what."""

    work: MergeWork
    job_type: JobType
    slide: SlideRegistered
    slide_path: Path
    results: ResultStore
    region: Region | None
    # What the user drew as tissue.
    outline: TissueOutline | None = None
    # Of the cells' files.
    formats: tuple[str, ...] = EVERY_JOBS


def make_artifacts(
    order: Order, folder: Path, progress: Progress, whole: Callable[[Path], None] = lambda _path: None
) -> JobResult:
    """Write every artifact of the job into `folder`; return the result, without the list of artifacts.

    `progress(tiles, cells)` is called after each tile, `whole(path)` for files that are complete. Raises
    `UnreadableSlide`; `ResultGone` when a tile that has tissue has no whole result, or without the tissue mask;
    whatever is damaged is gone then, so that one more attempt makes it again.
    """
    work = order.work
    mask = order.results.mask(work.tissue_key)
    of = making.Order(
        slide=_slide(order),
        mask=mask if order.outline is None else order.outline.drawn(mask),
        region=order.region,
        outline=order.outline,
        formats=order.formats,
        picture=order.results.picture(work.tissue_key),
        stage_seconds={stage.stage: stage.seconds for stage in work.stage_seconds},
        notes=work.notes,
    )
    if order.job_type == JobType.TISSUE_MASK:
        return _result(making.write_tissue(of, folder, whole))
    grid = Grid(work.grid_width, work.grid_height, work.tile_size, work.halo)
    # By the mask of the whole slide, as the tiler chose them: the edge of a region is no edge of the tissue.
    where = mask if order.outline is None else order.outline.touched(mask)
    wanted = along_curve(tiles_with_tissue(grid, where, work.scale, order.region))
    how = _segmentation(work, grid, wanted)
    tiles = _tiles(order, wanted)
    return _result(making.write_segmentation(tiles, of, how, folder, progress, whole))


def _slide(order: Order) -> SourceSlide:
    slide, work = order.slide, order.work
    return SourceSlide(
        slide_id=slide.slide_id,
        sha256=slide.sha256,
        path=order.slide_path,
        width=slide.width,
        height=slide.height,
        mpp=work.mpp,
        mpp_source=work.mpp_source.name.lower(),
    )


def _segmentation(work: MergeWork, grid: Grid, wanted: Sequence[Tile]) -> Segmentation:
    assert work.normalisation is not None, "the tiler always sends one"
    red, green, blue = work.normalisation.low
    to_red, to_green, to_blue = work.normalisation.high
    return Segmentation(
        grid=grid,
        scale=work.scale,
        content_key=work.content_key,
        tiles_total=work.tiles_total,
        tiles_skipped=work.tiles_skipped,
        made_by=attempt_prefix(work.job_id, work.attempt),
        model=work.model,
        model_digest=work.model_digest,
        normalisation=Normalisation((red, green, blue), (to_red, to_green, to_blue)),
        stain=HDAB if work.staining is Staining.HDAB else HE,
        planned=frozenset((tile.row, tile.column) for tile in wanted),
    )


def _tiles(order: Order, wanted: Sequence[Tile]) -> Iterator[TileCells]:
    key = order.work.content_key
    for at, tile in enumerate(wanted):
        try:
            cells = order.results.read(key, tile.row, tile.column)
        except ResultGone:
            # A disk that spoiled one file spoiled others: found one an attempt, they would use up the attempts.
            for later in wanted[at + 1 :]:
                with suppress(ResultGone):
                    order.results.read(key, later.row, later.column)
            raise
        yield cells


def _result(summary: Summary) -> JobResult:
    """What `JobSucceeded` says of the files."""
    return JobResult(
        tiles_total=summary.tiles_total,
        tiles_skipped=summary.tiles_skipped,
        tiles_processed=summary.tiles_processed,
        tiles_cached=summary.tiles_cached,
        cells=summary.cells,
        tissue_mm2=summary.tissue_mm2,
        cells_per_mm2=summary.cells_per_mm2,
        engine=summary.engine or "",
        model=summary.model or "",
        stage_seconds=tuple(StageSeconds(stage=stage, seconds=s) for stage, s in summary.stage_seconds.items()),
        notes=summary.notes,
    )
