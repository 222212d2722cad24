"""The collector in a process that remembers much."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from microtome import garbage


class Node:
    """Something that can be in a cycle."""

    def __init__(self) -> None:
        self.itself: Node | None = self


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    gc.unfreeze()
    assert garbage._freeze not in gc.callbacks


def test_what_is_remembered_is_not_looked_at_again() -> None:
    before = [[number] for number in range(10_000)]
    with garbage.settled():
        assert gc.get_freeze_count() > len(before)
        later = [[number] for number in range(10_000)]
        assert len(gc.get_objects()) > len(later)
        gc.collect()
        assert len(gc.get_objects()) < 1_000
    assert gc.get_freeze_count() == 0


def test_new_garbage_is_found_by_every_collection() -> None:
    with garbage.settled():
        gone = weakref.ref(Node())
        gc.collect()
        assert gone() is None


def test_what_was_remembered_and_became_garbage_is_found_when_it_is_quiet() -> None:
    node = Node()
    gone = weakref.ref(node)
    with garbage.settled(tidy_s=0.2, look_s=0.05):
        del node
        gc.collect()
        assert gone() is not None, "it is not looked at"
        wait_for(lambda: gone() is None)
        wait_for(lambda: gc.get_freeze_count() > 0)


def test_a_busy_process_is_left_alone_until_it_cannot_be_put_off() -> None:
    node = Node()
    gone = weakref.ref(node)
    with garbage.settled(tidy_s=0.01, look_s=0.05, put_off_s=1.5):
        del node
        began = time.monotonic()
        while time.monotonic() - began < 0.75:
            sum(range(10_000))
        assert gone() is not None
        while gone() is not None and time.monotonic() - began < 20:
            sum(range(10_000))
        assert gone() is None
        assert time.monotonic() - began > 1.4


def wait_for(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
