"""Bars made of text.

Promises: a bar is as long as its share to an eighth of a character; what happened is visible, however short.
Refuses: to know terminals.
"""

from __future__ import annotations

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int) -> str:
    """A bar from the left that fills `share` (0 to 1) of `width` characters; at least a sliver unless 0."""
    if share <= 0:
        return ""
    eighths = max(1, round(min(share, 1.0) * width * 8))
    return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def lane(begin: float, end: float, width: int) -> str:
    """A line of `width` characters in which the part from `begin` to `end` (shares, 0 to 1) is filled."""
    first = min(width - 1, int(begin * width))
    last = max(first + 1, min(width, round(end * width)))
    return "·" * first + "█" * (last - first) + "·" * (width - last)
