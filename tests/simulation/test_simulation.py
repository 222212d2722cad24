"""Many worlds in which everything goes wrong, and the law holds in all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.conftest import PROJECT_ROOT
from tests.simulation.runner import simulate, simulate_all
from tests.simulation.world import Sabotage

SEEDS = 200


def test_the_law_holds_in_every_world() -> None:
    broken = {}
    facts: set[str] = set()
    for outcome in simulate_all(range(SEEDS), jobs=min(2, os.cpu_count() or 1)):
        facts |= outcome.facts.keys()
        if outcome.violations:
            broken[f"python -m tests.simulation --seed {outcome.seed}"] = outcome.violations
    assert not broken
    # Worlds in which nothing happens would prove nothing.
    assert {"JobAttemptLost", "JobFailed", "JobPreempted", "JobSkipped", "JobRetried", "JobReleased"} <= facts


def test_a_seed_is_the_same_world_in_every_process() -> None:
    seed = 9
    command = [sys.executable, "-m", "tests.simulation", "--seed", str(seed)]
    said = []
    for hashing in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hashing, "PYTHONPATH": os.pathsep.join(("libs", "."))}
        ran = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, check=True, text=True)
        said.append(ran.stdout)
    assert said[0] == said[1]
    assert json.loads(said[0].splitlines()[-1])["digest"] == simulate(seed).digest
    assert simulate(seed + 1).digest != simulate(seed).digest


def test_a_seat_too_many_is_seen() -> None:
    assert any("users are active" in text for text in _violations(Sabotage(seats=True), range(20)))


def test_a_log_that_does_not_fence_is_seen() -> None:
    assert _violations(Sabotage(fence=True), range(60))


def test_a_worker_that_reports_for_another_is_seen() -> None:
    # Leases stop nearly all of them before; it takes a while until one comes through.
    assert any("another attempt's" in text for text in _violations(Sabotage(attempts=True), range(40, 140)))


def _violations(sabotage: Sabotage, seeds: range) -> list[str]:
    """What the first world that the judge turned down did."""
    outcomes = (simulate(seed, sabotage) for seed in seeds)
    return next((outcome.violations for outcome in outcomes if outcome.violations), [])
