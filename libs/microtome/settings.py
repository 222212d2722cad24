"""What every service is told by its environment.

Promises: a service starts with settings that were checked, or refuses with a `ConfigurationError`
that names the variable. Refuses: defaults for where the data lies; guessing those loses data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from microtome.errors import ConfigurationError


class ServiceSettings(BaseSettings):
    """Where the parts of the system are. Each field is an environment variable of the same name, in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    microtome_database_url: str
    microtome_nats_url: str
    microtome_data_dir: Path
    tile_store_dir: Path
    # 0.0.0.0 where Prometheus asks from another machine or container.
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    # 0: any free port.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    log_level: str = "INFO"
    max_attempts: int = Field(default=5, ge=1, le=100)
    # Renewed every second.
    lease_seconds: float = Field(default=10, ge=2, le=600)
    # How long a started job may lie in the queue before it is dispatched again: the queue may have been wiped.
    dispatch_seconds: float = Field(default=30, ge=1, le=3600)

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check the environment; `ConfigurationError` names every variable that is wrong."""
        try:
            return cls()
        except ValidationError as invalid:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in invalid.errors())
            raise ConfigurationError(f"The settings cannot work. {faults}.") from None


class EngineSettings(ServiceSettings):
    """How slides are cut and segmented when a job does not say."""

    instanseg_model: str = "embedded"
    tile_size: int = Field(default=1024, ge=256, le=8192, multiple_of=16)
    tile_overlap: int = Field(default=96, ge=0, le=512, multiple_of=16)
    batch_size: int = Field(default=2, ge=1, le=64)
