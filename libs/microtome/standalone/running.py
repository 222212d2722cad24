"""Segmenting one image on this machine.

Promises: the files that a job has (`microtome.artifacts.making`), and for small images `labels.tif`; they appear when
all of them are whole. A run that was stopped, in whatever way and also while they appeared, goes on where it was: no
tile is computed twice, but those that a power cut damaged. Tiles without tissue are skipped; cells are those of the
services, whatever the number of threads.
Refuses: a folder that has results already or something else (`Conflict`), and all that cannot be segmented, before
anything is computed.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from microtome.artifacts.formats import EVERY_JOBS
from microtome.artifacts.making import Order, Segmentation, SourceSlide, along_curve, write_segmentation
from microtome.artifacts.summary import Summary
from microtome.errors import Conflict, TooLarge, UnreadableSlide, UnsuitableSlide
from microtome.segmentation.cells import TileCells, write_cells
from microtome.segmentation.engine import Engine, usable_cores
from microtome.segmentation.flow import Measured
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.model import EMBEDDED, Model, load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.run import content_key, segment
from microtome.segmentation.sampling import measure_normalisation, sampling_grid
from microtome.segmentation.stains import HE, Stain
from microtome.slides.reader import SlideReader
from microtome.standalone.labels import LabelImage
from microtome.standalone.source import Source, open_source
from microtome.tilestore import ResultGone, ResultStore
from microtome.tissue.fitting import fitting_grid
from microtome.tissue.ground import MARGIN, Ground
from microtome.tissue.mask import ALGORITHM, TissueMask, find_tissue
from microtome.tissue.outline import TissueOutline, read_outline
from microtome.tissue.region import Region
from microtome.tissue.store import save_mask
from microtome.tissue.tiles import blocks_with_tissue, tiles_of, tiles_with_tissue

# Below the folder for the results while they are made.
WORK = ".tiles"
# The file that appears last: where it is, everything is.
LAST = "summary.json"
# In `WORK`: the names of what was about to appear.
_PUBLISHED = "published.json"
# Labels are drawn of images of at most so many model pixels.
LABELS_PIXELS = 1 << 26

# Tiles done, tiles in all, cells so far.
Progress = Callable[[int, int, int], None]
OpenEngine = Callable[[Model], Engine]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What is to be done. `mpp` None: what the file says; `tile_size` None: what fits the tissue; `threads` 0: all.

    `tissue`: GeoJSON in level-0 pixels that is taken instead of what is found. `formats`: of the cells' files.
    """

    image: Path
    out: Path
    mpp: float | None = None
    model: str = EMBEDDED
    region: Region | None = None
    tissue: object = None
    tile_size: int | None = None
    stain: Stain = HE
    threads: int = 0
    formats: tuple[str, ...] = EVERY_JOBS


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class _Plan:
    """All that the cells depend on, and which tiles there are to do."""

    source: Source
    model: Model
    mask: TissueMask
    outline: TissueOutline | None
    reader: SlideReader
    grid: Grid
    measured: Measured
    # None: cells are looked for everywhere.
    ground: Ground | None
    tiles: Sequence[Tile]
    tiles_total: int
    content_key: str
    seconds: Mapping[str, float]


def segment_image(wishes: Wishes, open_engine: OpenEngine, progress: Progress) -> Summary:
    """Segment an image into `wishes.out`; return the summary that lies there.

    Raises `Conflict`, `UnreadableSlide`, `TooLarge`, `UnknownMpp`, `UnsuitableSlide`, `UnknownModel`,
    `ConfigurationError`, `InvalidRequest` for a region off the image, `InvalidTissue`, `EngineFailed`, `NoRoom`.
    """
    out = wishes.out
    _refuse_others(out)
    work = out / WORK
    model = load_model(wishes.model)
    began = time.perf_counter()
    source = _opened(wishes, work)
    opened = time.perf_counter() - began
    engine = open_engine(model)
    work.mkdir(parents=True, exist_ok=True)
    store = ResultStore(work / "results")
    plan = _plan(wishes, source, model, engine.name, store, opened)
    draft = work / "draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    summary = _run(wishes, plan, engine, store, draft, progress)
    _publish(draft, out)
    shutil.rmtree(work)
    return summary


def _refuse_others(out: Path) -> None:
    """Raise `Conflict` unless a run may begin in this folder or go on in it, also one killed while it published."""
    if not out.exists():
        return
    if not out.is_dir():
        raise Conflict(f"{out} is no folder; choose one that is empty or does not exist.")
    names = {path.name for path in out.iterdir()}
    if LAST in names or (names and WORK not in names):
        raise Conflict(f"{out} has something in it already; choose a folder that is empty or does not exist.")


