"""The cache of results is brought within its limit: what was used longest ago goes, and no more than has to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from microtome.tilestore import BoundedResults, ResultStore
from services.tiler.evicting import _evict

KEYS = tuple(letter * 64 for letter in "abcd")


@pytest.fixture
def bounded(tmp_path: Path) -> BoundedResults:
    """Results of four slides, 1,000 bytes each, used in the order of their names."""
    store = ResultStore(tmp_path / "results")
    for used, key in enumerate(KEYS, 1):
        store.tile(key, 0, 0).write_bytes(b"x" * 1000)
        os.utime(store.tile(key, 0, 0).parent, (used, used))
    return BoundedResults(tmp_path / "results")


@pytest.mark.parametrize(
    ("limit", "left"), [(4000, KEYS), (3999, KEYS[1:]), (2000, KEYS[2:]), (1500, KEYS[3:]), (999, ()), (1, ())]
)
def test_no_more_goes_than_has_to(bounded: BoundedResults, limit: int, left: tuple[str, ...]) -> None:
    assert _evict(bounded, limit, {}) == 1000 * (len(KEYS) - len(left))
    assert tuple(thing.name for thing in bounded.things()) == left


def test_what_a_job_needs_stays_and_is_said_if_it_is_too_much(
    bounded: BoundedResults, caplog: pytest.LogCaptureFixture
) -> None:
    bounded.hold("job", content_key=KEYS[0])
    assert _evict(bounded, 2000, {}) == 2000
    assert {thing.name for thing in bounded.things()} == {KEYS[0], KEYS[3]}
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert _evict(bounded, 500, {}) == 1000
    (said,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert (said.kept_bytes, said.limit_bytes) == (1000, 500)  # type: ignore[attr-defined]
    assert _evict(bounded, 500, bounded.holders()) == 1000
    assert bounded.things() == []
