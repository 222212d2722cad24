"""What a job has to do, found out in a decoding process.

Promises: the plan is a pure function of the slide, the model and the parameters: the same for every attempt.
Refuses: to keep pixels; the tissue mask goes into the result store, everything else is small.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from microtome.contracts import messages
from microtome.errors import InvalidRequest, MicrotomeError
from microtome.heap import keep_freed_memory
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import pad_reflect
from microtome.segmentation.run import content_key
from microtome.segmentation.sampling import sample_histogram, sampling_grid, spread
from microtome.segmentation.wishes import EngineWish
from microtome.slides import resample
from microtome.slides.reader import open_cached
from microtome.slides.thumbnail import PREVIEW_PIXELS, thumbnail
from microtome.tilestore import LocalPixelStore, ResultGone, ResultStore, pixel_key
from microtome.tissue.fitting import fitting_grid
from microtome.tissue.ground import MARGIN, Ground
from microtome.tissue.mask import ALGORITHM, find_tissue
from microtome.tissue.region import Region
from microtome.tissue.store import outline_of, save_mask
from microtome.tissue.tiles import blocks_with_tissue, tiles_of, tiles_with_tissue

log = logging.getLogger(__name__)

# Threads that count the intensities of one slide.
SAMPLERS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SlideSource:
    """A slide and how it is to be read. `mpp`: µm per level-0 pixel, None if nobody knows.

    `tenant`: whose it is. Results are shared among a tenant's jobs and no further: how fast a job was, and how many of
    its tiles had a result, would tell one user what slides another has.
    """

    tenant: str
    path: Path
    sha256: str
    mpp: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TissuePlan:
    """Where the tissue mask lies, and the wall seconds that finding it took."""

    tissue_key: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A job's tiles by (row, column), before its normalisation is known.

    `wanted`: those of its region whose core has ground. `samples`: blocks of the slide's sampling lattice on which its
    normalisation is measured: jobs on regions, or with other tiles, find the same cells. `on_ground`: cells are looked
    for on the slide's ground; not if somebody drew tissue where none was found, then they are everywhere.
    """

    grid: Grid
    tiles_total: int
    wanted: tuple[tuple[int, int], ...]
    samples: tuple[tuple[int, int], ...]
    on_ground: bool
    # Of some of the samples.
    histogram: Histogram
    # Level-0 pixels per model pixel.
    scale: float
    notes: tuple[str, ...]
    seconds: float

    @property
    def tiles_skipped(self) -> int:
        """Tiles without tissue."""
        return self.tiles_total - len(self.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class TilePlan:
    """All that a segmentation's tiles depend on. `seconds`: wall seconds that finding it out took."""

    layout: Layout
    normalisation: Normalisation
    content_key: str
    notes: tuple[str, ...]
    seconds: float

    @property
    def message(self) -> messages.Normalisation:
        """The normalisation as messages carry it."""
        return messages.Normalisation(low=self.normalisation.low, high=self.normalisation.high)


def warm_up() -> None:
    """Make a fresh process ready: its first tile must not wait for compiled code."""
    keep_freed_memory()
    resample.warm_up()
    for view in (np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)[2:, 2:]):
        Histogram.of(view)


def plan_tissue(source: SlideSource, results: Path, picture: bool = False) -> TissuePlan:
    """Find the tissue of a slide, or find that it was found before. `picture`: nothing else is looked for."""
    began = time.perf_counter()
    key = tissue_key(source)
    store = ResultStore(results)
    try:
        store.mask(key)
    except ResultGone:
        save_mask(find_tissue(source.path, source.mpp), store.tissue(key))
    if picture:
        begin_picture(source, store)
    return TissuePlan(tissue_key=key, seconds=time.perf_counter() - began)


def begin_picture(source: SlideSource, store: ResultStore) -> None:
    """Have what the slide looks like kept for the merger, which then need not decode the slide again.

    In a thread, beside what is decoded next. If it comes to nothing, the merger looks at the slide itself.
    """
    key = tissue_key(source)
    if not store.has_picture(key):
        threading.Thread(target=_keep_picture, args=(source.path, store, key), name="picture", daemon=True).start()


def _keep_picture(slide: Path, store: ResultStore, key: str) -> None:
    try:
        store.keep_picture(key, thumbnail(slide, PREVIEW_PIXELS))
    except (MicrotomeError, OSError) as error:
        log.info("what a slide looks like could not be kept: %s", error)


