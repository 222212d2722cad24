"""Harm, again and again, while users work: `make chaos ARGS="--kills 100 --seed 1"`.

The last line is one JSON object. `kills` are SIGKILLs, of servers too; `harms` are all that was done, so also processes
that stood still for longer than their lease, and stores that NATS lost or found older. Recovery is the time until every
job that ran at a harm had ended, begun anew or got a tile; harms at which no job ran (`at_rest`) say nothing about it
and are left out, and `recovered_late` are those for which it took more than a minute.

The exit status is 1 if anything was lost, done twice, or came out differently, if a harm was recovered from late, or if
the 95th percentile of recovery is above 30 s.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.contracts.messages import JobSucceeded
from microtome.embedded.supervisor import EmbeddedStack
from tests.bench import machine
from tests.bench.load import percentile
from tests.chaos import progress
from tests.chaos.campaign import MAX_ACTIVE_USERS, MAX_WORKERS, Blow, Campaign, open_jobs
from tests.chaos.checker import judge
from tests.chaos.kills import SERVICES, Harm, plan

END_S = 600.0
# What recovery may take, 95th percentile.
RECOVERY_P95_S = 30.0


async def wage(folder: Path, seed: int, harms: Sequence[Harm], *, tell=print) -> dict[str, Any]:
    """Run a whole campaign in `folder`; return its result."""
    env = {"MAX_WORKERS": str(MAX_WORKERS), "MAX_ACTIVE_USERS": str(MAX_ACTIVE_USERS), "RATE_BURST": "0"}
    env |= {"MAX_ATTEMPTS": "50", "LOG_LEVEL": "WARNING", "ENGINE": progress.ENGINE}
    began = time.monotonic()
    async with EmbeddedStack(folder / "stack", services=SERVICES, env=env) as stack:
        campaign = Campaign(stack, folder, seed)
        await campaign.prepare()
        for number, harm in enumerate(harms, start=1):
            blow = await campaign.strike(harm)
            tell(f"{number:4} {harm!s:<55} {_course(blow)}", flush=True)
        deadline = time.monotonic() + END_S
        while left := open_jobs(events := await campaign.events()):
            if time.monotonic() > deadline:
                tell(f"{len(left)} jobs never ended", flush=True)
                break
            await asyncio.sleep(1.0)
        # Whoever starts clears up after those that were killed.
        ended = frozenset(event.message.job_id for event in events if isinstance(event.message, JobSucceeded))
        tiled = progress.folders(events, ended, stack.data_dir / "results").values()
        with_tiles = sum(progress.first_tile(folder, 0.0) is not None for folder in tiled)
        for service in ("tiler", "merger"):
            await stack.kill(service)
            await stack.wait_ready(service)
        await campaign.close()
        verdict = await asyncio.to_thread(
            judge,
            events,
            stack.data_dir / "artifacts",
            campaign.acknowledged,
            campaign.undisturbed,
            max_workers=MAX_WORKERS,
            max_active_users=MAX_ACTIVE_USERS,
        )
    for fault in verdict.faults:
        tell(f"FAULT {fault}", flush=True)
    return {
        **recovery(campaign.blows),
        "seed": seed,
        "workflows": len(campaign.acknowledged.workflows),
        "jobs": verdict.jobs,
        "succeeded": verdict.succeeded,
        "cancelled": verdict.cancelled,
        "attempts": verdict.attempts,
        "cells_compared": verdict.cells_compared,
        "jobs_with_tiles": with_tiles,
        "jobs_without_tiles": len(tiled) - with_tiles,
        "faults": len(verdict.faults),
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine.facts(),
    }


def _course(blow: Blow) -> str:
    if not blow.reached:
        return "nothing came to that point"
    if not blow.running:
        return "no job ran"
    went_on = "not within a minute" if blow.recovered_s is None else f"after {blow.recovered_s:.1f} s"
    return f"{len(blow.running)} jobs ran, went on {went_on}"


def recovery(blows: Sequence[Blow]) -> dict[str, Any]:
    """Count the harms, and how soon those that met running jobs were recovered from; late ones have no number."""
    done = [blow for blow in blows if blow.reached]
    met = [blow for blow in done if blow.running]
    took = [blow.recovered_s for blow in met if blow.recovered_s is not None]
    late = len(met) - len(took)
    # What was not seen to end took longer than all that was.
    ranked = [*took, *[math.inf] * late]
    p95 = percentile(ranked, 0.95)
    return {
        "harms": len(done),
        "kills": sum(blow.harm.kills for blow in done),
        "by_kind": dict(Counter(blow.harm.how for blow in done)),
        "crash_points": len({blow.harm.point for blow in done if blow.harm.point}),
        "not_reached": sorted({str(blow.harm.point) for blow in blows if not blow.reached}),
        "at_rest": len(done) - len(met),
        "recovered_late": late,
        "recovery_p50_s": _seconds(percentile(ranked, 0.5)),
        "recovery_p95_s": _seconds(p95),
        "recovery_max_s": _seconds(max(ranked, default=math.nan)),
        "recovered_in_time": bool(met) and not late and p95 <= RECOVERY_P95_S,
    }


def _seconds(value: float) -> float | None:
    """Return what JSON can say: null for what never came."""
    return round(value, 2) if math.isfinite(value) else None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="how many harms to do; most are kills (default 100)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the stack's home behind, to look at")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="microtome-chaos-"))
    folder.chmod(0o755)  # Postgres enters it as another user where this runs as root.
    try:
        result = asyncio.run(wage(folder, options.seed, plan(options.seed, options.kills)))
    finally:
        if options.keep:
            print(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(result))
    return 1 if result["faults"] or not result["recovered_in_time"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
