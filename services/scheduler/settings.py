"""What the scheduler is told by its environment."""

from __future__ import annotations

from pydantic import Field

from microtome.domain.limits import Limits
from microtome.settings import ServiceSettings


class SchedulerSettings(ServiceSettings):
    """Adds the limits of the scheduling law."""

    max_workers: int = Field(default=4, ge=1, le=10_000)
    max_active_users: int = Field(default=3, ge=1, le=10_000)

    @property
    def limits(self) -> Limits:
        """The limits as the domain takes them."""
        return Limits(
            max_workers=self.max_workers, max_active_users=self.max_active_users, max_attempts=self.max_attempts
        )
