"""A comparison on the terminal.

Promises: recorded and simulated side by side, measured alike. Refuses: to compute; see `what_if`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta

from rich.console import Console
from rich.text import Text

from microtome.domain.limits import Limits
from microtome.domain.simulation import Outcome, Wait
from microtome.replay import output
from microtome.replay.bars import bar
from microtome.replay.describe import span
from microtome.replay.what_if import FAILED, LOST, SHARES, Comparison, Side, quantile

USERS = 20
"""Users that are listed on a terminal; JSON has all of them."""
# Changes of less than this are not worth a word.
_SAME = 0.005
_RECORDED, _SIMULATED = "blue", "yellow"
# Edges of the histogram's classes in seconds: those that people think in.
_EDGES = (1.0, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)


def draw(console: Console, comparison: Comparison) -> None:
    """Print the limits, the distributions, the users and the histogram."""
    recorded, simulated = comparison.recorded, comparison.simulated
    _rules(console, comparison)
    console.print()
    _totals(console, recorded, simulated)
    console.print()
    _users(console, comparison)
    console.print()
    _histogram(console, recorded.outcome, simulated.outcome)
    _caveats(console, comparison)


def _rules(console: Console, comparison: Comparison) -> None:
    one, other = comparison.recorded.limits, comparison.simulated.limits
    for name, before, after in (
        ("MAX_WORKERS", str(one.max_workers), str(other.max_workers)),
        ("MAX_ACTIVE_USERS", str(one.max_active_users), str(other.max_active_users)),
        ("SEAT_TENURE", _tenure(one), _tenure(other)),
        ("SLICE_SECONDS", f"{one.slice_seconds:g}", f"{other.slice_seconds:g}"),
    ):
        changed = before != after
        console.print(Text(f"{name:<17} {before}{f' → {after}' if changed else ''}", "bold" if changed else "dim"))
    for branch, policy in comparison.policies.items():
        console.print(Text(f"branch {branch:<10} → {policy}", "bold"))
    if comparison.same_rules:
        console.print("Nothing is changed: the two sides tell how well the simulation reproduces the recording.")


def _tenure(limits: Limits) -> str:
    return "none" if limits.seat_tenure is None else span(limits.seat_tenure)


def _totals(console: Console, recorded: Side, simulated: Side) -> None:
    listed = output.table("", "recorded", "simulated", "", right=("recorded", "simulated"))
    for share in SHARES:
        name = "longest" if share == 1 else f"p{share * 100:.0f}"
        one, other = recorded.outcome.quantile(share), simulated.outcome.quantile(share)
        listed.add_row(f"waited for seat and slot, {name}", _span(one), _span(other), _change(one, other))
    for share in SHARES[:2]:
        one, other = (side.outcome.quantile(share, Wait.took) for side in (recorded, simulated))
        listed.add_row(f"from wish to end, p{share * 100:.0f}", _span(one), _span(other), _change(one, other))
    listed.add_row("all of it", _span(recorded.makespan), _span(simulated.makespan),
                   _change(recorded.makespan, simulated.makespan))  # fmt: skip
    listed.add_row("slots in use", f"{recorded.utilisation:.0%}", f"{simulated.utilisation:.0%}", "")
    listed.add_row("jobs that started", *(f"{len(side.outcome.sorted()):,}" for side in (recorded, simulated)), "")
    listed.add_row("preemptions", *(f"{side.outcome.preemptions:,}" for side in (recorded, simulated)), "")
    console.print(listed)


def _span(value: timedelta | None) -> str:
    return "–" if value is None else span(value)


def _change(one: timedelta | None, other: timedelta | None) -> Text:
    if one is None or other is None or one == other:
        return Text("")
    # Below a tenth of a second neither side means anything.
    if max(one, other) < timedelta(seconds=0.1) or not one:
        return Text(f"{'+' if other > one else '−'}{span(abs(other - one))}", "dim")
    ratio = other / one
    if abs(ratio - 1) < _SAME:
        return Text("")
    return Text(f"{ratio - 1:+.0%}".replace("-", "−"), "green" if ratio < 1 else "red")


def _users(console: Console, comparison: Comparison) -> None:
    listed = output.table(
        "user", "jobs", "recorded p50", "p90", "p99", "simulated p50", "p90 ", "p99 ",
        title="Waited for seat and slot, by user",
        right=("jobs", "recorded p50", "p90", "p99", "simulated p50", "p90 ", "p99 "),
    )  # fmt: skip
    users = comparison.users
    for user in users[:USERS]:
        one, other = comparison.recorded.of_user(user), comparison.simulated.of_user(user)
        listed.add_row(user, str(len(one.waits)), *_quantiles(one), *_quantiles(other))
    console.print(listed)
    if len(users) > USERS:
        console.print(f"… and {len(users) - USERS:,} more; --json has all of them.", style="dim")


def _quantiles(outcome: Outcome) -> Iterable[str]:
    return (_span(outcome.quantile(share)) for share in SHARES[:3])


def _histogram(console: Console, recorded: Outcome, simulated: Outcome) -> None:
    sides = [[each.total_seconds() for each in outcome.sorted()] for outcome in (recorded, simulated)]
    longest = max((values[-1] for values in sides if values), default=0.0)
    # As many classes as it takes to the longest, but always some.
    edges = _EDGES[: 1 + sum(edge <= max(longest, 1) for edge in _EDGES)]
    counts = [_classes(values, edges) for values in sides]
    most = max((*counts[0], *counts[1], 1))
    width = max(10, min(40, (console.width - 50) // 2))
    listed = output.table(
        "waited", "recorded", "jobs", "simulated", "jobs ", title="How many jobs waited how long",
        right=("waited", "jobs", "jobs "),
    )  # fmt: skip
    for number, (one, other) in enumerate(zip(*counts, strict=True)):
        listed.add_row(
            _class_name(edges, number),
            Text(bar(one / most, width), _RECORDED),
            f"{one:,}",
            Text(bar(other / most, width), _SIMULATED),
            f"{other:,}",
        )
    console.print(listed)


def _classes(values: Sequence[float], edges: Sequence[float]) -> list[int]:
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[sum(value >= edge for edge in edges)] += 1
    return counts if len(edges) == len(_EDGES) else counts[:-1]


def _class_name(edges: Sequence[float], number: int) -> str:
    if number == 0:
        return f"under {_short(edges[0])}"
    if number == len(edges):
        return f"{_short(edges[-1])} and more"
    return f"{_short(edges[number - 1])} to {_short(edges[number])}"


def _short(seconds: float) -> str:
    for unit, name in ((3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds / unit:g} {name}"
    return f"{seconds:g} s"


def _caveats(console: Console, comparison: Comparison) -> None:
    if comparison.same_rules and (errors := comparison.start_errors()):
        half, most = (span(quantile(errors, share) or 0.0) for share in (0.5, 0.99))
        console.print(f"\nSimulated starts differ from the recorded ones by {half} (p50) and {most} (p99).")
    for fault, counts in ((LOST, "counts as work"), (FAILED, "is not in it")):
        if number := comparison.faults.get(fault):
            attempts = f"{number:,} attempt{'' if number == 1 else 's'} {fault}"
            console.print(f"\nNot simulated: {attempts}; the time that was spent {counts}.", style="dim")
