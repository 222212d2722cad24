"""Threads in which the past is folded.

Promises: a long history holds up no other request; two are folded at a time. Refuses, with `Busy`: to let a long line
form, because whoever stands in it holds a history in memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from microtome.errors import Busy

T = TypeVar("T")

AT_ONCE = 2
IN_LINE = 16


class Past:
    """Room for a few who look back."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="past")
        self._there = 0

    async def close(self) -> None:
        """Let nobody begin any more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def told(self, tell: Callable[[], T]) -> T:
        """What `tell` returns, in a thread. Raises `Busy`, and what `tell` raises."""
        if self._there >= AT_ONCE + IN_LINE:
            raise Busy("Many look back at long histories at the moment.")
        self._there += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, tell)
        finally:
            self._there -= 1
