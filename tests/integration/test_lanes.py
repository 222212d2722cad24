"""Several calls of the network beside each other: as many as there are lanes, no more, and no cell tells."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from microtome.segmentation.cells import TileCells
from microtome.segmentation.engine import EngineFailed
from microtome.segmentation.engines import available_engines
from microtome.segmentation.engines.openvino_cpu import OpenVinoEngine
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.reading import ArrayReader
from microtome.segmentation.run import segment

pytestmark = pytest.mark.skipif(
    bool(available_engines()["openvino-cpu-fp32"]), reason="OpenVINO is not to be had on this machine"
)
TILE = 320
LANES = 2


class Watched(OpenVinoEngine):
    """The real engine, which remembers how many of its calls ran at the same time."""

    def __init__(self, model: Model, lanes: int) -> None:
        super().__init__(model, "fp32", threads=LANES, lanes=lanes)
        self._lock = threading.Lock()
        self.running = self.most = self.calls = 0
        self.fails_at: int | None = None

    @contextmanager
    def call(self) -> Iterator[None]:
        with self._lock:
            self.calls += 1
            self.running += 1
            self.most = max(self.most, self.running)
            fails = self.calls == self.fails_at
        try:
            if fails:
                raise EngineFailed("No memory is left.")
            # Long enough for the next tile to be decoded.
            time.sleep(0.05)
            yield
        finally:
            with self._lock:
                self.running -= 1

    def infer(self, pixels: Any, low: Any, scale: Any) -> Any:
        with self.call():
            return super().infer(pixels, low, scale)

    def infer_part(self, pixels: Any, low: Any, scale: Any, wanted: Rect) -> Any:
        with self.call():
            return super().infer_part(pixels, low, scale, wanted)


def found(image: np.ndarray, model: Model, engine: Watched, given: Normalisation) -> list[tuple[Tile, TileCells]]:
    grid = Grid(image.shape[1], image.shape[0], TILE)
    assert len(grid) > 2 * LANES
    return list(segment(ArrayReader(image), model, engine, grid, normalisation=given, workers=2, decoders=2))


def test_lanes_are_used_and_not_seen_in_the_cells(
    image: np.ndarray, model: Model, normalisation: Normalisation
) -> None:
    alone, beside = Watched(model, lanes=1), Watched(model, lanes=LANES)
    one, other = found(image, model, alone, normalisation), found(image, model, beside, normalisation)
    assert (alone.most, beside.most) == (1, LANES)
    assert [tile for tile, _ in one] == [tile for tile, _ in other]
    assert sum(len(cells) for _, cells in one) > 150
    for (_, cells), (_, same) in zip(one, other, strict=True):
        for part in ("seed_x", "seed_y", "area_px", "ring_points"):
            assert np.array_equal(getattr(cells, part), getattr(same, part)), part


def test_one_tile_is_shared_out(image: np.ndarray, model: Model, normalisation: Normalisation) -> None:
    engine = Watched(model, lanes=LANES)
    grid = Grid.whole(image.shape[1], image.shape[0])
    ((_, cells),) = segment(ArrayReader(image), model, engine, grid, normalisation=normalisation)
    assert engine.most == engine.calls == len(cells.patches) == LANES


def test_a_call_that_fails_ends_the_run(image: np.ndarray, model: Model, normalisation: Normalisation) -> None:
    engine = Watched(model, lanes=LANES)
    engine.fails_at = 3
    with pytest.raises(EngineFailed, match="No memory"):
        found(image, model, engine, normalisation)
    # Nothing runs on once the error was raised.
    assert engine.running == 0
    calls = engine.calls
    time.sleep(0.3)
    assert engine.calls == calls
