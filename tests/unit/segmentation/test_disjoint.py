"""Numbers in sets that are joined: against what chains of joins say."""

from __future__ import annotations

import numpy as np

from microtome.segmentation.engines.disjoint import DisjointSets


def test_each_number_is_alone_until_it_is_joined() -> None:
    sets = DisjointSets(4)
    assert sets.sets() == [[0], [1], [2], [3]]
    sets.join(3, 1)
    assert sets.sets() == [[0], [1, 3], [2]]
    assert sets.of(3) == sets.of(1)
    assert len({sets.of(number) for number in (0, 1, 2)}) == 3


def test_joining_what_is_joined_changes_nothing() -> None:
    sets = DisjointSets(3)
    for one, other in ((0, 1), (1, 0), (2, 2), (0, 1)):
        sets.join(one, other)
    assert sets.sets() == [[0, 1], [2]]


def test_of_nothing_there_are_no_sets() -> None:
    assert DisjointSets(0).sets() == []


def test_a_chain_of_joins_makes_one_set_in_whatever_order_it_is_told() -> None:
    rng = np.random.default_rng(7)
    for _ in range(50):
        size = int(rng.integers(1, 40))
        joins = rng.integers(0, size, (int(rng.integers(0, size + 1)), 2))
        reached = np.eye(size, dtype=bool)
        reached[joins[:, 0], joins[:, 1]] = reached[joins[:, 1], joins[:, 0]] = True
        for by in range(size):
            reached |= reached[:, by : by + 1] & reached[by]
        expected = sorted({tuple(np.flatnonzero(row).tolist()) for row in reached})
        sets = DisjointSets(size)
        for one, other in rng.permutation(joins).tolist():
            sets.join(one, other)
        assert [tuple(each) for each in sets.sets()] == expected
