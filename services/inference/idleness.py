"""For how long the network stood still although a job had tiles for it.

Promises: seconds in which no tile of anybody was in the network, counted from when the job's first message came:
waiting for a job is not idleness, and neither is working for another one. Refuses: to say why; the stages' seconds
say that.
"""

from __future__ import annotations

from collections import OrderedDict

_REMEMBERED = 1024


class Idleness:
    """Follows one network. All times are seconds of one clock."""

    def __init__(self) -> None:
        self._present: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._running = 0
        self._last_end = float("-inf")

    def present(self, job: tuple[str, int], at: float) -> None:
        """A message of this attempt at a job has come."""
        self._present.setdefault(job, at)
        if len(self._present) > _REMEMBERED:
            self._present.popitem(last=False)

    def began(self) -> None:
        """A call of the network begins; others may run."""
        self._running += 1

    def ended(self, at: float) -> None:
        """A call of the network is over."""
        self._running -= 1
        self._last_end = at

    def before(self, job: tuple[str, int], at: float) -> float:
        """Return how long the network stood still for this job before a call that begins now."""
        if self._running:
            return 0.0
        return max(0.0, at - max(self._last_end, self._present.get(job, at)))
