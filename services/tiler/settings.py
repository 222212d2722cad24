"""What the tiler is told by its environment."""

from __future__ import annotations

import os

from pydantic import Field

from microtome.settings import EngineSettings


class TilerSettings(EngineSettings):
    """Adds how many slides and tiles are under way at once."""

    # Batches of tiles that one user may have outstanding, in all jobs together: bounds memory, and keeps one user's
    # slides from starving another's.
    credit: int = Field(default=4, ge=1, le=256)
    # A job none of whose tiles finished for so long sends its outstanding batches again: the queue may have been wiped.
    stalled_seconds: float = Field(default=45, ge=1, le=3600)
    # Processes that decode.
    decoders: int = Field(default=min(4, os.cpu_count() or 1), ge=1, le=128)
    # Jobs that are planned and fed at once.
    tiler_jobs: int = Field(default=16, ge=1, le=256)
    # What the results of tiles may take on disk together; 0: no limit.
    result_cache_bytes: int = Field(default=20 * 1024**3, ge=0)
