"""From a slide to its cells, tile after tile.

Promises: decoding, the network and the head work at the same time; what is in memory is a few batches, however
large the slide; cells come in the order of the tiles, and neither batch size nor threads nor the order of the
tiles changes one of them.
Refuses: a halo shorter than the model was measured to need (`ConfigurationError`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from microtome.errors import ConfigurationError
from microtome.segmentation.cells import TileCells, segment_tile
from microtome.segmentation.engine import Engine, lanes_of
from microtome.segmentation.flow import Flow, Measured, Seconds
from microtome.segmentation.grid import Grid, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.patches import Bits, View, lanes_for
from microtome.segmentation.reading import RegionReader
from microtome.segmentation.sampling import measure_normalisation, sampling_grid
from microtome.segmentation.stains import HE, Stain

# Part of every content key: raise it when the same model and settings would give other cells.
ALGORITHM = 4


def content_key(slide_sha256: str, model: Model, parameters: Mapping[str, object]) -> str:
    """Key of a result: sha256 hex over the slide's content, the model and all that can change a cell.

    `parameters`: JSON values only; pixel size, grid and normalisation belong here, batch size and engine threads do
    not.
    """
    facts = {"algorithm": ALGORITHM, "slide": slide_sha256, "model": model.digest, "parameters": dict(parameters)}
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def segment(
    reader: RegionReader,
    model: Model,
    engine: Engine,
    grid: Grid,
    *,
    normalisation: Normalisation | Measured | None = None,
    wanted: Callable[[Tile], bool] | None = None,
    tiles: Iterable[Tile] | None = None,
    ground: Callable[[Tile], Bits] | None = None,
    batch_size: int | None = None,
    workers: int = 1,
    decoders: int = 1,
    stain: Stain = HE,
    keep: Callable[[TileCells], None] | None = None,
) -> Iterator[tuple[Tile, TileCells]]:
    """Segment the tiles of `grid` that are `wanted` (None: all), or just `tiles`, in that order.

    Decoding, the network and the head run in threads of their own, a bounded number of tiles ahead of who takes the
    results. `ground`: where in a tile cells are looked for, bool [h / 16, w / 16] of `tile.padded`; None: everywhere.
    The network is then given patches that cover it; but whole tiles where a call takes several, which must be alike.
    `normalisation` None: measured where those tiles lie. `batch_size` None: what the engine likes.
    `workers`, `decoders`: threads for the head, which share also a single tile, and for decoding. `stain`: whose dyes
    are measured. `keep` is given each tile's cells in the head's thread, before they are yielded. A tile's `seconds`
    say how long decoding and the network took, and for how long the network had stood "idle" before.
    Raises `ConfigurationError` if grid and reader or grid and model do not fit.
    """
    if (grid.width, grid.height) != (reader.width, reader.height):
        raise ConfigurationError(
            f"The grid is for {grid.width} × {grid.height} pixels, the slide has {reader.width} × {reader.height}."
        )
    model.require_halo(grid.halo)
    model = model.with_room(grid.halo)
    size = engine.batch_size if batch_size is None else batch_size
    if min(size, workers, decoders) < 1:
        raise ConfigurationError(f"batch_size {size}, workers {workers} and decoders {decoders} must be at least 1.")
    todo = list(tiles) if tiles is not None else [tile for tile in grid.tiles() if wanted is None or wanted(tile)]
    if normalisation is None:
        blocks = [
            block
            for block in sampling_grid(reader.width, reader.height).tiles()
            if any(not block.core.intersection(tile.core).empty for tile in todo)
        ]
        normalisation = measure_normalisation(reader, blocks, model.percentiles, grid, todo, threads=decoders)
    lanes = lanes_for(lanes_of(engine), len(grid))
    measured = normalisation if isinstance(normalisation, Measured) else Measured(normalisation, {})

    def look(tile: Tile) -> View:
        of_tile = None if ground is None else ground(tile)
        width, height = tile.padded.width, tile.padded.height
        return View.of(of_tile, width, height, model.halo_min, whole=size > 1, lanes=lanes)

    def finish(
        logits: NDArray[np.float32], tile: Tile, view: View, pixels: NDArray[np.uint8], seconds: Seconds
    ) -> TileCells:
        cells = segment_tile(logits, tile, model, pixels, stain, workers).with_seconds(seconds).seen(view, tile)
        if keep is not None:
            keep(cells)
        return cells

    flow = Flow(reader, engine, measured, look, finish, size, workers, decoders)
    return flow.run([todo[start : start + size] for start in range(0, len(todo), size)])
