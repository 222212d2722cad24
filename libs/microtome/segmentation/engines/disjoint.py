"""Numbers in sets, two of which can be joined, never parted.

Promises: after any joins each number is in exactly one set, and two are in one set exactly if a chain of joins leads
from one to the other. Which number stands for a set changes with joins: ask when all are done.
Refuses: to know what the numbers mean.
"""

from __future__ import annotations


class DisjointSets:
    """The numbers from 0 to before `size`, each in a set of its own at first."""

    def __init__(self, size: int) -> None:
        self._towards = list(range(size))

    def join(self, one: int, other: int) -> None:
        """Make one set of the two that have these numbers."""
        self._towards[self.of(one)] = self.of(other)

    def of(self, number: int) -> int:
        """Give the number that stands for this one's set."""
        while self._towards[number] != number:
            # A shorter way for whoever asks next.
            ahead = self._towards[self._towards[number]]
            self._towards[number] = ahead
            number = ahead
        return number

    def sets(self) -> list[list[int]]:
        """Give all sets, each in ascending order, by their smallest numbers."""
        found: dict[int, list[int]] = {}
        for number in range(len(self._towards)):
            found.setdefault(self.of(number), []).append(number)
        return list(found.values())
