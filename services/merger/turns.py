"""Whose jobs are merged now.

Promises: of each user at most so many at once, in the order in which they came; one user's large slides do not keep
another's small one waiting. Refuses: to count what other mergers do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Turns:
    """One semaphore for each user who has something to merge."""

    def __init__(self, each: int) -> None:
        self._each = each
        self._users: dict[str, tuple[asyncio.Semaphore, int]] = {}

    @contextlib.asynccontextmanager
    async def of(self, user_id: str) -> AsyncIterator[None]:
        """Hold one of the user's turns for the length of the block, as soon as there is one."""
        semaphore, interested = self._users.get(user_id, (asyncio.Semaphore(self._each), 0))
        self._users[user_id] = semaphore, interested + 1
        try:
            async with semaphore:
                yield
        finally:
            semaphore, interested = self._users.pop(user_id)
            if interested > 1:
                self._users[user_id] = semaphore, interested - 1
