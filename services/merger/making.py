"""Writing all artifacts of a job into a folder.

Promises: a pure function of the tile results, the mask and the slide; memory is bounded by one tile's cells and a
thumbnail, however large the slide. Refuses: to publish anything; see `microtome.artifacts.store`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from microtome.artifacts.geojson import CellsGeoJson
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.hilbert import hilbert_index
from microtome.artifacts.outlines import outlines
from microtome.artifacts.preview import Preview, reduced, save_jpeg
from microtome.artifacts.summary import Summary
from microtome.contracts.messages import JobResult, JobType, MergeWork, MppSource, SlideRegistered, StageSeconds
from microtome.errors import UnreadableSlide
from microtome.segmentation.cells import TileCells
from microtome.segmentation.grid import Grid
from microtome.slides.thumbnail import cached_thumbnail
from microtome.tilestore import ResultGone, ResultStore
from microtome.tissue.mask import TissueMask
from microtome.tissue.region import Region
from microtome.tissue.store import encode_png
from microtome.tissue.tiles import tiles_with_tissue

THUMBNAIL_PIXELS = 512
PREVIEW_PIXELS = 2048

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to make, of what."""

    work: MergeWork
    job_type: JobType
    slide: SlideRegistered
    slide_path: Path
    results: ResultStore
    region: Region | None


def make_artifacts(order: Order, folder: Path, progress: Progress) -> JobResult:
    """Write every artifact of the job into `folder`; return the result, without the list of artifacts.

    `progress(tiles, cells)` is called after each tile. Raises `ResultGone` when a tile that has tissue has no whole
    result, or without the tissue mask; whatever is damaged is gone then, so that one more attempt makes it again.
    """
    began = time.perf_counter()
    mask = order.results.mask(order.work.tissue_key)
    fraction = mask.fraction
    if order.region is not None:
        fraction, mask = order.region.fraction(mask), order.region.clip(mask)
    (folder / "tissue_mask.png").write_bytes(encode_png(mask))
    # A slide's jobs are merged one after the other, by this process or its like.
    picture = _picture(order.slide_path)
    save_jpeg(reduced(picture, THUMBNAIL_PIXELS), folder / "thumbnail.jpg")
    preview = Preview(picture, order.slide.width)
    preview.tissue(mask.bits)
    if order.job_type == JobType.TISSUE_MASK:
        result = _tissue_result(order, mask)
    else:
        result = _segmentation_result(order, mask, *_write_cells(order, folder, preview, progress))
    preview.save(folder / "overlay.jpg")
    merged = StageSeconds(stage="merge", seconds=round(time.perf_counter() - began, 4))
    result = replace(result, stage_seconds=(*result.stage_seconds, merged))
    _summary(order, fraction, result).save(folder / "summary.json")
    return result


def _picture(slide: Path) -> NDArray[np.uint8]:
    """The thumbnail to draw on, uint8 RGB [h, w, 3]. Raises `UnreadableSlide`."""
    try:
        return cached_thumbnail(slide, PREVIEW_PIXELS)
    except FileNotFoundError as error:
        raise UnreadableSlide(f"There is no file {slide.name}.") from error


def _tiles(order: Order) -> Iterator[TileCells]:
    """Yield the tiles' results along a Hilbert curve, so that neighbours on the slide are neighbours in the files."""
    work = order.work
    grid = Grid(work.grid_width, work.grid_height, work.tile_size, work.halo)
    # By the mask of the whole slide, as the tiler chose them: the edge of a region is no edge of the tissue.
    wanted = tiles_with_tissue(grid, order.results.mask(work.tissue_key), work.scale, order.region)
    rows = np.array([tile.row for tile in wanted], np.int64)
    columns = np.array([tile.column for tile in wanted], np.int64)
    order_on_slide = np.argsort(hilbert_index(columns, rows, 20), kind="stable")
    addresses = [(int(rows[index]), int(columns[index])) for index in order_on_slide]
    for at, address in enumerate(addresses):
        try:
            tile = order.results.read(work.content_key, *address)
        except ResultGone:
            # A disk that spoiled one file spoiled others: found one an attempt, they would use up the attempts.
            for later in addresses[at + 1 :]:
                with suppress(ResultGone):
                    order.results.read(work.content_key, *later)
            raise
        yield tile if order.region is None else order.region.choose(tile, work.scale)