def lay_out(
    source: SlideSource,
    tissue_key: str,
    model: Model,
    tile_size: int,
    largest: bool,
    halo: int,
    samples: int,
    region: Region | None,
    drawn: str | None,
    results: Path,
    at_once: int = 0,
) -> Layout:
    """Lay the grid, skip glass, choose at most `samples` blocks of the slide's lattice for the normalisation, and count
    the intensities of the first `at_once` of them.

    `largest`: tiles may be smaller than `tile_size` on both edges, if fewer pixels then go through the network.
    `drawn`: the digest of what the user drew as tissue instead of what was found. The normalisation is measured on what
    was found all the same, so that all jobs share their tiles; only where nothing was found, on what was drawn.
    Raises `UnknownMpp`, `UnreadableSlide`, `ResultGone` without the tissue mask, `ConfigurationError` for a grid
    without cores, `NotFound` without what was drawn, and `InvalidRequest` for a halo with which tiles would not join
    exactly or a region off the slide.
    """
    began = time.perf_counter()
    if halo < model.halo_min:
        raise InvalidRequest(
            f"Model '{model.name}' sees {model.halo_min} pixels around each pixel; with a halo of {halo}, cells at "
            f"seams would come out differently. Choose a halo of at least {model.halo_min}, or leave it out."
        )
    reader = open_cached(source.path, source.mpp, model.mpp)
    mask = ResultStore(results).mask(tissue_key)
    scale = reader.scale[0]
    # By the tissue that was found, whatever was drawn and whatever the region: all jobs share their tiles.
    grid = (
        fitting_grid(reader.width, reader.height, halo, mask, scale, tile_size)
        if largest
        else Grid(reader.width, reader.height, tile_size, halo)
    )
    shown = mask if drawn is None else outline_of(source.path, drawn).touched(mask)
    wanted, total = tiles_with_tissue(grid, shown, scale), len(grid)
    on_ground = drawn is None or Ground(mask, scale).holds(shown, wanted)
    blocks = sampling_grid(reader.width, reader.height)
    looked_at = blocks_with_tissue(blocks, mask, scale) or blocks_with_tissue(blocks, shown, scale)
    if region is not None:
        region.check_on(mask.level0_width, mask.level0_height)
        wanted = [tile for tile in wanted if region.meets(tile.core, scale)]
        total = sum(1 for _ in tiles_of(grid, scale, region))
    chosen = _addresses(spread(looked_at, samples))
    # Blocks of a small slide are parts of few of its file's tiles, and what is cut into tiles next.
    reader.expect(len(wanted) * grid.tile_width * grid.tile_height)
    histogram, _ = sample_tiles(source, model.mpp, chosen[:at_once])
    # Only now: until the first tile is decoded, the network waits for this process alone.
    begin_picture(source, ResultStore(results))
    return Layout(
        grid=grid,
        tiles_total=total,
        wanted=_addresses(wanted),
        samples=chosen,
        histogram=histogram,
        on_ground=on_ground,
        scale=scale,
        notes=reader.notes,
        seconds=time.perf_counter() - began,
    )


def sample_tiles(
    source: SlideSource, model_mpp: float, addresses: tuple[tuple[int, int], ...]
) -> tuple[Histogram, float]:
    """Count the intensities of some blocks of the sampling lattice; return them and the wall seconds it took."""
    began = time.perf_counter()
    reader = open_cached(source.path, source.mpp, model_mpp)
    blocks = sampling_grid(reader.width, reader.height)
    chosen = [blocks.tile(*address) for address in addresses]
    with ThreadPoolExecutor(SAMPLERS, thread_name_prefix="sample") as samplers:
        parts = samplers.map(lambda first: sample_histogram(reader, chosen[first::SAMPLERS]), range(SAMPLERS))
        histogram = sum(parts, Histogram.empty())
    return histogram, time.perf_counter() - began


def results_key(
    source: SlideSource,
    model: Model,
    grid: Grid,
    scale: float,
    on_ground: bool,
    normalisation: Normalisation,
    staining: messages.Staining,
    engine: EngineWish,
) -> str:
    """Return the content key of the job's tiles. Jobs on regions of one slide share it: their tiles are the same.

    `grid`, `scale`, `on_ground`: as in the job's `Layout`.
    """
    parameters = {
        "scale": (scale, scale),
        "tile_size": grid.tile_size,
        "halo": grid.halo,
        "normalisation": asdict(normalisation),
        "ground": [MARGIN, tissue_key(source)] if on_ground else "whole",
        # The cells are the same, but not what is measured on them.
        "stain": staining.name.lower(),
        # Whoever forces fp32 must not be given what int8 found before.
        "engine": engine,
        "tenant": source.tenant,
    }
    return content_key(source.sha256, model, parameters)


def decode_tiles(
    source: SlideSource,
    model_mpp: float,
    grid: Grid,
    addresses: tuple[tuple[int, int], ...],
    job_id: str,
    attempt: int,
    store: Path,
) -> tuple[tuple[str, ...], float]:
    """Decode tiles into the tile store; return their keys and the wall seconds it took."""
    began = time.perf_counter()
    reader = open_cached(source.path, source.mpp, model_mpp)
    pixels = LocalPixelStore(store)
    keys = []
    for row, column in addresses:
        key = pixel_key(job_id, attempt, row, column)
        pixels.put(key, pad_reflect(reader, grid.tile(row, column).padded))
        keys.append(key)
    return tuple(keys), time.perf_counter() - began


def _addresses(tiles: list[Tile]) -> tuple[tuple[int, int], ...]:
    return tuple((tile.row, tile.column) for tile in tiles)


def tissue_key(source: SlideSource) -> str:
    """Return the key under which the tissue mask of a slide lies, or will lie."""
    facts = json.dumps([ALGORITHM, source.tenant, source.sha256, source.mpp])
    return hashlib.sha256(facts.encode()).hexdigest()
