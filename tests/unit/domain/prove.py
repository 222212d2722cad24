"""Prove the laws on many histories: `python -m tests.unit.domain.prove --histories 10000`.

A history is a list of steps (submit, add, tick, wait, fail, cancel, retry …) of users, workers and the scheduler. The
laws are checked at every position; then the log is folded anew, from a snapshot on, and into rows of the read models,
which must be what the laws say (`rows.check_rows`).

Lists of steps stand where hypothesis has `RuleBasedStateMachine`. A step that the state does not allow does nothing, so
every list is a history and no rule needs preconditions. The list is a value: the same history runs under other limits
and under sabotaged schedulers (`test_scheduling_random`), can be made of one seed where length and mixture matter more
than smallness, and shrinks as lists do.

Prints one line of JSON: histories, positions checked, and how often what happened in them. Exits with 1 and the
smallest history that breaks a law when there is one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.unit.domain.histories import some_limits
from tests.unit.domain.laws import Violation
from tests.unit.domain.test_scheduling_random import NUMBERS, STEPS, prove


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--histories", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    counts: Counter[str] = Counter()
    began = time.perf_counter()

    @seed(chosen.seed)
    @settings(
        max_examples=chosen.histories,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.builds(some_limits, NUMBERS), STEPS, NUMBERS)
    def histories(limits, steps, cut):  # type: ignore[no-untyped-def]
        laws = prove(limits, steps, cut).laws
        counts.update(histories=1, positions=laws.positions, starts=laws.starts)
        counts.update(jobs=len(laws.lives), preemptions=laws.preemptions, skips=laws.skips)

    violations = 0
    try:
        histories()
    except Violation as violation:
        violations = 1
        print(violation, file=sys.stderr)
    found = {**counts, "violations": violations, "seconds": round(time.perf_counter() - began, 1)}
    print(json.dumps(found))
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
