"""An engine's seconds: each is told once, to a call that ran or to the one that it stood still before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microtome.segmentation.occupancy import Begun, Occupancy


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_call_alone_has_all_of_its_time() -> None:
    clock = Clock()
    engine = Occupancy(clock)
    clock.now = 2.0
    begun = engine.begin()
    assert begun.idle == 2.0
    clock.now = 5.0
    assert engine.end(begun) == 3.0


def test_calls_beside_each_other_share_it() -> None:
    clock = Clock()
    engine = Occupancy(clock)
    one = engine.begin()
    clock.now = 1.0
    other = engine.begin()
    assert other.idle == 0.0
    clock.now = 3.0
    assert engine.end(one) == 2.0
    clock.now = 3.5
    assert engine.end(other) == 1.5


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3)), max_size=40))
def test_no_second_is_lost_or_told_twice(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    engine = Occupancy(clock)
    running: list[Begun] = []
    idle = busy = 0.0
    for passed, which in steps:
        clock.now += passed
        if which < len(running):
            busy += engine.end(running.pop(which))
        else:
            running.append(engine.begin())
            idle += running[-1].idle
    busy += sum(engine.end(begun) for begun in running)
    idle += engine.begin().idle
    assert idle + busy == pytest.approx(clock.now)
