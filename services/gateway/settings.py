"""Settings of the gateway, read once from the environment.

Promises: every value is checked before anything starts; what is wrong is said by variable name.
Refuses: defaults for what only the operator can know (database, NATS, data directory).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from microtome.errors import ConfigurationError

_PROJECT_ROOT = Path(__file__).resolve().parents[2]


class GatewaySettings(BaseSettings):
    """Everything that can be chosen for one gateway process."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    database_url: Annotated[str, Field(validation_alias="MICROTOME_DATABASE_URL", min_length=1)]
    nats_url: Annotated[str, Field(validation_alias="MICROTOME_NATS_URL", min_length=1)]
    data_dir: Annotated[Path, Field(validation_alias="MICROTOME_DATA_DIR")]
    host: Annotated[str, Field(validation_alias="GATEWAY_HOST")] = "127.0.0.1"
    port: Annotated[int, Field(validation_alias="GATEWAY_PORT", ge=0, le=65535)] = 8000
    metrics_host: Annotated[str, Field(validation_alias="METRICS_HOST", min_length=1)] = "127.0.0.1"
    metrics_port: Annotated[int | None, Field(validation_alias="METRICS_PORT", ge=0, le=65535)] = None
    log_level: Annotated[
        Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], Field(validation_alias="LOG_LEVEL")
    ] = "INFO"
    max_workers: Annotated[int, Field(validation_alias="MAX_WORKERS", ge=1, le=10_000)] = 4
    max_active_users: Annotated[int, Field(validation_alias="MAX_ACTIVE_USERS", ge=1, le=10_000)] = 3
    max_attempts: Annotated[int, Field(validation_alias="MAX_ATTEMPTS", ge=1, le=100)] = 5
    tile_size: Annotated[int, Field(validation_alias="TILE_SIZE", ge=128, le=8192, multiple_of=16)] = 1024
    halo: Annotated[int, Field(validation_alias="TILE_OVERLAP", ge=0, le=1024, multiple_of=16)] = 96
    batch_size: Annotated[int, Field(validation_alias="BATCH_SIZE", ge=1, le=64)] = 2
    model: Annotated[str, Field(validation_alias="INSTANSEG_MODEL", min_length=1)] = "embedded"
    max_upload_bytes: Annotated[int, Field(validation_alias="MAX_UPLOAD_BYTES", ge=1)] = 64 * 1024**3
    max_body_bytes: Annotated[int, Field(validation_alias="MAX_BODY_BYTES", ge=1024)] = 1024**2
    pixel_workers: Annotated[int, Field(validation_alias="GATEWAY_PIXEL_WORKERS", ge=1, le=16)] = 1
    ui_dir: Annotated[Path, Field(validation_alias="MICROTOME_UI_DIR")] = _PROJECT_ROOT / "ui" / "dist"

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @field_validator("metrics_port", mode="before")
    @classmethod
    def _empty_is_absent(cls, value: object) -> object:
        return None if value == "" else value

    @field_validator("data_dir", "ui_dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().resolve()

    @classmethod
    def from_environment(cls) -> GatewaySettings:
        """Read the environment. `ConfigurationError` names each variable that is missing or wrong."""
        try:
            # The arguments are the environment's.
            return cls()
        except ValidationError as error:
            lines = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
            raise ConfigurationError("; ".join(lines)) from error
