"""The chart of a comparison: the share of jobs that waited at most so long, recorded and simulated.

Promises: SVG and PNG show the same curves; the axis of time is logarithmic, since waits differ by powers of ten.
Refuses: to know colours of terminals, and to need more than Pillow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from microtome.domain.limits import Limits
from microtome.replay.what_if import Comparison

WIDTH, HEIGHT = 860, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 36, 56, 56
_SHORTEST = 0.1
_TICKS = ((0.1, "0.1 s"), (1.0, "1 s"), (10.0, "10 s"), (60.0, "1 min"), (600.0, "10 min"), (3600.0, "1 h"),
          (36_000.0, "10 h"), (864_000.0, "10 d"))  # fmt: skip
_INK, _PALE = "#24292f", "#d0d7de"

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of the chart: its name, its colour, seconds waited by each job in rising order."""

    name: str
    colour: str
    seconds: Sequence[float]


@dataclass(frozen=True, slots=True)
class Chart:
    """A title and the curves under it."""

    title: str
    curves: Sequence[Curve]

    @property
    def longest(self) -> float:
        """The right end of the axis of time, in seconds."""
        most = max((curve.seconds[-1] for curve in self.curves if curve.seconds), default=1.0)
        return next((tick for tick, _ in _TICKS if tick >= max(most, 1.0)), most)

    def x(self, seconds: float) -> float:
        """Where a waiting time lies, in pixels from the left."""
        share = math.log(max(seconds, _SHORTEST) / _SHORTEST) / math.log(self.longest / _SHORTEST)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, share: float) -> float:
        """Where a share of the jobs lies, in pixels from the top."""
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    def points(self, curve: Curve) -> list[Point]:
        """The corners of the curve: at each waiting time it rises by one job."""
        points: list[Point] = [(self.x(0), self.y(0))]
        for number, seconds in enumerate(curve.seconds, start=1):
            x = self.x(seconds)
            points += [(x, points[-1][1]), (x, self.y(number / len(curve.seconds)))]
        return [*points, (self.x(self.longest), points[-1][1])]

    def ticks(self) -> list[tuple[float, str]]:
        """Marks of the axis of time: seconds and label."""
        return [(seconds, label) for seconds, label in _TICKS if seconds <= self.longest]


def of(comparison: Comparison) -> Chart:
    """The chart of a comparison."""
    one, other = comparison.recorded, comparison.simulated
    return Chart(
        "How long jobs waited",
        [
            Curve(f"{name}: {_rules(side.limits)}", colour, [each.total_seconds() for each in waits])
            for name, side, colour, waits in (
                ("recorded", one, "#0969da", one.outcome.sorted()),
                ("simulated", other, "#bf8700", other.outcome.sorted()),
            )
        ],
    )


def _rules(limits: Limits) -> str:
    slots, seats = limits.max_workers, limits.max_active_users
    words = f"{slots} slot{'' if slots == 1 else 's'}, {seats} seat{'' if seats == 1 else 's'}"
    return words if limits.seat_tenure is None else f"{words}, {limits.seat_tenure.total_seconds():g} s tenure"


def write_svg(chart: Chart, path: Path) -> None:
    """Write the chart as SVG."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}">',
        f'<g font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="26" font-size="16" font-weight="600">{escape(chart.title)}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = chart.y(share)
        parts.append(f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="{_PALE}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for seconds, label in chart.ticks():
        x = chart.x(seconds)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{HEIGHT - _BOTTOM}" stroke="{_PALE}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - _BOTTOM + 20}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(_AXIS)}</text>')
    for number, curve in enumerate(chart.curves):
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in chart.points(curve))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{curve.colour}" stroke-width="2.5"/>')
        x = _LEFT + 300 * number
        parts.append(f'<path d="M{x} 43h22" stroke="{curve.colour}" stroke-width="3"/>')
        parts.append(f'<text x="{x + 28}" y="47">{escape(curve.name)}</text>')
    path.write_text("\n".join((*parts, "</g></svg>\n")), encoding="utf-8")


_AXIS = "waited for seat and slot at most so long (share of jobs)"


def write_png(chart: Chart, path: Path) -> None:
    """Write the chart as PNG, at twice the size for sharp lines."""
    scale = 2
    image = Image.new("RGB", (WIDTH * scale, HEIGHT * scale), "white")
    draw = ImageDraw.Draw(image)
    small, large = ImageFont.load_default(13 * scale), ImageFont.load_default(16 * scale)

    def at(x: float, y: float) -> Point:
        return x * scale, y * scale

    draw.text(at(_LEFT, 26), chart.title, _INK, large, anchor="ls")
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = chart.y(share)
        draw.line([at(_LEFT, y), at(WIDTH - _RIGHT, y)], _PALE, scale)
        draw.text(at(_LEFT - 8, y), f"{share:.0%}", _INK, small, anchor="rm")
    for seconds, label in chart.ticks():
        x = chart.x(seconds)
        draw.line([at(x, _TOP), at(x, HEIGHT - _BOTTOM)], _PALE, scale)
        draw.text(at(x, HEIGHT - _BOTTOM + 16), label, _INK, small, anchor="mm")
    draw.text(at(WIDTH / 2, HEIGHT - 16), _AXIS, _INK, small, anchor="mm")
    for number, curve in enumerate(chart.curves):
        draw.line([at(*point) for point in chart.points(curve)], curve.colour, 5, joint="curve")
        x = _LEFT + 300 * number
        draw.line([at(x, 43), at(x + 22, 43)], curve.colour, 6)
        draw.text(at(x + 28, 43), curve.name, _INK, small, anchor="lm")
    image.save(path, format="PNG")
