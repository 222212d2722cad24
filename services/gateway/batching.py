"""Many questions at once, asked as one.

Promises: an answer is never older than its question: it comes from a batch that was sent after the question was
asked, so that whoever wrote before asking reads what was written. One batch is under way at a time; what is asked
meanwhile goes into the next one. Refuses: to remember answers, and to let one batch grow without bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

KeyT = TypeVar("KeyT")
AnswerT = TypeVar("AnswerT")

LARGEST = 500


class Batches(Generic[KeyT, AnswerT]):
    """Questions by key. Keys that the batch does not answer are answered with None."""

    def __init__(self, fetch: Callable[[Sequence[KeyT]], Awaitable[Mapping[KeyT, AnswerT]]]) -> None:
        self._fetch = fetch
        self._waiting: dict[KeyT, asyncio.Future[AnswerT | None]] = {}
        self._running: asyncio.Task[None] | None = None

    async def ask(self, key: KeyT) -> AnswerT | None:
        """The newest answer for `key`. Raises what the fetch raises."""
        future = self._waiting.get(key)
        if future is None:
            future = self._waiting[key] = asyncio.get_running_loop().create_future()
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name="batched questions")
        # Shielded: somebody else may wait for the same answer.
        return await asyncio.shield(future)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = {key: self._waiting.pop(key) for key in list(self._waiting)[:LARGEST]}
                try:
                    answers = await self._fetch(list(batch))
                except Exception as error:  # noqa: BLE001 - whoever asked hears of it
                    for future in batch.values():
                        future.set_exception(error)
                        # All who asked may be gone.
                        future.exception()
                except BaseException:
                    for future in batch.values():
                        future.cancel()
                    raise
                else:
                    for key, future in batch.items():
                        future.set_result(answers.get(key))
        finally:
            self._running = None
