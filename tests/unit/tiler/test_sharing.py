"""A user's credit is divided among that user's jobs, whoever feeds them, and nobody is forgotten."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from services.tiler import semaphores
from services.tiler.sharing import Shares, batch_limit, message_limit, shares


@pytest.mark.parametrize("credit", [1, 3, 4, 12])
@pytest.mark.parametrize("jobs", [1, 2, 3, 4, 5, 16])
def test_all_of_the_credit_is_given_and_everybody_gets_a_turn(credit: int, jobs: int) -> None:
    names = [f"job{number:02}" for number in range(jobs)]
    got: Counter[str] = Counter()
    turns = 4 * jobs
    for turn in range(turns):
        share = shares(credit, names, turn)
        assert sum(share.values()) == credit
        assert max(share.values()) - min(share.values()) <= 1
        assert shares(credit, names[::-1], turn) == share
        got.update(share)
    assert set(got) == set(names)
    assert max(got.values()) - min(got.values()) <= turns // jobs, "over some turns all fare alike"
    assert shares(credit, [], 0) == {}


def test_jobs_of_others_cost_nothing_and_own_ones_are_divided() -> None:
    mine = Shares(4, _Nothing(), _Nothing())
    with mine.feeding("a1", "ada"), mine.feeding("b1", "bob"):
        assert (mine.of("a1"), mine.of("b1")) == (4, 4)
        with mine.feeding("a2", "ada"):
            assert (mine.of("a1"), mine.of("a2"), mine.of("b1")) == (2, 2, 4)
        assert mine.of("a1") == 4


def test_a_next_attempt_that_begins_while_the_last_one_ends_keeps_its_share() -> None:
    mine = Shares(4, _Nothing(), _Nothing())
    with mine.feeding("other", "ada"):
        old, new = mine.feeding("job", "ada"), mine.feeding("job", "ada")
        with old:
            new.__enter__()
            assert (mine.of("job"), mine.of("other")) == (2, 2), "two attempts are one job"
        assert (mine.of("job"), mine.of("other")) == (2, 2)
        new.__exit__(None, None, None)
        assert mine.of("other") == 4


class _Nothing:
    """An installation in which nothing else runs."""

    async def running(self) -> tuple[()]:
        return ()

    async def progress(self, job_ids: object) -> dict[str, object]:
        return {}


def test_a_batch_of_large_tiles_is_no_more_work() -> None:
    assert batch_limit(2, 1024, 1024) == 2
    assert batch_limit(2, 1024, 256) == 2, "nor do small tiles make larger messages"
    assert batch_limit(4, 1024, 2048) == 1
    assert batch_limit(16, 1024, 2048) == 4
    assert batch_limit(2, 1024, 8192) == 1


def test_only_semaphores_of_dead_tilers_are_removed(tmp_path: Path) -> None:
    parent = os.getppid()
    stay = {"sem.mp-abc", f"sem.microtome-tiler-{parent}-x", "sem.microtome-tiler-x-1", "other"}
    go = {"sem.microtome-tiler-99999999-abc", f"sem.microtome-tiler-{os.getpid()}-def"}
    for name in stay | go:
        (tmp_path / name).touch()
    assert semaphores.clear(tmp_path) == len(go)
    assert {path.name for path in tmp_path.iterdir()} == stay


def test_large_tiles_are_no_more_work_in_the_queue() -> None:
    usual = 2 * 1024**2
    assert message_limit(4, usual, usual) == 4
    assert message_limit(4, usual // 8, usual) == 4, "nor do small tiles make more messages"
    assert message_limit(4, 2304**2, usual) == 2, "one in the network, one that waits"
    assert message_limit(16, 2304**2, usual) == 6
    assert message_limit(1, 2304**2, usual) == 1, "its user's other jobs have theirs"
