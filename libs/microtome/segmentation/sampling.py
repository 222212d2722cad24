"""Where a slide is looked at to learn what its intensities mean.

Promises: the pixels are of the slide's choosing, blocks of a lattice that no job can change, so that jobs with other
tiles or on other regions get the same normalisation, and with it the same cells; full-resolution pixels; the same
blocks give the same histogram in any order, whether they are read or found in tiles that are decoded anyway.
Refuses: to know what tissue is; it takes the blocks that have some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.flow import Measured
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import RegionReader, pad_reflect
from microtome.segmentation.shares import in_shares

# Edge of a block in model pixels, and how many are looked at: 33 million pixels tell the 0.1st percentile well.
BLOCK = 256
MAX_BLOCKS = 512
# Decoded pixels that are kept for the network.
KEPT_BYTES = 64 << 20
# Blocks that are not worth a thread of their own.
_FEW = 16


def sampling_grid(width: int, height: int) -> Grid:
    """The lattice of blocks of an image of `width` × `height` model pixels."""
    return Grid(width, height, BLOCK, 0)


def spread(tiles: Iterable[Tile], most: int = MAX_BLOCKS) -> list[Tile]:
    """Return at most so many of the tiles, evenly spread, the same whatever their order."""
    ordered = sorted(tiles, key=lambda tile: (tile.row, tile.column))
    count = min(most, len(ordered))
    return [ordered[(2 * index + 1) * len(ordered) // (2 * count)] for index in range(count)]


def sample_histogram(reader: RegionReader, blocks: Iterable[Tile]) -> Histogram:
    """Histogram of the blocks; give it those of `sampling_grid` that have tissue, `spread`."""
    histogram = Histogram.empty()
    for block in blocks:
        core = block.core
        histogram += Histogram.of(reader.read(core.x, core.y, core.width, core.height))
    return histogram


def measure_normalisation(
    reader: RegionReader,
    blocks: Iterable[Tile],
    percentiles: tuple[float, float],
    grid: Grid,
    tiles: Sequence[Tile],
    *,
    threads: int = 1,
) -> Measured:
    """Measure the normalisation as `sample_histogram` does on the `spread` blocks, with `threads`.

    When all `tiles` of `grid` that will be decoded take no more than `KEPT_BYTES`, they are decoded for it and kept, so
    that on a small slide nothing is decoded twice.
    """
    chosen = spread(blocks)
    kept: dict[tuple[int, int], NDArray[np.uint8]] = {}
    with ThreadPoolExecutor(threads, thread_name_prefix="sample") as pool:
        if 3 * grid.tile_width * grid.tile_height * len(tiles) <= KEPT_BYTES:
            decoded = pool.map(lambda tile: pad_reflect(reader, tile.padded), tiles)
            kept = {(tile.row, tile.column): pixels for tile, pixels in zip(tiles, decoded, strict=True)}
            parts = [
                (block.core.intersection(tile.core), tile)
                for tile in grid.tiles()
                for block in chosen
                if not block.core.intersection(tile.core).empty
            ]
            counted = in_shares(
                lambda first, last: _count(reader, kept, parts[first:last]), len(parts), threads, few=_FEW
            )
        else:
            counted = list(pool.map(lambda block: sample_histogram(reader, (block,)), chosen))
    return Measured(Normalisation.from_histogram(sum(counted, Histogram.empty()), percentiles), kept)


def _count(
    reader: RegionReader, kept: Mapping[tuple[int, int], NDArray[np.uint8]], parts: Sequence[tuple[Rect, Tile]]
) -> Histogram:
    """Count parts of blocks, each in the core of a tile; in the tile's pixels, if it is decoded."""
    histogram = Histogram.empty()
    for part, tile in parts:
        pixels = kept.get((tile.row, tile.column))
        histogram += Histogram.of(_read(reader, part) if pixels is None else _cut(pixels, part, tile.padded))
    return histogram


def _read(reader: RegionReader, part: Rect) -> NDArray[np.uint8]:
    return reader.read(part.x, part.y, part.width, part.height)


def _cut(pixels: NDArray[np.uint8], part: Rect, seen: Rect) -> NDArray[np.uint8]:
    top, left = part.y - seen.y, part.x - seen.x
    return pixels[top : top + part.height, left : left + part.width]