def _write_cells(order: Order, folder: Path, preview: Preview, progress: Progress) -> tuple[int, Counter[str]]:
    work = order.work
    cells, tiles, seconds = 0, 0, Counter[str]()
    properties = {"coordinates": "level-0 pixels", "content_key": work.content_key, "model": work.model}
    with ExitStack() as files:
        parquet = files.enter_context(CellsParquet(folder / "cells.parquet", work.mpp, properties))
        geojson = files.enter_context(CellsGeoJson(folder / "cells.geojson", work.mpp))
        for tile in _tiles(order):
            on_slide = outlines(tile, work.scale, work.content_key)
            parquet.append(on_slide)
            geojson.append(on_slide)
            preview.cells(on_slide)
            cells, tiles = cells + len(tile), tiles + 1
            seconds.update(tile.seconds)
            progress(tiles, cells)
    return cells, seconds


def _tissue_result(order: Order, mask: TissueMask) -> JobResult:
    work = order.work
    return JobResult(
        tissue_mm2=_rounded(mask.area_mm2),
        stage_seconds=work.stage_seconds,
        notes=(*work.notes, *mask.notes, *_region_notes(order)),
    )


def _region_notes(order: Order) -> tuple[str, ...]:
    region = order.region
    if region is None:
        return ()
    where = f"{region.width} x {region.height} level-0 pixels at ({region.x}, {region.y})"
    return (f"Only a part of the slide: {where}. Tissue, area and cells are of that part, cells by their seed.",)


def _rounded(area: float | None) -> float | None:
    return None if area is None else round(area, 6)


def _segmentation_result(order: Order, mask: TissueMask, cells: int, seconds: Counter[str]) -> JobResult:
    work = order.work
    area = _rounded(mask.area_mm2)
    notes = [*work.notes, *mask.notes, *_region_notes(order)]
    where = "this slide" if order.region is None else "this part of the slide"
    if not mask.bits.any() and (order.region is None or work.tiles_skipped == work.tiles_total):
        notes.append("Without tissue, no cells were looked for.")
    elif cells == 0 and mask.bits.any():
        notes.append(f"There is tissue on {where}, but no cells were found in it.")
    if work.tiles_cached:
        notes.append(
            f"{work.tiles_cached} tiles had a result from before; their seconds of network, head and contours were "
            "spent then."
        )
    if work.mpp_source == MppSource.ASSUMED:
        notes.append(f"The pixel size of {work.mpp} µm is an assumption that the user chose.")
    stages = [StageSeconds(stage=stage, seconds=round(value, 4)) for stage, value in sorted(seconds.items())]
    return JobResult(
        tiles_total=work.tiles_total,
        tiles_skipped=work.tiles_skipped,
        tiles_processed=work.tiles_total - work.tiles_skipped,
        tiles_cached=work.tiles_cached,
        cells=cells,
        tissue_mm2=area,
        cells_per_mm2=round(cells / area, 2) if area else None,
        engine=work.engine,
        model=work.model,
        stage_seconds=(*work.stage_seconds, *stages),
        notes=tuple(notes),
    )


def _summary(order: Order, fraction: float, result: JobResult) -> Summary:
    work, slide = order.work, order.slide
    summary = Summary(
        job_type=order.job_type.name,
        slide_id=slide.slide_id,
        slide_sha256=slide.sha256,
        width=slide.width,
        height=slide.height,
        mpp=work.mpp,
        mpp_source=work.mpp_source.name.lower(),
        tissue_mm2=result.tissue_mm2,
        tissue_fraction=round(fraction, 6),
        stage_seconds={stage.stage: stage.seconds for stage in result.stage_seconds},
        notes=result.notes,
        region=None if order.region is None else asdict(order.region),
    )
    if order.job_type == JobType.TISSUE_MASK:
        return summary
    assert work.normalisation is not None, "the tiler always sends one"
    return replace(
        summary,
        cells=result.cells,
        cells_per_mm2=result.cells_per_mm2,
        tiles_total=result.tiles_total,
        tiles_skipped=result.tiles_skipped,
        tiles_processed=result.tiles_processed,
        tiles_cached=result.tiles_cached,
        tile_size=work.tile_size,
        halo=work.halo,
        scale=work.scale,
        engine=result.engine,
        model=result.model,
        model_digest=work.model_digest,
        normalisation={"low": list(work.normalisation.low), "high": list(work.normalisation.high)},
        content_key=work.content_key,
    )
