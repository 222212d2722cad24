"""Cells of known shapes, as the engine gives them, for the tests of what is written of them."""

from __future__ import annotations

import numpy as np

from microtome.segmentation.cells import TileCells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.measuring import measure_cells
from microtome.segmentation.stains import HE

KEY = "0123456789abcdef" * 4


def tile_of(labels: np.ndarray, x: int = 0, y: int = 0) -> TileCells:
    """The cells of a label image, int32 [h, w], whose upper left pixel is (`x`, `y`) of the slide."""
    names = np.unique(labels[labels > 0]).astype(np.int32)
    boxes, seeds = [], []
    for name in names:
        rows, columns = np.nonzero(labels == name)
        boxes.append((rows.min(), columns.min(), rows.max() + 1, columns.max() + 1))
        seeds.append((rows[0] + y, columns[0] + x))
    box = np.array(boxes, np.int32).reshape(-1, 4)
    seed = np.array(seeds, np.int32).reshape(-1, 2)
    area, offsets, points = trace_contours(np.ascontiguousarray(labels, np.int32), names, box)
    score = np.linspace(0.5, 1, len(names)).astype(np.float32)
    pixels = np.full((*labels.shape, 3), 200, np.uint8)
    measured = measure_cells(labels.astype(np.int32), names, box, area, offsets, points, pixels, HE)
    points = points + np.array([2 * x, 2 * y], np.int32)
    return TileCells(0, 0, seed[:, 0], seed[:, 1], area, score, offsets, points, measured)


def discs(count: int = 40, side: int = 256, seed: int = 0) -> np.ndarray:
    """A label image of separate discs of 3 to 9 pixels' radius."""
    random = np.random.default_rng(seed)
    labels = np.zeros((side, side), np.int32)
    y, x = np.mgrid[:side, :side]
    pitch = 24
    places = [(r, c) for r in range(12, side - 12, pitch) for c in range(12, side - 12, pitch)]
    for name, at in enumerate(random.permutation(len(places))[:count], start=1):
        row, column = places[at]
        labels[(y - row) ** 2 + (x - column) ** 2 <= random.uniform(3, 9) ** 2] = name
    return labels
