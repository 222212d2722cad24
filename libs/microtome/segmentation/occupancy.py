"""How long an engine stood still, and whose its time was while several calls ran beside each other.

Promises: seconds in which anything ran are shared out among the calls that ran, those in which nothing did are told to
the call after them; all of them together are the time that went by. May be asked from any thread.
Refuses: to count for whom it stood still, which only who waits knows.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Begun:
    """A call under way: the seconds that the engine had stood still before it, and the reading of the shared clock."""

    idle: float
    shared: float


class Occupancy:
    """Follows one engine. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._running, self._at = 0, clock()
        # Seconds since the last call began in which nothing ran; seconds of any call that had run from the start.
        self._idle, self._shared = 0.0, 0.0

    def begin(self) -> Begun:
        """A call begins now."""
        with self._lock:
            self._go_on()
            self._running += 1
            begun = Begun(self._idle, self._shared)
            self._idle = 0.0
            return begun

    def end(self, begun: Begun) -> float:
        """The call is over; return its share of the seconds that it took."""
        with self._lock:
            self._go_on()
            self._running -= 1
            return self._shared - begun.shared

    def _go_on(self) -> None:
        now = self._clock()
        passed, self._at = now - self._at, now
        if self._running:
            self._shared += passed / self._running
        else:
            self._idle += passed
