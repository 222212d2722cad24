"""How long a reader at the end of the log sleeps before it looks again.

Promises: an event that becomes readable without a wake-up (it committed behind a slower transaction, or the wake-up
came before the readers were let through) is found soon, after a few times as long as it was hidden, and at the latest
after `longest`.
Refuses: to look often when nothing happens; each look that finds nothing makes the sleep longer.
"""

from __future__ import annotations

FIRST_S = 0.004
_LONGER = 4.0
LONGEST_S = 1.0


class Patience:
    """Sleeps of a reader, from short to long."""

    def __init__(self, longest: float = LONGEST_S) -> None:
        self._longest = longest
        self._next = longest

    def hurry(self) -> None:
        """Something happened, or is about to: look again soon."""
        self._next = FIRST_S

    def seconds(self) -> float:
        """Return how long to sleep now; the next one is longer."""
        now = min(self._next, self._longest)
        self._next = _LONGER * now
        return now
