"""What can be done to a stack: the kinds of harm, and a plan of them from a seed.

Promises: the same seed gives the same plan; a plan of enough harms has every kind and every named crash point in it.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from typing import Literal

from microtome.crashpoint import CrashPoint

How = Literal["kill", "point", "zombie", "wipe", "rollback"]
SERVICES = ("gateway", "scheduler", "scheduler:2", "tiler", "inference", "merger")
# How often which kind comes: in every dozen and a bit, four named points.
_KINDS = (
    "point kill point kill postgres point kill zombie point kill nats wipe rollback".split()  # noqa: SIM905 - it reads
)
WORKERS = ("scheduler", "scheduler:2", "tiler", "inference", "merger")


@dataclass(frozen=True, slots=True)
class Harm:
    """One thing that is done to one process.

    `kill`: SIGKILL at a random time. `point`: SIGKILL at a named point of its code. `zombie`: SIGSTOP for longer than a
    lease, then SIGCONT. `wipe`: NATS loses all that it stored. `rollback`: NATS wakes up with what it had stored two
    minutes ago, or at the start.
    """

    how: How
    target: str
    delay_s: float
    point: CrashPoint | None = None

    @property
    def kills(self) -> bool:
        """Whether it is a SIGKILL, and not a process that stands still or a store that forgets."""
        return self.how in ("kill", "point")

    def __str__(self) -> str:
        return f"{self.how} {self.point or self.target}"


def plan(seed: int, count: int) -> list[Harm]:
    """Return `count` harms in a random order: two fifths at named points, the others at random times."""
    chance = random.Random(seed)
    points = list(CrashPoint)
    chance.shuffle(points)
    services = itertools.cycle(SERVICES)
    named = itertools.cycle(points)
    zombies = itertools.cycle(WORKERS)
    kinds = itertools.cycle(_KINDS)
    harms = []
    for kind in itertools.islice(kinds, count):
        delay = round(chance.uniform(0.0, 3.0), 2)
        match kind:
            case "point":
                point = next(named)
                harms.append(Harm("point", point.service, delay, point))
            case "kill":
                harms.append(Harm("kill", next(services), delay))
            case "zombie":
                harms.append(Harm("zombie", next(zombies), delay))
            case "wipe" | "rollback" as how:
                harms.append(Harm(how, "nats", delay))
            case server:
                harms.append(Harm("kill", server, delay))
    chance.shuffle(harms)
    return harms