def _opened(wishes: Wishes, work: Path) -> Source:
    """Open the image; of one that is refused nothing stays but a copy that only lacks the size of its pixels."""
    fresh = [folder for folder in (wishes.out, work) if not folder.exists()]
    try:
        return open_source(wishes.image, wishes.mpp, work / "image")
    except (UnreadableSlide, UnsuitableSlide, TooLarge):
        if work in fresh:
            shutil.rmtree(fresh[0], ignore_errors=True)
        raise


def _plan(wishes: Wishes, source: Source, model: Model, engine: str, store: ResultStore, opened: float) -> _Plan:
    began = time.perf_counter()
    reader = SlideReader(source.path, source.mpp, model.mpp)
    key = f"{source.sha256[:16]}-{source.mpp:g}-{ALGORITHM}"
    try:
        mask = store.mask(key)
    except ResultGone:
        mask = find_tissue(source.path, source.mpp)
        save_mask(mask, store.tissue(key))
    found = time.perf_counter()
    scale, region = reader.scale[0], wishes.region
    if region is not None:
        region.check_on(source.width, source.height)
    outline = None if wishes.tissue is None else read_outline(wishes.tissue, source.width, source.height)
    if wishes.tile_size is None:
        grid = fitting_grid(reader.width, reader.height, model.halo, mask, scale)
    else:
        grid = Grid(reader.width, reader.height, wishes.tile_size, model.halo)
    where = mask if outline is None else outline.touched(mask)
    everywhere = tiles_with_tissue(grid, where, scale)
    found_on = Ground(mask, scale)
    # What somebody drew is looked at, also where no tissue was found.
    ground = found_on if outline is None or found_on.holds(where, everywhere) else None
    facts = {
        "scale": reader.scale, "tile_size": grid.tile_size, "halo": grid.halo, "stain": wishes.stain.key,
        "tissue": key,
    }  # fmt: skip
    # Of the tissue that is found, whatever is drawn: other masks then need no other tiles.
    sampled = mask if mask.bits.any() else where
    blocks = blocks_with_tissue(sampling_grid(reader.width, reader.height), sampled, scale)
    tiles = along_curve(tile for tile in everywhere if region is None or region.meets(tile.core, scale))
    sampling = {**facts, "drawn": outline.sha256 if outline is not None and sampled is not mask else None}
    measured = _measured(
        reader, blocks, model, grid, tiles, store, content_key(source.sha256, model, sampling), wishes.threads
    )
    return _Plan(
        source=source,
        model=model,
        mask=mask if outline is None else outline.drawn(mask),
        outline=outline,
        reader=reader,
        grid=grid,
        measured=measured,
        ground=ground,
        tiles=tiles,
        tiles_total=sum(1 for _ in tiles_of(grid, scale, region)),
        content_key=content_key(
            source.sha256,
            model,
            {
                **facts,
                "engine": engine,
                "normalisation": asdict(measured.normalisation),
                "ground": "whole" if ground is None else MARGIN,
            },
        ),
        seconds={"open": opened, "tissue": found - began, "plan": time.perf_counter() - found},
    )


def _measured(
    reader: SlideReader,
    blocks: Sequence[Tile],
    model: Model,
    grid: Grid,
    tiles: Sequence[Tile],
    store: ResultStore,
    key: str,
    threads: int,
) -> Measured:
    """The normalisation, measured once for all runs into one folder."""
    path = store.tile(key, 0, 0).with_name("normalisation.json")
    known = _read_json(path)
    if isinstance(known, dict):
        return Measured(Normalisation(tuple(known["low"]), tuple(known["high"])), {})
    measured = measure_normalisation(reader, blocks, model.percentiles, grid, tiles, threads=threads or usable_cores())
    _write_json(path, asdict(measured.normalisation))
    return measured


