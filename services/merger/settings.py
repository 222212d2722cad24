"""What the merger is told by its environment."""

from __future__ import annotations

from pydantic import Field, field_validator

from microtome.artifacts.formats import DEFAULT_FORMATS, formats_named
from microtome.errors import InvalidRequest
from microtome.settings import ServiceSettings


class MergerSettings(ServiceSettings):
    """Adds how many jobs of one user are merged at once, and in which files their cells are."""

    merger_jobs: int = Field(default=2, ge=1, le=64)
    formats: str = DEFAULT_FORMATS

    @field_validator("formats")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            return ",".join(formats_named(value))
        except InvalidRequest as unknown:
            raise ValueError(str(unknown)) from unknown
