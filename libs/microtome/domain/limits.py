"""How much may happen at once, and how often something is tried.

Promises: plain numbers, checked once. Refuses: limits under which nothing could ever run.
"""

from __future__ import annotations

from dataclasses import dataclass

from microtome.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Jobs that run at once, users that are active at once, and automatic attempts at one job."""

    max_workers: int = 4
    max_active_users: int = 3
    max_attempts: int = 5

    def __post_init__(self) -> None:
        if min(self.max_workers, self.max_active_users, self.max_attempts) < 1:
            raise ConfigurationError("MAX_WORKERS, MAX_ACTIVE_USERS and MAX_ATTEMPTS must be at least 1.")
