"""Who is active: seats are given first come first served.

A seat is kept until the user's runnable work is finished. With a tenure, it is kept that long for sure; then, while
somebody waits in line, its user starts nothing new, gives it up as soon as nothing of theirs runs, and goes to the end
of the line.

Promises: pure; applying the decisions in their order keeps the limit; no more users leave than wait.
Refuses: to act. The scheduler turns decisions into events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from microtome.domain.cluster import Cluster, Seat
from microtome.domain.limits import Limits


@dataclass(frozen=True, slots=True)
class ReleaseSeat:
    """The user has nothing left that could run, or others wait and the tenure of the seat is over."""

    user_id: str
    seat: int


@dataclass(frozen=True, slots=True)
class GrantSeat:
    """The user becomes active."""

    user_id: str
    seat: int


def seat_line(cluster: Cluster) -> tuple[str, ...]:
    """Return the users who wait for a seat, first in line first."""
    return tuple(cluster.line)


def leaving(cluster: Cluster, limits: Limits, now: datetime) -> frozenset[str]:
    """Return the users who start nothing new, because the tenure of their seat is over and somebody waits for it."""
    if limits.seat_tenure is None or not cluster.line:
        return frozenset()
    kept = {user: seat for user, seat in cluster.seats.items() if user in cluster.live}
    wanted = len(cluster.line) - max(0, limits.max_active_users - len(kept))
    over = [(seat, user) for user, seat in kept.items() if now - seat.granted_at >= limits.seat_tenure]
    over.sort(key=lambda each: (each[0].granted_at, each[0].number))
    return frozenset(user for _, user in over[: max(0, wanted)])


def seating(
    cluster: Cluster, limits: Limits, now: datetime
) -> tuple[tuple[ReleaseSeat | GrantSeat, ...], Mapping[str, Seat]]:
    """Return who gets up and who sits down, in this order, and who then holds seats and may start jobs."""
    going = leaving(cluster, limits, now)
    at_work = {running.user_id for running in cluster.running.values()} if going else ()
    seats: dict[str, Seat] = {}
    decisions: list[ReleaseSeat | GrantSeat] = []
    for user, seat in cluster.seats.items():
        if user in cluster.live and (user not in going or user in at_work):
            seats[user] = seat
        else:
            decisions.append(ReleaseSeat(user, seat.number))
    taken = {user: seat.number for user, seat in seats.items()}
    for user in cluster.line:
        number = lowest_free(taken, limits.max_active_users)
        if number is None:
            break
        taken[user] = number
        seats[user] = Seat(number, now)
        decisions.append(GrantSeat(user, number))
    return tuple(decisions), {user: seat for user, seat in seats.items() if user not in going}


def lowest_free(taken: Mapping[str, int], size: int) -> int | None:
    """Return the lowest free number; none when as many are taken as there may be, whatever their numbers."""
    if len(taken) >= size:
        return None
    numbers = set(taken.values())
    return next(number for number in range(size) if number not in numbers)
