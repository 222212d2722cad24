"""Messages as the bus hands them over, and the stream of them that a reader iterates.

Promises: a `Message` never changes; a `Subscription` ends its iteration when it is closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from microtome.bus import headers as header_names

_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """What was published. `sequence` is its place in its stream, 0 for announcements."""

    subject: str
    payload: bytes
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    sequence: int = 0

    @property
    def message_id(self) -> str:
        """The id under which it was published; empty for announcements."""
        return self.headers.get(header_names.MESSAGE_ID, "")


@dataclass(frozen=True, slots=True)
class Published:
    """The server's acknowledgement. `duplicate`: the id was known, nothing was stored anew."""

    stream: str
    sequence: int
    duplicate: bool


class Subscription:
    """Messages one after the other: `async for message in subscription`.

    `buffer` bounds what waits here; beyond it the oldest is dropped and counted in `dropped`
    (0 means no bound, for sources that hold themselves back).
    """

    def __init__(self, close: Callable[[], Awaitable[None]], *, buffer: int = 0) -> None:
        self._close = close
        self._messages: deque[Message] = deque()
        self._buffer = buffer
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._closed = False
        self.dropped = 0

    def put(self, message: Message) -> None:
        """Add a message; for the adapter that feeds this subscription."""
        if self._buffer and len(self._messages) >= self._buffer:
            self._messages.popleft()
            self.dropped += 1
        self._messages.append(message)
        self._arrived.set()

    async def drained(self) -> None:
        """Return when every message was taken; for adapters that hold themselves back."""
        while self._messages and not self._closed:
            self._taken.clear()
            await self._taken.wait()

    def __aiter__(self) -> AsyncIterator[Message]:
        return self

    async def __anext__(self) -> Message:
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._arrived.clear()
            await self._arrived.wait()
        message = self._messages.popleft()
        self._taken.set()
        return message

    async def aclose(self) -> None:
        """End the subscription; what has arrived can still be read. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._arrived.set()
        self._taken.set()
        await self._close()

    async def __aenter__(self) -> Subscription:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
