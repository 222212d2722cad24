"""Matching and scores: by hand, and against definitions written out in full."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microtome.errors import InvalidRequest
from microtome.scoring import Tally, match, scores
from microtome.scoring.scores import THRESHOLDS

LABELS = arrays.arrays(np.int32, (7, 9), elements=st.integers(0, 5))


def _line(*runs: tuple[int, int]) -> np.ndarray:
    """An image of one row from (label, length) runs."""
    return np.array([[label for label, length in runs for _ in range(length)]], np.int32)


def _iou(a: np.ndarray, i: int, b: np.ndarray, j: int) -> float:
    return float(((a == i) & (b == j)).sum() / ((a == i) | (b == j)).sum())


def test_a_perfect_copy_scores_one_under_any_names() -> None:
    truth = _line((0, 3), (4, 5), (9, 2), (0, 1), (1, 6))
    renamed = np.select([truth == 4, truth == 9, truth == 1], [70, 3, 12], 0).astype(np.int32)
    got = scores(truth, renamed)
    assert (got.f1_50, got.f1_50_90, got.sq, got.pq, got.aji) == (1, 1, 1, 1, 1)
    assert match(truth, renamed).pairs.tolist() == [[1, 12], [4, 70], [9, 3]]


def test_scores_by_hand() -> None:
    # Truth 1 is found with 8 of 10 pixels and none too many: 0.8. Truth 2 is missed; found 7 is made up.
    truth = _line((1, 10), (0, 2), (2, 4), (0, 4))
    found = _line((5, 8), (0, 8), (7, 3), (0, 1))
    got = scores(truth, found)
    assert (got.truth, got.found, got.matched) == (2, 2, 1)
    assert got.f1_50 == pytest.approx(0.5)
    assert got.sq == pytest.approx(0.8)
    assert got.pq == pytest.approx(0.4)
    # 0.5, 0.55 … 0.75 are below 0.8; 0.8 itself is not above.
    assert got.f1_50_90 == pytest.approx(6 / 9 * 0.5)
    assert got.aji == pytest.approx(8 / (10 + 4 + 3))
    matching = match(truth, found)
    assert matching.only_a.tolist() == [2]
    assert matching.only_b.tolist() == [7]
    assert matching.iou.tolist() == pytest.approx([0.8])


def test_two_halves_are_not_the_whole() -> None:
    truth, found = _line((1, 10)), _line((1, 5), (2, 5))
    assert match(truth, found).pairs.shape == (0, 2)
    # AJI takes the best half, and the other is union.
    assert scores(truth, found).aji == pytest.approx(5 / 15)


def test_a_found_object_may_be_best_for_two_true_ones() -> None:
    truth, found = _line((1, 5), (2, 5)), _line((3, 10))
    assert scores(truth, found).aji == pytest.approx(10 / 20)


def test_nothing() -> None:
    nothing, one = _line((0, 4)), _line((1, 4))
    assert scores(nothing, nothing).pq == 1
    assert scores(nothing, one).f1_50 == scores(one, nothing).aji == scores(one, nothing).sq == 0
    assert match(nothing, one).only_b.tolist() == [1]


def test_images_are_scored_together_by_their_objects() -> None:
    a, b = (_line((1, 4)), _line((1, 4))), (_line((1, 4), (2, 4)), _line((0, 8)))
    assert (Tally.of(*a) + Tally.of(*b)).scores.f1_50 == pytest.approx(2 / 4)
    assert (Tally.empty() + Tally.of(*a)).scores == scores(*a)


@given(LABELS, LABELS)
@settings(max_examples=60, deadline=None)
def test_against_brute_force(truth: np.ndarray, found: np.ndarray) -> None:
    mine, theirs = sorted(set(truth.ravel()) - {0}), sorted(set(found.ravel()) - {0})
    iou = {(i, j): _iou(truth, i, found, j) for i, j in itertools.product(mine, theirs)}
    right = [[pair for pair, value in iou.items() if value > threshold] for threshold in THRESHOLDS]
    got = scores(truth, found)
    objects = len(mine) + len(theirs)
    if objects:
        assert got.f1_50_90 == pytest.approx(np.mean([2 * len(pairs) / objects for pairs in right]))
    assert [tuple(pair) for pair in match(truth, found).pairs.tolist()] == right[0]
    # The best of all one-to-one matchings cannot do better than the one given.
    best = 0.0
    if mine and theirs:
        small, large = (mine, theirs) if len(mine) <= len(theirs) else (theirs, mine)
        for chosen in itertools.permutations(large, len(small)):
            pairs = zip(small, chosen, strict=True) if small is mine else zip(chosen, small, strict=True)
            best = max(best, sum(iou[pair] for pair in pairs if iou[pair] > 0.5))
    assert match(truth, found).iou.sum() == pytest.approx(best)
    intersection, union, used = 0, 0, set()
    for i in mine:
        partner = max(theirs, key=lambda j: iou[i, j], default=None)
        if partner is None or iou[i, partner] == 0:
            union += int((truth == i).sum())
            continue
        ties = [j for j in theirs if iou[i, j] == iou[i, partner]]
        if len(ties) > 1:
            return  # the definition leaves the choice open
        intersection += int(((truth == i) & (found == partner)).sum())
        union += int(((truth == i) | (found == partner)).sum())
        used.add(partner)
    union += sum(int((found == j).sum()) for j in theirs if j not in used)
    if objects:
        assert got.aji == pytest.approx(intersection / union)


@pytest.mark.parametrize("threshold", [0.3, 0.49, 1.1])
def test_refuses_thresholds_that_leave_a_choice(threshold: float) -> None:
    with pytest.raises(InvalidRequest):
        match(_line((1, 2)), _line((1, 2)), threshold)


def test_refuses_what_cannot_be_compared() -> None:
    with pytest.raises(InvalidRequest):
        scores(_line((1, 2)), _line((1, 3)))
    with pytest.raises(InvalidRequest):
        scores(_line((1, 2)), _line((-1, 2)))
    with pytest.raises(InvalidRequest):
        match(_line((1, 2)).astype(np.float32), _line((1, 2)))
