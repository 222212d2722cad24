"""Kills, again and again, while users work: `make chaos ARGS="--kills 100 --seed 1"`.

The last line is one JSON object; the exit status is 1 if anything was lost, done twice, or came out differently.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from microtome.embedded.supervisor import EmbeddedStack
from tests.bench import machine
from tests.bench.load import percentile
from tests.chaos.campaign import MAX_ACTIVE_USERS, MAX_WORKERS, Campaign, open_jobs
from tests.chaos.checker import judge
from tests.chaos.kills import SERVICES, Harm, plan

END_S = 600.0


async def wage(folder: Path, seed: int, harms: Sequence[Harm], *, tell=print) -> dict[str, Any]:
    """Run a whole campaign in `folder`; return its result."""
    env = {"MAX_WORKERS": str(MAX_WORKERS), "MAX_ACTIVE_USERS": str(MAX_ACTIVE_USERS), "RATE_BURST": "0"}
    env |= {"MAX_ATTEMPTS": "50", "LOG_LEVEL": "WARNING"}
    began = time.monotonic()
    async with EmbeddedStack(folder / "stack", services=SERVICES, env=env) as stack:
        campaign = Campaign(stack, folder, seed)
        await campaign.prepare()
        for number, harm in enumerate(harms, start=1):
            blow = await campaign.strike(harm)
            took = "not within a minute" if blow.recovered_s is None else f"{blow.recovered_s:.1f} s"
            tell(f"{number:4} {harm!s:<55} {len(blow.running)} jobs ran, went on after {took}", flush=True)
        deadline = time.monotonic() + END_S
        while left := open_jobs(events := await campaign.events()):
            if time.monotonic() > deadline:
                tell(f"{len(left)} jobs never ended", flush=True)
                break
            await asyncio.sleep(1.0)
        # Whoever starts clears up after those that were killed.
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
    recovered = [blow.recovered_s if blow.recovered_s is not None else 60.0 for blow in campaign.blows if blow.reached]
    for fault in verdict.faults:
        tell(f"FAULT {fault}", flush=True)
    return {
        "kills": sum(blow.reached for blow in campaign.blows),
        "by_kind": dict(Counter(blow.harm.how for blow in campaign.blows if blow.reached)),
        "crash_points": len({blow.harm.point for blow in campaign.blows if blow.harm.point and blow.reached}),
        "not_reached": sorted({str(blow.harm.point) for blow in campaign.blows if not blow.reached}),
        "seed": seed,
        "workflows": len(campaign.acknowledged.workflows),
        "jobs": verdict.jobs,
        "succeeded": verdict.succeeded,
        "cancelled": verdict.cancelled,
        "attempts": verdict.attempts,
        "cells_compared": verdict.cells_compared,
        "faults": len(verdict.faults),
        "recovery_p50_s": round(percentile(recovered, 0.5), 2),
        "recovery_p95_s": round(percentile(recovered, 0.95), 2),
        "recovery_max_s": round(max(recovered), 2),
        "seconds": round(time.monotonic() - began, 1),
        "machine": machine.facts(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
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
    return 1 if result["faults"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
