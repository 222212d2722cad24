"""Settings of the gateway, read once from the environment.

Promises: what it shares with the workers (defaults for tiles, the model, attempts) has the same names, the same
defaults and the same bounds, because it is the same class; what is wrong is said by variable name.
Refuses: defaults for what only the operator can know (database, NATS, data directory).
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from microtome.settings import EngineDefaults, MaxActiveUsers, MaxWorkers

_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class GatewaySettings(EngineDefaults):
    """Everything that can be chosen for one gateway process."""

    gateway_host: str = Field(default="127.0.0.1", min_length=1)
    # 0: any free port.
    gateway_port: int = Field(default=8080, ge=0, le=65535)
    gateway_pixel_workers: int = Field(default=1, ge=1, le=16)
    max_workers: MaxWorkers = 4
    max_active_users: MaxActiveUsers = 3
    max_upload_bytes: int = Field(default=64 * 1024**3, ge=1)
    max_body_bytes: int = Field(default=1024**2, ge=1024)
    microtome_ui_dir: Path = _PROJECT_ROOT / "ui" / "dist"

    @field_validator("microtome_data_dir", "microtome_ui_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()
