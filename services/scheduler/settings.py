"""What the scheduler is told by its environment."""

from __future__ import annotations

from datetime import timedelta

from microtome.domain.limits import Limits
from microtome.settings import MaxActiveUsers, MaxWorkers, SeatTenure, ServiceSettings, SliceSeconds


class SchedulerSettings(ServiceSettings):
    """Adds the limits of the scheduling law."""

    max_workers: MaxWorkers = 4
    max_active_users: MaxActiveUsers = 3
    # Seconds that a user keeps a seat for sure while others wait for one; 0: until their work is done.
    seat_tenure: SeatTenure = 0
    # Seconds that a job keeps its slot for sure while another active user has none.
    slice_seconds: SliceSeconds = 60

    @property
    def limits(self) -> Limits:
        """The limits as the domain takes them."""
        return Limits(
            max_workers=self.max_workers,
            max_active_users=self.max_active_users,
            max_attempts=self.max_attempts,
            seat_tenure=timedelta(seconds=self.seat_tenure) if self.seat_tenure else None,
            slice_seconds=self.slice_seconds,
        )
