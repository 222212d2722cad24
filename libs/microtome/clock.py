"""The wall clock and fresh ids, as seen by whoever runs.

Promises: code that asks here for the time and for ids can be run again exactly: a simulation sets a clock of its own
for the tasks that it starts, and every process of it may have another.
Refuses: to be the time of facts. The log stamps events, and the keeper of leases ends them, by the database's clock.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time and makes up ids."""

    def now(self) -> datetime:
        """Return the time, in UTC."""
        ...

    def new_id(self) -> uuid.UUID:
        """Return an id that nobody else has."""
        ...


class SystemClock:
    """The clock of this machine, and random ids."""

    def now(self) -> datetime:
        """Return the time; see `Clock.now`."""
        return datetime.now(UTC)

    def new_id(self) -> uuid.UUID:
        """Return an id; see `Clock.new_id`."""
        return uuid.uuid4()


_SYSTEM = SystemClock()
_clock: ContextVar[Clock] = ContextVar("clock", default=_SYSTEM)


def now() -> datetime:
    """Return the time by the clock of the calling task, in UTC."""
    return _clock.get().now()


def new_id() -> uuid.UUID:
    """Return an id that nobody else has, by the clock of the calling task."""
    return _clock.get().new_id()


@contextlib.contextmanager
def using(clock: Clock) -> Iterator[None]:
    """Let `clock` be the clock of the calling task, and of tasks that it starts, for the length of the block."""
    token = _clock.set(clock)
    try:
        yield
    finally:
        _clock.reset(token)
