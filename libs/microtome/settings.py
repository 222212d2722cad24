"""What every service is told by its environment.

Promises: a service starts with settings that were checked, or refuses with a `ConfigurationError`
that names the variable. Refuses: defaults for where the data lies; guessing those loses data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from microtome import crashpoint
from microtome.errors import ConfigurationError
from microtome.segmentation.wishes import AUTO, EngineWish

# What a slide may be cut into, wherever it is chosen: by the environment or by a job. Model pixels.
TileSize = Annotated[int, Field(ge=256, le=8192, multiple_of=16)]
TileOverlap = Annotated[int, Field(ge=0, le=512, multiple_of=16)]
BatchSize = Annotated[int, Field(ge=1, le=64)]
# How much may run at once; the scheduler decides by these and the gateway explains by them.
MaxWorkers = Annotated[int, Field(ge=1, le=10_000)]
MaxActiveUsers = Annotated[int, Field(ge=1, le=10_000)]
# Seconds; 0: a seat is kept until its user's work is done.
SeatTenure = Annotated[float, Field(ge=0, le=365 * 86_400, allow_inf_nan=False)]
SliceSeconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]


class CommonSettings(BaseSettings):
    """What all processes are told. Each field is an environment variable of the same name, in capitals."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore")

    microtome_database_url: str = Field(min_length=1)
    microtome_nats_url: str = Field(min_length=1)
    microtome_data_dir: Path
    # 0.0.0.0 where Prometheus asks from another machine or container.
    metrics_host: str = Field(default="127.0.0.1", min_length=1)
    # 0: any free port.
    metrics_port: int = Field(default=0, ge=0, le=65535)
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    max_attempts: int = Field(default=5, ge=1, le=100)

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def from_environment(cls) -> Self:
        """Read and check the environment; `ConfigurationError` names every variable that is wrong."""
        crashpoint.check()
        try:
            return cls()
        except ValidationError as invalid:
            faults = "; ".join(f"{'.'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in invalid.errors())
            raise ConfigurationError(f"The settings cannot work. {faults}.") from None


class EngineDefaults(CommonSettings):
    """How slides are cut and segmented when a job does not say."""

    instanseg_model: str = Field(default="embedded", min_length=1)
    tile_size: TileSize = 2304
    tile_overlap: TileOverlap = 112
    batch_size: BatchSize = 2


class ServiceSettings(CommonSettings):
    """What a worker is told besides: where tiles wait, how long a lease lasts."""

    tile_store_dir: Path
    # Renewed every second.
    lease_seconds: float = Field(default=10, ge=2, le=600)
    # How long a started job may lie in the queue before it is dispatched again: the queue may have been wiped.
    dispatch_seconds: float = Field(default=15, ge=1, le=3600)


class EngineSettings(ServiceSettings, EngineDefaults):
    """A worker that cuts or segments slides."""

    # What runs the network: "auto" or a name; the tiler keeps the results of different wishes apart.
    engine: EngineWish = AUTO
