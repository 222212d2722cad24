"""What the scheduler is told by its environment."""

from __future__ import annotations

from microtome.domain.limits import Limits
from microtome.settings import MaxActiveUsers, MaxWorkers, ServiceSettings


class SchedulerSettings(ServiceSettings):
    """Adds the limits of the scheduling law."""

    max_workers: MaxWorkers = 4
    max_active_users: MaxActiveUsers = 3

    @property
    def limits(self) -> Limits:
        """The limits as the domain takes them."""
        return Limits(
            max_workers=self.max_workers, max_active_users=self.max_active_users, max_attempts=self.max_attempts
        )
