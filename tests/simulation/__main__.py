"""`python -m tests.simulation --seeds 20000 --jobs 2`, or `--seed 17 [--verbose]` to run one again.

Prints what broke, with the command that repeats it, and one line of JSON at the end. Exits with 1 if anything broke.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from collections import Counter

from tests.simulation.runner import simulate, simulate_all


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds to run")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--jobs", type=int, default=1, help="cores to use")
    parser.add_argument("--seed", type=int, help="run this one only, and say what happened")
    parser.add_argument("--verbose", action="store_true", help="with --seed: also what the processes log")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no more seeds after so long")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _one(asked.seed, asked.verbose)
    began = time.perf_counter()
    outcomes = []
    facts: Counter[str] = Counter()
    for outcome in simulate_all(range(asked.first, asked.first + asked.seeds), asked.jobs):
        outcomes.append(outcome)
        facts.update(outcome.facts)
        for violation in outcome.violations:
            print(f"seed {outcome.seed}: {violation[:500]}")
            print(f"    again: python -m tests.simulation --seed {outcome.seed}", flush=True)
        if time.perf_counter() - began > asked.seconds:
            break
    broken = sum(bool(outcome.violations) for outcome in outcomes)
    print(
        json.dumps(
            {
                "seeds": len(outcomes),
                "events": sum(outcome.events for outcome in outcomes),
                "violations": broken,
                "seconds": round(time.perf_counter() - began, 1),
                "virtual_hours": round(sum(outcome.virtual_s for outcome in outcomes) / 3600, 1),
                "longest_settling_s": round(max(outcome.settled_s for outcome in outcomes)),
                "facts": dict(sorted(facts.items())),
            }
        )
    )
    return 1 if broken else 0


def _one(seed: int, verbose: bool) -> int:
    if verbose:
        logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    outcome = simulate(seed, quiet=not verbose, tell=print)
    print(json.dumps({"seed": seed, "digest": outcome.digest, "violations": outcome.violations}))
    return 1 if outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
