"""The head, pixel for pixel, against what the package's own head made of the same network outputs.

The package's answers are recorded (tests/parity), so this needs no torch; `make parity` asks the package itself.
"""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest

from microtome.segmentation.head import find_instances
from microtome.segmentation.model import Model
from tests.parity.cases import Suite
from tests.parity.ours import instances, model_for
from tests.parity.record import recorded


@pytest.fixture(scope="module")
def suite() -> Suite:
    return recorded()


def test_every_pixel_of_every_tile_is_the_packages(suite: Suite, model: Model) -> None:
    differ = {
        case.name: wrong
        for case in suite.cases
        if (wrong := int(np.count_nonzero(instances(case, suite, model).labels != case.labels)))
    }
    assert differ == {}


def test_the_tiles_are_hard_enough(suite: Suite) -> None:
    families = Counter(case.family for case in suite.cases)
    assert len(suite.cases) >= 50
    assert families["real"] + families["real, all bits"] >= 12
    assert min(families[name] for name in ("counts", "borders", "ties", "shapes", "random networks")) >= 5
    counts = [int(np.unique(case.labels[case.labels > 0]).size) for case in suite.cases if case.labels is not None]
    for least, most in ((0, 0), (1, 1), (250, 400), (700, 900), (4_001, 10_000)):
        assert any(least <= count <= most for count in counts), (least, most)


def test_where_nothing_is_cut_regrowing_changes_nothing(suite: Suite, model: Model) -> None:
    """And where something is, it is said so."""
    grown, same = 0, 0
    for case in suite.cases:
        assert case.logits is not None
        own = dataclasses.replace(model_for(case, suite, model), largest_window=2 * case.settings.window)
        off, on = find_instances(case.logits, own, regrow=False), find_instances(case.logits, own)
        assert not off.regrown.any()
        if off.cut.any():
            assert on.regrown.any()
            grown += 1
            continue
        assert not on.regrown.any()
        assert (on.labels == off.labels).all()
        assert (on.score == off.score).all()
        same += 1
    assert grown >= 5
    assert same >= 40


def test_what_the_package_compares_decides(suite: Suite, model: Model) -> None:
    """The recorded tiles can tell float32 probabilities from logits: where probabilities round to one, and where they
    do not, the same pixels go to different nuclei.
    """
    case = next(case for case in suite.cases if case.name == "ties: probabilities of one")
    flat = suite.classifiers[case.classifier].copy()
    flat[-6:] /= 32
    gentle = dataclasses.replace(suite, classifiers={**suite.classifiers, case.classifier: flat})
    found = instances(case, gentle, model).labels
    assert ((found != case.labels) & (found > 0) & (case.labels > 0)).any()
