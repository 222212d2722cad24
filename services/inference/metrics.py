"""What the inference service counts."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from microtome.telemetry.metrics import TileMetrics, WorkerMetrics


class InferenceMetrics:
    """Tiles, seconds per stage, and messages in work."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tiles = TileMetrics(registry)
        self._worker = WorkerMetrics(registry)

    def active(self, change: int) -> None:
        """A message of tiles was taken (+1) or settled (-1)."""
        self._worker.active_jobs.inc(change)

    def dead(self, queue: str) -> None:
        """A message went to the dead letters."""
        self._worker.dead_letters.labels(queue).inc()

    def network(self, tiles: int, seconds: float) -> None:
        """`tiles` went through the network at `seconds` each."""
        for _ in range(tiles):
            self._tiles.stage.labels("network").observe(seconds)

    def done(self, seconds: Mapping[str, float]) -> None:
        """One tile's cells are stored; `seconds` by stage."""
        self._tiles.done()
        for stage in ("head", "contours"):
            self._tiles.stage.labels(stage).observe(seconds.get(stage, 0.0))