def _run(wishes: Wishes, plan: _Plan, engine: Engine, store: ResultStore, draft: Path, progress: Progress) -> Summary:
    known = _whole(plan.tiles, plan.content_key, store, wishes.threads or usable_cores())
    slide = SourceSlide(
        slide_id=plan.source.sha256[:16],
        sha256=plan.source.sha256,
        path=plan.source.path,
        width=plan.source.width,
        height=plan.source.height,
        mpp=plan.source.mpp,
        mpp_source=plan.source.mpp_source,
    )
    order = Order(
        slide=slide,
        mask=plan.mask,
        region=wishes.region,
        outline=plan.outline,
        formats=wishes.formats,
        stage_seconds={stage: round(seconds, 4) for stage, seconds in plan.seconds.items()},
        notes=(*plan.source.notes, *plan.reader.notes, *([engine.note] if engine.note else [])),
    )
    how = Segmentation(
        grid=plan.grid,
        scale=plan.reader.scale[0],
        content_key=plan.content_key,
        tiles_total=plan.tiles_total,
        tiles_skipped=plan.tiles_total - len(plan.tiles),
        model=plan.model.name,
        model_digest=plan.model.digest,
        normalisation=plan.measured.normalisation,
        made_by=uuid.uuid4().hex,
        stain=wishes.stain,
        planned=frozenset((tile.row, tile.column) for tile in plan.tiles),
    )
    small = plan.reader.width * plan.reader.height <= LABELS_PIXELS
    labels = LabelImage(plan.reader.width, plan.reader.height) if small else None
    waiting = _Waiting(_results(wishes, plan, engine, store, known, how.made_by))

    def told(tiles: int, cells: int) -> None:
        progress(tiles, len(plan.tiles), cells)

    def drawn() -> Iterator[TileCells]:
        for cells in waiting:
            if labels is not None:
                chosen = cells if wishes.region is None else wishes.region.choose(cells, how.scale)
                labels.draw(chosen if plan.outline is None else plan.outline.choose(chosen, how.scale))
            yield cells
        if labels is not None:
            # While the other files are finished.
            saved.append(saver.submit(labels.save, draft / "labels.tif", plan.source.mpp * how.scale))

    saved: list[Future[None]] = []
    with ThreadPoolExecutor(1, thread_name_prefix="labels") as saver:
        summary = write_segmentation(drawn(), order, how, draft, told)
        for each in saved:
            each.result()
    # The files were written while the network ran: what they took is what was not spent waiting for it.
    stages = {**summary.stage_seconds, "merge": round(summary.stage_seconds["merge"] - waiting.seconds, 4)}
    summary = replace(summary, stage_seconds=stages)
    summary.save(draft / LAST)
    return summary


def _whole(tiles: Sequence[Tile], key: str, store: ResultStore, threads: int) -> frozenset[tuple[int, int]]:
    """Row and column of those tiles that an earlier run did. A power cut may have damaged some: these are forgotten."""
    there = store.known(key)

    def readable(at: tuple[int, int]) -> bool:
        try:
            store.read(key, *at)
        except ResultGone:
            return False
        return True

    known = [at for tile in tiles if (at := (tile.row, tile.column)) in there]
    with ThreadPoolExecutor(threads) as pool:
        return frozenset(at for at, whole in zip(known, pool.map(readable, known), strict=True) if whole)


def _results(
    wishes: Wishes, plan: _Plan, engine: Engine, store: ResultStore, known: frozenset[tuple[int, int]], run: str
) -> Iterator[TileCells]:
    """Yield the cells of all tiles in their order: those of an earlier run from its files, the others as they come."""

    def keep(cells: TileCells) -> None:
        path = store.tile(plan.content_key, cells.row, cells.column)
        write_cells(cells.made(engine.name, run), path, durable=False)

    missing = [tile for tile in plan.tiles if (tile.row, tile.column) not in known]
    computed = segment(
        plan.reader,
        plan.model,
        engine,
        plan.grid,
        normalisation=plan.measured,
        tiles=missing,
        ground=None if plan.ground is None else plan.ground.of,
        decoders=wishes.threads or usable_cores(),
        workers=wishes.threads or usable_cores(),
        stain=wishes.stain,
        keep=keep,
    )
    for tile in plan.tiles:
        if (tile.row, tile.column) in known:
            yield store.read(plan.content_key, tile.row, tile.column)
        else:
            yield next(computed)[1].made(engine.name, run)


class _Waiting:
    """An iterator over results that begins at once, before it is asked, and knows how long it was waited for."""

    def __init__(self, results: Iterator[TileCells]) -> None:
        self._results = results
        self.seconds = 0.0
        starter = ThreadPoolExecutor(1)
        self._first: Future[TileCells | None] | None = starter.submit(next, results, None)
        starter.shutdown(wait=False)

    def __iter__(self) -> Iterator[TileCells]:
        return self

    def __next__(self) -> TileCells:
        began = time.perf_counter()
        try:
            if self._first is None:
                return next(self._results)
            first, self._first = self._first.result(), None
            if first is None:
                raise StopIteration
            return first
        finally:
            self.seconds += time.perf_counter() - began


def _publish(draft: Path, out: Path) -> None:
    """Give the files their place, the last one last; what an earlier run with other wishes had left there goes."""
    noted, names = out / WORK / _PUBLISHED, {path.name for path in draft.iterdir()}
    earlier = _read_json(noted)
    before = frozenset(map(str, earlier)) if isinstance(earlier, list) else frozenset()
    _write_json(noted, sorted(names | before))
    for name in before - names:
        (out / name).unlink(missing_ok=True)
    for name in sorted(names, key=lambda name: (name == LAST, name)):
        (draft / name).replace(out / name)


def _read_json(path: Path) -> object:
    """What `_write_json` wrote; None where there is nothing, or what a power cut left of it."""
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _write_json(path: Path, value: object) -> None:
    aside = path.with_suffix(".new")
    aside.write_text(json.dumps(value), "utf-8")
    aside.replace(path)
