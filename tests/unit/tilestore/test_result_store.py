"""Finished tiles: known when whole, made again when damaged."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from microtome.segmentation.cells import write_cells
from microtome.tilestore import ResultGone, ResultStore
from tests.unit.artifacts.cells_on_slide import discs, tile_of


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def test_tiles_are_known_once_they_are_written(store: ResultStore) -> None:
    assert store.known("key") == frozenset()
    cells = tile_of(discs())
    write_cells(cells, store.tile("key", 3, 12))
    # What a killed writer leaves behind is no result.
    store.tile("key", 0, 0).with_name(".0-0.arrow.1234").write_bytes(b"half")
    assert store.known("key") == {(3, 12)}
    assert store.has("key", 3, 12)
    assert not store.has("key", 0, 0)
    assert not store.has("other", 3, 12)
    assert store.known("other") == frozenset()
    read = store.read("key", 3, 12)
    assert np.array_equal(read.ring_points, cells.ring_points)
    assert np.array_equal(read.seed_x, cells.seed_x)


def test_a_missing_result_is_worth_another_attempt(store: ResultStore) -> None:
    with pytest.raises(ResultGone):
        store.read("key", 0, 0)
    assert ResultGone.transient


def test_a_damaged_result_is_forgotten(store: ResultStore) -> None:
    path = store.tile("key", 0, 0)
    write_cells(tile_of(discs()), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    # Cut anywhere, or one of its bytes another: what shows as damage is forgotten, whatever it shows as.
    spoiled = [whole[:size] for size in rng.integers(0, len(whole), 50)]
    spoiled += [whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :] for at in rng.integers(0, len(whole), 300)]
    gone = 0
    for contents in spoiled:
        path.write_bytes(contents)
        with suppress(ResultGone):  # and nothing else
            store.read("key", 0, 0)
        gone += not store.has("key", 0, 0)
    assert gone > 50


def test_what_is_left_of_a_picture_is_no_picture(store: ResultStore) -> None:
    picture = np.arange(6 * 5 * 3, dtype=np.uint8).reshape(6, 5, 3)
    assert store.picture("key") is None
    store.keep_picture("key", picture)
    kept = store.picture("key")
    assert kept is not None
    assert np.array_equal(kept, picture)
    path = store.tissue("key").with_suffix(".npy")
    for left in (path.read_bytes()[:-1], b""):
        path.write_bytes(left)
        assert store.picture("key") is None
    store.keep_picture("key", picture[..., 0])
    assert store.picture("key") is None
