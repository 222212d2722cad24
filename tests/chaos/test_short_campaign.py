"""A short campaign on the live stack, and what makes its judgement worth something."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.crashpoint import CrashPoint
from tests.chaos.__main__ import wage
from tests.chaos.kills import Harm, plan


def test_a_plan_repeats_itself_and_leaves_nothing_out() -> None:
    harms = plan(7, 100)
    assert harms == plan(7, 100)
    assert harms != plan(8, 100)
    assert {harm.point for harm in harms} >= set(CrashPoint)
    assert {harm.how for harm in harms} == {"kill", "point", "zombie", "wipe", "rollback"}
    assert {harm.target for harm in harms} >= {
        "gateway",
        "scheduler",
        "tiler",
        "inference",
        "merger",
        "nats",
        "postgres",
    }


@pytest.mark.timeout(240)
async def test_nothing_is_lost_or_done_twice(stack_home: Path) -> None:
    stack_home.mkdir(parents=True, exist_ok=True)
    harms = [
        Harm("kill", "inference", 0.5),
        Harm("point", "merger", 0.0, CrashPoint.MERGER_AFTER_RENAME_BEFORE_APPEND),
        Harm("rollback", "nats", 0.3),
        Harm("kill", "scheduler", 0.2),
    ]
    result = await wage(stack_home, 3, harms)
    assert result["faults"] == 0, result
    assert result["kills"] == len(harms)
    assert result["cells_compared"] > 1000
