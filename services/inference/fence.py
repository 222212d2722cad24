"""Whether an attempt still counts, asked for every message of tiles.

Promises: an answer that is at most a second old. Refuses: to be the last word; what a stale attempt stores is keyed by
content and hurts nobody, this only spares the work.
"""

from __future__ import annotations

import time

from microtome.leases.lease import Leases

_FRESH_S = 1.0
_REMEMBERED = 256


class Fence:
    """Remembers for a moment which attempt of a job runs."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._running: dict[str, tuple[float, int | None]] = {}

    async def is_current(self, job_id: str, attempt: int) -> bool:
        """Say whether this very attempt runs. Raises `Unavailable`."""
        now = time.monotonic()
        asked, running = self._running.get(job_id, (float("-inf"), None))
        if now - asked > _FRESH_S or running != attempt:
            standing = (await self._leases.progress([job_id])).get(job_id)
            running = None if standing is None else standing.attempt
            if len(self._running) >= _REMEMBERED:
                self._running.clear()
            self._running[job_id] = (now, running)
        return running == attempt
