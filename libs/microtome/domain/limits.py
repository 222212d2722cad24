"""How much may happen at once, and how often something is tried.

Promises: plain numbers, checked once. Refuses: limits under which nothing could ever run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from microtome.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator allows."""

    max_workers: int = 4
    """Jobs that run at once."""
    max_active_users: int = 3
    """Users that are active at once."""
    max_attempts: int = 5
    """Automatic attempts at one job."""
    seat_tenure: timedelta | None = None
    """How long a user keeps a seat for sure while others wait for one; None: until their work is done."""
    slice_seconds: float = 60
    """How long a job keeps its slot for sure while another seated user has none and everybody has but one."""

    def __post_init__(self) -> None:
        if min(self.max_workers, self.max_active_users, self.max_attempts) < 1:
            raise ConfigurationError("MAX_WORKERS, MAX_ACTIVE_USERS and MAX_ATTEMPTS must be at least 1.")
        if self.seat_tenure is not None and self.seat_tenure <= timedelta(0):
            raise ConfigurationError("SEAT_TENURE must be a positive number of seconds, or 0 for no end.")
        if not 0 < self.slice_seconds <= 86_400:
            raise ConfigurationError("SLICE_SECONDS must be more than 0 and at most 86400.")

    @property
    def time_slice(self) -> timedelta:
        """`slice_seconds` as a span of time."""
        return timedelta(seconds=self.slice_seconds)
