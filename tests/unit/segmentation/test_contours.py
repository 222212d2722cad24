"""One valid polygon for every mask, however ugly."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from shapely import Polygon, contains_xy

from microtome.segmentation.contours import trace_contours


def contour(mask: np.ndarray) -> tuple[int, np.ndarray]:
    box = np.array([[0, 0, *mask.shape]], np.int32)
    area, offsets, points = trace_contours(mask.astype(np.int32), np.array([1], np.int32), box)
    assert offsets.tolist() == [0, len(points)]
    return int(area[0]), points


def check(mask: np.ndarray) -> None:
    area, ring = contour(mask)
    pieces, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(pieces.ravel())[1:]
    assert area == (sizes.max() if count else 0)
    if not count:
        assert len(ring) == 0
        return
    largest = pieces == 1 + int(sizes.argmax())
    polygon = Polygon(ring)
    assert polygon.is_valid
    ys, xs = np.mgrid[: mask.shape[0], : mask.shape[1]]
    # A pixel is inside exactly when it is of the piece or in one of its holes: background that cannot get out.
    outside = ndimage.label(np.pad(~largest, 1, constant_values=True))[0]
    filled = (outside != outside[0, 0])[1:-1, 1:-1]
    assert (contains_xy(polygon, 2 * xs + 1, 2 * ys + 1) == filled).all()
    # No three points on one line, and the first is where it is promised.
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    assert (before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]).all()
    y, x = np.argwhere(largest)[0]
    assert ring[0].tolist() == [2 * x + 1, 2 * y]


@pytest.mark.parametrize("density", [0.05, 0.3, 0.5, 0.6, 0.9])
def test_random_masks(density: float) -> None:
    rng = np.random.default_rng(int(density * 100))
    for _ in range(200):
        height, width = rng.integers(1, 14, 2)
        check(rng.random((height, width)) < density)


def test_every_mask_of_three_by_three() -> None:
    for bits in range(512):
        check(np.array([(bits >> i) & 1 for i in range(9)], bool).reshape(3, 3))


def test_combs_rings_and_diagonals() -> None:
    comb = np.zeros((20, 20), bool)
    comb[:, ::2] = True
    comb[10] = True
    check(comb)
    check(np.eye(20, dtype=bool) | np.eye(20, dtype=bool)[::-1])
    ring = np.ones((9, 9), bool)
    ring[2:7, 2:7] = False
    ring[4, 4] = True
    check(ring)
    check(np.indices((15, 15)).sum(0) % 2 == 0)


def test_a_single_pixel_is_a_diamond() -> None:
    area, ring = contour(np.ones((1, 1), bool))
    assert area == 1
    assert ring.tolist() == [[1, 0], [2, 1], [1, 2], [0, 1]]


def test_objects_do_not_see_each_other() -> None:
    labels = np.zeros((6, 9), np.int32)
    labels[1:4, 1:4], labels[1:4, 4:7] = 5, 9
    box = np.array([[1, 1, 4, 4], [1, 4, 4, 7]], np.int32)
    area, offsets, points = trace_contours(labels, np.array([5, 9], np.int32), box)
    assert area.tolist() == [9, 9]
    first, second = points[: offsets[1]], points[offsets[1] :]
    assert (first + np.array([6, 0]) == second).all()
    assert Polygon(first).intersection(Polygon(second)).area == 0
