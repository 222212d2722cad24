"""What the merger is told by its environment."""

from __future__ import annotations

from pydantic import Field

from microtome.settings import ServiceSettings


class MergerSettings(ServiceSettings):
    """Adds how many jobs of one user are merged at once."""

    merger_jobs: int = Field(default=2, ge=1, le=64)
