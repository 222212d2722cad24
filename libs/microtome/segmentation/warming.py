"""What a process does before its first tile, so that the first is as fast as any other.

Promises: what a tile needs is compiled, and the memory that the network takes for the largest tile has been touched,
once and in one piece: the first slide of a process takes no longer than the next, and tiles of other shapes ask for no
more. (Left to the first tiles it cost a small slide half of its time, and memory grew with every larger patch.)
Refuses: to warm engines that do not keep what a large tile took.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from microtome.segmentation.cells import segment_tile
from microtome.segmentation.engine import Engine, TrimmingEngine, lanes_of
from microtome.segmentation.grid import STRIDE, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram

# On an edge, for an engine that is only to be run once: it keeps no memory for the next tile.
_ONCE = 256


def warm_head(model: Model) -> None:
    """Compile what turns logits into cells."""
    blank = np.full((80, 80, 3), 255, np.uint8)
    for view in (blank, blank[8:, 8:]):
        Histogram.of(view)
    rect = Rect(0, 0, 80, 80)
    logits = np.full((5, 80, 80), -8.0, np.float32)
    logits[4, 36:44, 36:44] = 8.0
    segment_tile(logits, Tile(0, 0, rect, rect, rect), model, blank)


def warm_engine(engine: Engine, edge: int) -> None:
    """Run the network on a blank tile; `edge`: of the largest tile that will come, in pixels.

    Raises `EngineFailed` where there is no memory for such a tile.
    """
    # A lane's memory is its own.
    lanes = lanes_of(engine)
    low, scale = np.zeros((1, 3), np.float32), np.full((1, 3), 1 / 255, np.float32)
    if isinstance(engine, TrimmingEngine):
        # A tile of which all is wanted takes more memory than any part of one.
        pixels = np.full((1, edge, edge + STRIDE, 3), 255, np.uint8)
        together = threading.Barrier(lanes)

        def run(_: int) -> None:
            together.wait()
            engine.infer_part(pixels, low, scale, Rect(0, 0, edge, edge))

        with ThreadPoolExecutor(lanes) as threads:
            list(threads.map(run, range(lanes)))
    else:
        engine.infer(np.full((1, _ONCE, _ONCE, 3), 255, np.uint8), low, scale)


def warm_up(model: Model, engine: Engine, edge: int) -> float:
    """Do both, for tiles of at most `edge` pixels; returns the seconds that it took. Raises `EngineFailed`."""
    began = time.perf_counter()
    warm_head(model)
    warm_engine(engine, edge)
    return time.perf_counter() - began
