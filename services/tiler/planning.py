"""What a job has to do, found out in a decoding process.

Promises: the plan is a pure function of the slide, the model and the parameters: the same for every attempt.
Refuses: to keep pixels; the tissue mask goes into the result store, everything else is small.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from microtome.errors import InvalidRequest
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import load_model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.reading import pad_reflect
from microtome.segmentation.run import content_key, sample_histogram
from microtome.slides import resample
from microtome.slides.reader import open_cached
from microtome.tilestore import LocalPixelStore, ResultGone, ResultStore, pixel_key
from microtome.tissue.mask import find_tissue
from microtome.tissue.store import save_mask
from microtome.tissue.tiles import tiles_with_tissue

# Raise it when the mask of the same slide would come out differently.
_TISSUE_ALGORITHM = 1


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
class TilePlan:
    """The tiles of a segmentation. `wanted`: (row, column) of the tiles whose core, grown by the halo, has tissue."""

    content_key: str
    width: int
    height: int
    tile_size: int
    halo: int
    tiles_total: int
    wanted: tuple[tuple[int, int], ...]
    low: tuple[float, float, float]
    high: tuple[float, float, float]
    # Level-0 pixels per model pixel.
    scale: float
    notes: tuple[str, ...]
    seconds: float

    @property
    def tiles_skipped(self) -> int:
        """Tiles without tissue."""
        return self.tiles_total - len(self.wanted)


def warm_up() -> None:
    """Make a fresh process ready: its first tile must not wait for compiled code."""
    resample.warm_up()


def plan_tissue(source: SlideSource, results: Path) -> TissuePlan:
    """Find the tissue of a slide, or find that it was found before."""
    began = time.perf_counter()
    key = _tissue_key(source)
    store = ResultStore(results)
    try:
        store.mask(key)
    except ResultGone:
        save_mask(find_tissue(source.path, source.mpp), store.tissue(key))
    return TissuePlan(tissue_key=key, seconds=time.perf_counter() - began)


def plan_tiles(
    source: SlideSource, tissue_key: str, model_name: str, tile_size: int, halo: int, samples: int, results: Path
) -> TilePlan:
    """Lay the grid, skip glass, measure the normalisation on at most `samples` tiles.

    Raises `UnknownMpp`, `UnreadableSlide`, `ResultGone` without the tissue mask, `ConfigurationError` for a grid
    without cores, and `InvalidRequest` for a halo with which tiles would not join exactly.
    """
    began = time.perf_counter()
    model = load_model(model_name)
    if halo < model.halo_min:
        raise InvalidRequest(
            f"Model '{model.name}' sees {model.halo_min} pixels around each pixel; with a halo of {halo}, cells at "
            f"seams would come out differently. Choose a halo of at least {model.halo_min}, or leave it out."
        )
    reader = open_cached(source.path, source.mpp, model.mpp)
    mask = ResultStore(results).mask(tissue_key)
    grid = Grid(reader.width, reader.height, tile_size, halo)
    wanted = tiles_with_tissue(grid, mask, reader.scale[0])
    normalisation = Normalisation.from_histogram(sample_histogram(reader, wanted, samples), model.percentiles)
    parameters = {
        "scale": reader.scale,
        "tile_size": tile_size,
        "halo": halo,
        "normalisation": asdict(normalisation),
        "tenant": source.tenant,
    }
    return TilePlan(
        content_key=content_key(source.sha256, model, parameters),
        width=reader.width,
        height=reader.height,
        tile_size=tile_size,
        halo=halo,
        tiles_total=len(grid),
        wanted=tuple((tile.row, tile.column) for tile in wanted),
        low=normalisation.low,
        high=normalisation.high,
        scale=reader.scale[0],
        notes=reader.notes,
        seconds=time.perf_counter() - began,
    )


def decode_tiles(
    source: SlideSource,
    model_mpp: float,
    plan: TilePlan,
    addresses: tuple[tuple[int, int], ...],
    job_id: str,
    attempt: int,
    store: Path,
) -> tuple[tuple[str, ...], float]:
    """Decode tiles into the tile store; return their keys and the wall seconds it took."""
    began = time.perf_counter()
    reader = open_cached(source.path, source.mpp, model_mpp)
    grid = Grid(plan.width, plan.height, plan.tile_size, plan.halo)
    pixels = LocalPixelStore(store)
    keys = []
    for row, column in addresses:
        key = pixel_key(job_id, attempt, row, column)
        pixels.put(key, pad_reflect(reader, grid.tile(row, column).padded))
        keys.append(key)
    return tuple(keys), time.perf_counter() - began


def _tissue_key(source: SlideSource) -> str:
    facts = json.dumps([_TISSUE_ALGORITHM, source.tenant, source.sha256, source.mpp])
    return hashlib.sha256(facts.encode()).hexdigest()
