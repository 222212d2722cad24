"""A label image drawn from outlines is the label image from which they were traced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile

from microtome.artifacts.outlines import file_order
from microtome.segmentation.cells import TileCells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.standalone.labels import LabelImage


def cells_of(labels: np.ndarray) -> TileCells:
    found = np.array([label for label in np.unique(labels) if label], np.int32)
    places = [np.argwhere(labels == label) for label in found]
    boxes = np.array([[*place.min(axis=0), *(place.max(axis=0) + 1)] for place in places], np.int32)
    area, offsets, points = trace_contours(labels, found, boxes)
    seeds = np.array([place[0] for place in places], np.int32)
    return TileCells(
        row=0,
        column=0,
        seed_y=seeds[:, 0],
        seed_x=seeds[:, 1],
        area_px=area,
        score=np.ones(len(found), np.float32),
        ring_offsets=offsets,
        ring_points=points,
        measurements=np.zeros((len(found), len(MEASUREMENTS)), np.float32),
    )


def discs() -> np.ndarray:
    labels = np.zeros((300, 257), np.int32)
    y, x = np.ogrid[:300, :257]
    rng = np.random.default_rng(4)
    for label in range(1, 60):
        at_y, at_x, radius = rng.integers(0, 300), rng.integers(0, 257), rng.integers(0, 16)
        inside = ((y - at_y) ** 2 + (x - at_x) ** 2 <= radius**2) & (labels == 0)
        # One piece each: a disc that others cut is left out.
        if inside.sum() == ((y - at_y) ** 2 + (x - at_x) ** 2 <= radius**2).sum():
            labels[inside] = label
    return labels


def test_what_was_traced_is_drawn_pixel_by_pixel(tmp_path: Path) -> None:
    labels = discs()
    labels[200:230, 100:140] = 0
    labels[200:230, 100:140][:, :] = 70
    labels[205:225, 105:135] = 0
    labels[210:214, 110:115] = 71  # inside of a ring's hole
    cells = cells_of(labels)
    image = LabelImage(257, 300)
    image.draw(cells)
    found = np.unique(labels)[1:]
    for number, label in enumerate(found[file_order(cells)], 1):
        if label == 70:  # holes are filled, but for what lies in them
            assert (image.pixels[200:230, 100:140] > 0).all()
            continue
        assert ((image.pixels == number) == (labels == label)).all()
    image.draw(cells)
    assert image.pixels.max() == 2 * len(cells)
    image.save(tmp_path / "labels.tif", 0.5)
    with tifffile.TiffFile(tmp_path / "labels.tif") as file:
        assert file.pages.first.is_tiled
        assert np.array_equal(file.asarray(), image.pixels)
        assert file.pages.first.tags.valueof(282)[0] / file.pages.first.tags.valueof(282)[1] == 20_000
