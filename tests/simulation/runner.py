"""Runs seeds and reports what they broke."""

from __future__ import annotations

import logging
import multiprocessing
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor

from microtome.contracts.codec import to_json
from tests.acceptance import laws
from tests.simulation import virtual
from tests.simulation.world import Outcome, Sabotage, World, digest

HONEST = Sabotage()


def simulate(
    seed: int, sabotage: Sabotage = HONEST, *, quiet: bool = True, tell: Callable[[str], None] | None = None
) -> Outcome:
    """Run one seed. Never raises for what the run did; see `Outcome.violations`. `tell` hears of every event."""
    if quiet:
        logging.disable(logging.CRITICAL)
    outcome = Outcome(seed)
    worlds: list[World] = []

    async def main(loop: virtual.VirtualLoop) -> None:
        worlds.append(World(loop, seed, sabotage))
        await worlds[0].live()

    try:
        _, loop = virtual.run(main)
        outcome.violations += loop.faults
        outcome.steps = loop.steps
    except (laws.Broken, virtual.Deadlock) as broken:
        outcome.violations.append(f"{type(broken).__name__}: {broken}")
    finally:
        logging.disable(logging.NOTSET)
    world = worlds[0]
    if tell is not None:
        for place, event in enumerate(world.postgres.log._events):
            what = f"{type(event.message).__name__} {to_json(event.message)}"
            tell(f"{place} {event.at:%H:%M:%S.%f} {event.stream[:20]} {what}")
    events = world.postgres.log._events
    outcome.events, outcome.digest, outcome.virtual_s = len(events), digest(events), world.loop.time()
    outcome.settled_s = world.settled
    outcome.facts = dict(Counter(type(event.message).__name__ for event in events))
    try:
        forgotten = world.judge()
    except laws.Broken:
        forgotten = []
    if forgotten:
        outcome.violations.append(f"could run and did not: {forgotten}")
    outcome.violations += world.misfolded()
    lost = world.book.acknowledged - {event.stream.removeprefix("workflow-") for event in events}
    if lost:
        outcome.violations.append(f"acknowledged and lost: {sorted(lost)}")
    return outcome


def simulate_all(seeds: range, jobs: int = 1, sabotage: Sabotage = HONEST) -> Iterator[Outcome]:
    """Run many seeds, on several cores; yield their outcomes in order."""
    if jobs == 1:
        yield from (simulate(seed, sabotage) for seed in seeds)
        return
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(simulate, seeds, [sabotage] * len(seeds), chunksize=10)
