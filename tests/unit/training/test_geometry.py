"""Labels at half the size, and the distance map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from microtome.errors import InvalidRequest
from microtome.training.geometry import boxes, distance, doubled, halved, touching, without_small

LABELS = arrays.arrays(np.int32, (8, 12), elements=st.integers(0, 3))


@given(LABELS)
@settings(max_examples=50, deadline=None)
def test_a_halved_pixel_is_what_most_of_its_four_are(labels: np.ndarray) -> None:
    half = halved(labels)
    for y, x in np.ndindex(half.shape):
        four = labels[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel().tolist()
        votes = max(four.count(label) for label in four)
        winners = {label for label in four if four.count(label) == votes}
        assert half[y, x] in winners
        assert half[y, x] > 0 or winners == {0}


@given(LABELS)
@settings(max_examples=20, deadline=None)
def test_doubling_and_halving_gives_the_same(labels: np.ndarray) -> None:
    assert np.array_equal(halved(doubled(labels)), labels)


def test_halving_moves_nothing() -> None:
    """Taking every second pixel moves each object by a quarter of a pixel: this is what must not happen."""
    y, x = np.mgrid[:64, :64]
    disc = (np.hypot(y - 31.5, x - 31.5) < 20).astype(np.int32)
    assert np.allclose(ndimage.center_of_mass(halved(disc)), (15.5, 15.5))
    assert not np.allclose(ndimage.center_of_mass(disc[::2, ::2]), (15.5, 15.5))


def test_refuses_odd_sizes() -> None:
    with pytest.raises(InvalidRequest):
        halved(np.zeros((4, 5), np.int32))


def test_distance_is_each_objects_own() -> None:
    labels = np.zeros((20, 30), np.int32)
    labels[4:12, 3:11] = 5
    labels[4:12, 11:25] = 2  # touches the first
    got = distance(labels)
    for label in (5, 2):
        alone = ndimage.distance_transform_edt(labels == label)
        assert np.allclose(got[labels == label], (alone / alone.max())[labels == label], atol=1e-5)
    assert (got[labels == 0] == 0).all()
    assert distance(np.ones((4, 4), np.int32)).min() == 1


@given(LABELS)
@settings(max_examples=30, deadline=None)
def test_boxes(labels: np.ndarray) -> None:
    found = boxes(labels)
    assert set(found) == set(labels.ravel().tolist()) - {0}
    for label, (rows, columns) in found.items():
        y, x = np.nonzero(labels == label)
        assert (rows.start, rows.stop, columns.start, columns.stop) == (y.min(), y.max() + 1, x.min(), x.max() + 1)


def test_only_where_objects_touch_is_doubtful() -> None:
    labels = np.zeros((12, 30), np.int32)
    labels[2:10, 2:8] = 1
    labels[2:10, 8:14] = 2
    labels[2:10, 20:26] = 3
    doubtful = touching(labels, 1)
    assert doubtful[5, 7]
    assert doubtful[5, 8]
    assert not doubtful[:, :5].any()
    assert not doubtful[:, 16:].any()


def test_small_objects_are_dropped_by_their_pixels() -> None:
    labels = np.array([[0, 1, 1, 0, 7, 7, 7]], np.int32)
    assert without_small(labels, 3).tolist() == [[0, 0, 0, 0, 7, 7, 7]]
