"""How long the network stood still is measured: slow reading shows, a slow network does not."""

from __future__ import annotations

import time

import numpy as np

from microtome.artifacts.making import idle_fraction
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.reading import ArrayReader
from microtome.segmentation.run import segment

SLOW_S = 0.4


class Dawdling(ArrayReader):
    """As from a disk far away."""

    def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
        time.sleep(SLOW_S)
        return super().read(x, y, width, height)


class Toiling(OnnxRuntimeEngine):
    """As on a machine of long ago."""

    def infer(self, pixels: np.ndarray, low: np.ndarray, scale: np.ndarray) -> np.ndarray:
        time.sleep(SLOW_S)
        return super().infer(pixels, low, scale)


def seconds(reader: ArrayReader, model: Model, engine: OnnxRuntimeEngine, given: Normalisation) -> dict[str, float]:
    """Of three tiles, together."""
    grid = Grid(reader.width, reader.height, 384)
    tiles = list(grid.tiles())[:3]
    found = [cells.seconds for _, cells in segment(reader, model, engine, grid, normalisation=given, tiles=tiles)]
    return {stage: sum(each[stage] for each in found) for stage in ("idle", "network")}


def test_a_network_that_waits_for_pixels_says_so(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation
) -> None:
    waited = seconds(Dawdling(image), model, engine, normalisation)
    # The first tile is waited for as a whole, the others beside the network's work on the one before.
    assert waited["idle"] > SLOW_S
    assert waited["idle"] + waited["network"] > 3 * SLOW_S
    toiled = seconds(ArrayReader(image), model, Toiling(model, device="cpu"), normalisation)
    assert toiled["network"] > 3 * SLOW_S
    shares = idle_fraction(waited), idle_fraction(toiled)
    assert shares[0] is not None
    assert shares[1] is not None
    assert shares[0] > 2 * shares[1]
