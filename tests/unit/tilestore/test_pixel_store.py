"""Pixels on their way to the network: whole or gone, and never outside of the store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from microtome.tilestore import LocalPixelStore, attempt_prefix, pixel_key
from microtome.tilestore.pixels import PixelsGone


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "tiles"


@pytest.fixture
def store(root: Path) -> LocalPixelStore:
    return LocalPixelStore(root)


def pixels(value: int, side: int = 64) -> np.ndarray:
    return np.full((side, side, 3), value, np.uint8)


def test_what_is_put_is_got_until_it_is_discarded(store: LocalPixelStore, root: Path) -> None:
    key = pixel_key("job", 1, 2, 3)
    random = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    store.put(key, pixels(1))
    store.put(key, random)
    got = store.get(key)
    assert got.dtype == np.uint8
    assert np.array_equal(got, random)
    store.discard(key)
    store.discard(key)
    with pytest.raises(PixelsGone):
        store.get(key)
    assert PixelsGone.transient
    store.put(key, random)
    file = next(path for path in root.rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(PixelsGone, match="damaged"):
        store.get(key)
    store.discard(key)
    assert not [path for path in root.rglob("*") if path.is_file()]


def test_attempts_are_cleared_one_by_one(store: LocalPixelStore, root: Path) -> None:
    keys = [pixel_key("job", attempt, 0, 0) for attempt in (1, 10)]
    for key in keys:
        store.put(key, pixels(1))
    store.discard_prefix(attempt_prefix("job", 1))
    store.discard_prefix(attempt_prefix("job", 1))
    with pytest.raises(PixelsGone):
        store.get(keys[0])
    assert store.get(keys[1]).max() == 1
    store.discard_prefix(attempt_prefix("job", 10))
    assert not list(root.iterdir())
    store.discard_prefix("unknown/7")
    assert root.is_dir()


BAD = ["", "/", "../x", "a/../b", "a/..", "/etc/x", ".hidden", "a/.hidden", "a//b", "a/", "a\0b"]


@pytest.mark.parametrize("key", BAD)
def test_keys_cannot_leave_the_store(store: LocalPixelStore, root: Path, key: str) -> None:
    kept = pixel_key("job", 1, 0, 0)
    store.put(kept, pixels(5))
    for refused in (
        lambda: store.put(key, pixels(1)),
        lambda: store.get(key),
        lambda: store.discard(key),
        lambda: store.discard_prefix(key),
    ):
        with pytest.raises(ValueError, match="not a tile key"):
            refused()
    assert store.get(kept).max() == 5
    assert list(root.parent.iterdir()) == [root]


def test_a_reader_sees_whole_tiles_only(store: LocalPixelStore) -> None:
    key = pixel_key("job", 1, 0, 0)
    store.put(key, pixels(0, 256))
    stop = threading.Event()

    def write(value: int) -> None:
        while not stop.is_set():
            store.put(key, pixels(value, 256))

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write, value) for value in (1, 2)]
        seen = set()
        for _ in range(300):
            got = store.get(key)
            assert got.shape == (256, 256, 3)
            assert got.min() == got.max()
            seen.add(int(got[0, 0, 0]))
        stop.set()
        for writer in writers:
            writer.result()
    assert {1, 2} & seen


def test_attempts_come_and_go_side_by_side(store: LocalPixelStore, root: Path) -> None:
    """Clearing one attempt never takes another's pixels, nor the folder from under them."""

    def attempt(number: int) -> None:
        for row in range(60):
            key = pixel_key("job", number, row, 0)
            store.put(key, pixels(number, 16))
            assert store.get(key).max() == number
            store.discard_prefix(attempt_prefix("job", number))
            with pytest.raises(PixelsGone):
                store.get(key)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(attempt, number) for number in range(1, 5)]:
            done.result()
    assert not list(root.iterdir())
