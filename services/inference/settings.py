"""What the inference service is told by its environment."""

from __future__ import annotations

from pydantic import Field

from microtome.settings import EngineSettings


class InferenceSettings(EngineSettings):
    """Adds how much of the machine the network and its head may use."""

    # Cores for one call of the network; 0 means all.
    inference_threads: int = Field(default=0, ge=0, le=256)
    # Tiles in the network at the same time, each on its share of those cores and in memory of its own; 0: what is best.
    inference_lanes: int = Field(default=0, ge=0, le=64)
    # Threads that turn logits into cells, beside the network.
    head_workers: int = Field(default=2, ge=1, le=64)
