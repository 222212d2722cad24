"""A short campaign on the live stack, and what makes its judgement worth something."""

from __future__ import annotations

from pathlib import Path

import pytest

from microtome.crashpoint import CrashPoint
from tests.chaos.__main__ import recovery, wage
from tests.chaos.campaign import Blow
from tests.chaos.kills import Harm, How, plan
from tests.chaos.progress import first_tile


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


def test_recovery_counts_neither_rest_nor_guesses() -> None:
    def blow(how: How, seconds: float | None, *, running: bool = True, reached: bool = True) -> Blow:
        jobs = frozenset({"job"}) if running else frozenset()
        return Blow(Harm(how, "tiler", 0.0), 0.0, jobs, seconds, reached)

    fine = [blow("kill", 1.0), blow("kill", 3.0), blow("zombie", 20.0)]
    found = recovery([*fine, blow("wipe", 0.0, running=False), blow("point", 0.0, reached=False)])
    assert (found["harms"], found["kills"], found["at_rest"], found["recovered_late"]) == (4, 2, 1, 0)
    assert (found["recovery_p50_s"], found["recovery_max_s"], found["recovered_in_time"]) == (3.0, 20.0, True)
    late = recovery([*fine, blow("kill", None)])
    assert (late["recovered_late"], late["recovery_max_s"], late["recovered_in_time"]) == (1, None, False)
    assert not recovery([*fine, blow("kill", 31.0)])["recovered_in_time"]
    assert not recovery([blow("kill", 0.0, running=False)])["recovered_in_time"]


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
    assert (result["harms"], result["kills"]) == (len(harms), 3)
    # Every harm at which jobs ran was recovered from within a minute, and there was one.
    assert result["recovered_late"] == 0, result
    assert result["at_rest"] < len(harms), result
    assert result["recovery_max_s"] <= 60.0, result
    assert result["cells_compared"] > 1000
    # Where the campaign looks for the tiles of jobs, they are.
    assert result["jobs_with_tiles"] > 0, result
    assert result["jobs_without_tiles"] == 0, result


def test_a_tile_that_is_whole_is_progress(tmp_path: Path) -> None:
    (tmp_path / "0-0.arrow").write_bytes(b"")
    (tmp_path / ".0-1.arrow.aside").write_bytes(b"")
    made = (tmp_path / "0-0.arrow").stat().st_mtime
    assert first_tile(tmp_path, made - 1) == made
    assert first_tile(tmp_path, made) is None
    assert first_tile(tmp_path / "not there", 0.0) is None
