"""Settings of the gateway, read once from the environment.

Promises: what it shares with the workers (defaults for tiles, the model, attempts) has the same names, the same
defaults and the same bounds, because it is the same class; what is wrong is said by variable name.
Refuses: defaults for what only the operator can know (database, NATS, data directory).
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, field_validator

from microtome.domain.limits import Limits
from microtome.settings import EngineDefaults, MaxActiveUsers, MaxWorkers, SeatTenure, SliceSeconds

_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class GatewaySettings(EngineDefaults):
    """Everything that can be chosen for one gateway process."""

    gateway_host: str = Field(default="127.0.0.1", min_length=1)
    # 0: any free port.
    gateway_port: int = Field(default=8080, ge=0, le=65535)
    gateway_pixel_workers: int = Field(default=1, ge=1, le=16)
    max_workers: MaxWorkers = 4
    max_active_users: MaxActiveUsers = 3
    seat_tenure: SeatTenure = 0
    slice_seconds: SliceSeconds = 60
    max_upload_bytes: int = Field(default=64 * 1024**3, ge=1)
    max_body_bytes: int = Field(default=4 * 1024**2, ge=1024)
    # What a user's slides and open uploads may take together; 0: no limit but the disk's.
    user_quota_bytes: int = Field(default=0, ge=0)
    # A client that sends or takes nothing for so long is let go.
    upload_stall_seconds: float = Field(default=60, ge=0.1, le=3600)
    # A resumable upload that nobody continues is forgotten.
    upload_expiry_seconds: float = Field(default=24 * 3600, ge=1, le=30 * 24 * 3600)
    # Submissions per user: so many at once, and so many per second after that; a burst of 0 switches the limit off.
    rate_burst: int = Field(default=10, ge=0, le=10_000)
    rate_refill_per_s: float = Field(default=1, ge=0.001, le=10_000)
    # Unfinished jobs per user; 0: no limit.
    max_pending_jobs: int = Field(default=10_000, ge=0)
    # Requests worked on at once by one process; some more wait for a moment, the rest is told to come back.
    max_in_flight: int = Field(default=128, ge=1, le=10_000)
    # Websockets and event streams of one process.
    max_live_clients: int = Field(default=2000, ge=1, le=100_000)
    # Those of one user, in one process; and resumable uploads that a user has begun and not ended. 0: no limit.
    max_live_clients_per_user: int = Field(default=50, ge=0)
    max_open_uploads: int = Field(default=100, ge=0)
    microtome_ui_dir: Path = _PROJECT_ROOT / "ui" / "dist"

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

    @field_validator("microtome_data_dir", "microtome_ui_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()
