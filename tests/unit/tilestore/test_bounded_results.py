"""Results go in the order of their last use, and never from under a job that is not over."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from microtome.tilestore import BoundedResults, ResultStore


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "results"


@pytest.fixture
def store(root: Path) -> ResultStore:
    return ResultStore(root)


@pytest.fixture
def bounded(root: Path) -> BoundedResults:
    return BoundedResults(root)


def fill(store: ResultStore, key: str, tiles: int = 3, size: int = 1000, used: int | None = None) -> None:
    for column in range(tiles):
        store.tile(key, 0, column).write_bytes(b"x" * size)
    if used is not None:
        os.utime(store.tile(key, 0, 0).parent, ns=(used, used))


def test_things_come_from_the_one_used_longest_ago(store: ResultStore, bounded: BoundedResults) -> None:
    fill(store, "b" * 64, used=2_000)
    fill(store, "a" * 64, tiles=1, used=3_000)
    mask = store.tissue("c" * 64)
    mask.write_bytes(b"x" * 10)
    os.utime(mask, ns=(1_000, 1_000))
    assert [(thing.name[:8], thing.size) for thing in bounded.things()] == [
        ("tissue/c", 10),
        ("b" * 8, 3000),
        ("a" * 8, 1000),
    ]
    bounded.hold("job", content_key="b" * 64, tissue_key="c" * 64)
    assert next(thing.name[:1] for thing in bounded.things()) == "a"


def test_sizes_follow_what_is_added(store: ResultStore, bounded: BoundedResults) -> None:
    fill(store, "a" * 64)
    assert bounded.things()[0].size == 3000
    fill(store, "a" * 64, tiles=5)
    assert bounded.things()[0].size == 5000
    assert bounded.evict("a" * 64, {})
    assert bounded.things() == []


def test_what_is_evicted_is_gone_as_a_whole(store: ResultStore, bounded: BoundedResults, root: Path) -> None:
    fill(store, "a" * 64)
    fill(store, "b" * 64)
    mask = store.tissue("c" * 64)
    mask.write_bytes(b"x")
    assert bounded.evict("a" * 64, {})
    assert bounded.evict(f"tissue/{'c' * 64}.npz", {})
    assert bounded.evict("never-there", {})
    assert store.known("a" * 64) == frozenset()
    assert len(store.known("b" * 64)) == 3
    assert not mask.exists()
    assert not list((root.parent / "results-held" / "evicted").iterdir())


def test_what_a_job_holds_stays_until_the_job_is_over(store: ResultStore, bounded: BoundedResults) -> None:
    fill(store, "a" * 64)
    bounded.hold("first", content_key="a" * 64)
    bounded.hold("second", content_key="a" * 64)
    holders = bounded.holders()
    assert set(holders) == {"first", "second"}
    assert not bounded.evict("a" * 64, {})
    assert not bounded.evict("a" * 64, {"first": holders["first"]})
    assert bounded.evict("a" * 64, holders)
    bounded.let_go(holders)
    assert bounded.holders() == {}


def test_a_job_may_hold_what_is_not_there_yet(store: ResultStore, bounded: BoundedResults) -> None:
    bounded.hold("job", content_key="a" * 64)
    fill(store, "a" * 64)
    assert not bounded.evict("a" * 64, {})


def test_a_job_that_began_again_is_not_over(store: ResultStore, bounded: BoundedResults, root: Path) -> None:
    fill(store, "a" * 64)
    bounded.hold("job", content_key="a" * 64)
    path = root.parent / "results-held" / "jobs" / "job"
    os.utime(path, ns=(1, 1))
    seen = bounded.holders()
    bounded.hold("job", content_key="a" * 64)  # the user retried it meanwhile
    assert not bounded.evict("a" * 64, seen)
    bounded.let_go(seen)
    assert "job" in bounded.holders()


@pytest.mark.parametrize("name", ["../slides", "a/b", "tissue/../../x", ".hidden", "", "/etc", "tissue"])
def test_nothing_outside_the_store_is_touched(bounded: BoundedResults, root: Path, name: str) -> None:
    outside = root.parent / "slides"
    outside.mkdir()
    (root / "tissue").mkdir()
    with pytest.raises(ValueError, match="not a thing"):
        bounded.evict(name, {})
    with pytest.raises(ValueError, match="not a job"):
        bounded.hold("../job")
    assert outside.is_dir()


def test_a_process_that_was_killed_while_it_evicted_leaves_nothing(bounded: BoundedResults, root: Path) -> None:
    left = root.parent / "results-held" / "evicted" / "half"
    left.mkdir()
    (left / "0-0.arrow").write_bytes(b"x")
    bounded.clear_evicted()
    assert not left.exists()


def test_a_job_that_holds_while_others_evict_never_sees_half(root: Path, store: ResultStore) -> None:
    """What is known after it was held is there to the end, however the evictions fall."""
    key = "a" * 64
    stop = threading.Event()
    torn: list[object] = []

    def evict() -> None:
        bounded = BoundedResults(root)
        while not stop.is_set():
            for thing in bounded.things():
                bounded.evict(thing.name, {})

    def work(number: int) -> None:
        bounded = BoundedResults(root)
        for attempt in range(30):
            job = f"job-{number}-{attempt}"
            bounded.hold(job, content_key=key)
            known = store.known(key)
            for row, column in {(0, column) for column in range(20)} - known:
                store.tile(key, row, column).write_bytes(b"x")
            if len(store.known(key)) != 20:
                torn.append((job, len(store.known(key))))
            bounded.let_go({job: bounded.holders()[job]})

    threads = [threading.Thread(target=evict) for _ in range(2)]
    workers = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in (*threads, *workers):
        thread.start()
    for worker in workers:
        worker.join(60)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert torn == []


def test_pictures_of_slides_count_and_go_like_everything_else(store: ResultStore, bounded: BoundedResults) -> None:
    store.keep_picture("c" * 64, np.zeros((10, 10, 3), np.uint8))
    (thing,) = bounded.things()
    assert thing.name == f"tissue/{'c' * 64}.npy"
    assert thing.size > 300
    # The mask is held; the picture can be had from the slide again.
    bounded.hold("job", tissue_key="c" * 64)
    assert bounded.evict(thing.name, {})
    assert store.picture("c" * 64) is None
