"""Telling a job's user how far it is, every tenth of the way."""

from __future__ import annotations

from microtome.attempts import Attempt

_STEP = 10


class Milestones:
    """Notes each 10 % of `tiles` once, in the job's log."""

    def __init__(self, attempt: Attempt, tiles: int) -> None:
        self._attempt = attempt
        self._tiles = tiles
        self._told: int | None = None

    def tell(self, done: int, cells: int) -> None:
        """Take in how many tiles have a result, and how many cells were found in this attempt."""
        reached = 100 * done // self._tiles // _STEP * _STEP if self._tiles else 100
        if self._told is None:
            self._attempt.note("looks for cells", tiles=self._tiles, tiles_with_a_result_from_before=done)
        elif reached > self._told:
            self._attempt.note(f"{reached} %", tiles_done=done, tiles=self._tiles, cells_found=cells)
        self._told = reached
