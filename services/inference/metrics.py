"""What the inference service counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from microtome.telemetry.metrics import TileMetrics, WorkerMetrics


class InferenceMetrics:
    """Tiles, seconds per stage, and jobs with messages in work."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tiles = TileMetrics(registry)
        self._worker = WorkerMetrics(registry)
        self._messages: Counter[str] = Counter()

    def taken(self, job_id: str) -> None:
        """A message of this job's tiles is worked on."""
        self._messages[job_id] += 1
        self._worker.active_jobs.set(len(self._messages))

    def settled(self, job_id: str) -> None:
        """A message of this job's tiles, taken before, is over."""
        self._messages[job_id] -= 1
        if not self._messages[job_id]:
            del self._messages[job_id]
        self._worker.active_jobs.set(len(self._messages))

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
