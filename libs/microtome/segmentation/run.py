"""From a slide to its cells, tile after tile.

Promises: decoding, the network and the head work at the same time; what is in memory is a few batches, however
large the slide; cells come in the order of the tiles, and neither batch size nor threads nor the order of the
tiles changes one of them.
Refuses: a halo shorter than the model was measured to need (`ConfigurationError`).
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ConfigurationError
from microtome.segmentation.cells import TileCells, segment_tile
from microtome.segmentation.engine import Engine
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import RegionReader, pad_reflect
from microtome.segmentation.stains import HE, Stain

# Part of every content key: raise it when the same model and settings would give other cells.
ALGORITHM = 2
# Batches decoded ahead of the network, and tiles behind it.
_AHEAD = 2


def content_key(slide_sha256: str, model: Model, parameters: Mapping[str, object]) -> str:
    """Key of a result: sha256 hex over the slide's content, the model and all that can change a cell.

    `parameters`: JSON values only; pixel size, grid and normalisation belong here, batch size and engine threads do
    not.
    """
    facts = {"algorithm": ALGORITHM, "slide": slide_sha256, "model": model.digest, "parameters": dict(parameters)}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def sample_histogram(reader: RegionReader, tiles: Iterable[Tile], max_tiles: int = 64) -> Histogram:
    """Histogram of the cores of at most `max_tiles` of the tiles (give it those with tissue), evenly spread.

    Full-resolution pixels; the same tiles give the same histogram in any order.
    """
    histogram = Histogram.empty()
    for tile in spread(tiles, max_tiles):
        core = tile.core
        histogram += Histogram.of(reader.read(core.x, core.y, core.width, core.height))
    return histogram


def spread(tiles: Iterable[Tile], max_tiles: int) -> list[Tile]:
    """Return at most `max_tiles` of the tiles, evenly spread, the same whatever their order."""
    ordered = sorted(tiles, key=lambda tile: (tile.row, tile.column))
    count = min(max_tiles, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def warm_up(model: Model) -> float:
    """Compile the head and the contours, so that the first tile does not wait; returns the seconds it took."""
    began = time.perf_counter()
    rect = Rect(0, 0, 80, 80)
    logits = np.full((5, 80, 80), -8.0, np.float32)
    logits[4, 36:44, 36:44] = 8.0
    segment_tile(logits, Tile(0, 0, rect, rect, rect), model, np.full((80, 80, 3), 255, np.uint8))
    return time.perf_counter() - began


def segment(
    reader: RegionReader,
    model: Model,
    engine: Engine,
    grid: Grid,
    *,
    normalisation: Normalisation | None = None,
    wanted: Callable[[Tile], bool] | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    stain: Stain = HE,
) -> Iterator[tuple[Tile, TileCells]]:
    """Segment the tiles of `grid` that are `wanted` (None: all), in order.

    `normalisation` None: measured on up to 64 of those tiles. `batch_size` None: what the engine likes. `workers`:
    threads for the head. `stain`: whose dyes are measured. Raises `ConfigurationError` if grid and reader or grid and
    model do not fit.
    """
    if (grid.width, grid.height) != (reader.width, reader.height):
        raise ConfigurationError(
            f"The grid is for {grid.width} × {grid.height} pixels, the slide has {reader.width} × {reader.height}."
        )
    model.require_halo(grid.halo)
    size = engine.batch_size if batch_size is None else batch_size
    if size < 1 or workers < 1:
        raise ConfigurationError(f"batch_size {size} and workers {workers} must be at least 1.")
    tiles = [tile for tile in grid.tiles() if wanted is None or wanted(tile)]
    if normalisation is None:
        normalisation = Normalisation.from_histogram(sample_histogram(reader, tiles), model.percentiles)
    return _stream(reader, model, engine, tiles, normalisation, size, workers, stain)


def _stream(
    reader: RegionReader,
    model: Model,
    engine: Engine,
    tiles: Sequence[Tile],
    normalisation: Normalisation,
    size: int,
    workers: int,
    stain: Stain,
) -> Iterator[tuple[Tile, TileCells]]:
    low, scale = normalisation.arrays()
    todo = iter(tiles[start : start + size] for start in range(0, len(tiles), size))
    decoding: deque[tuple[Sequence[Tile], Future[tuple[NDArray[np.uint8], float]]]] = deque()
    finishing: deque[tuple[Tile, Future[TileCells], dict[str, float]]] = deque()
    decoders = ThreadPoolExecutor(1, thread_name_prefix="decode")
    heads = ThreadPoolExecutor(workers, thread_name_prefix="head")

    def decode_ahead() -> None:
        for batch in islice(todo, _AHEAD - len(decoding)):
            decoding.append((batch, decoders.submit(_decode, reader, batch)))

    def finish() -> tuple[Tile, TileCells]:
        tile, future, seconds = finishing.popleft()
        return tile, future.result().with_seconds(seconds)

    try:
        decode_ahead()
        while decoding:
            batch, future = decoding.popleft()
            pixels, decode_seconds = future.result()
            decode_ahead()
            began = time.perf_counter()
            logits = engine.infer(pixels, np.tile(low, (len(batch), 1)), np.tile(scale, (len(batch), 1)))
            seconds = {
                "decode": decode_seconds / len(batch),
                "network": (time.perf_counter() - began) / len(batch),
            }
            for tile, of_tile, seen in zip(batch, logits, pixels, strict=True):
                finishing.append((tile, heads.submit(segment_tile, of_tile, tile, model, seen, stain), seconds))
            while len(finishing) > workers + size:
                yield finish()
        while finishing:
            yield finish()
    finally:
        decoders.shutdown(cancel_futures=True)
        heads.shutdown(cancel_futures=True)


def _decode(reader: RegionReader, batch: Sequence[Tile]) -> tuple[NDArray[np.uint8], float]:
    began = time.perf_counter()
    pixels = np.stack([pad_reflect(reader, tile.padded) for tile in batch])
    return pixels, time.perf_counter() - began
