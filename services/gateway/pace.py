"""Clients that stop in the middle.

Promises: whoever sends nothing for a while is let go, so that a dead connection holds neither a lock nor a file.
Refuses: to hurry the slow; every byte begins the wait anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import ClassVar

from microtome.errors import MicrotomeError


class Stalled(MicrotomeError):
    """The body of the request stopped coming; send it again, or continue it."""

    code: ClassVar[str] = "request-timeout"
    transient: ClassVar[bool] = True


async def paced(stream: AsyncIterator[bytes], seconds: float) -> AsyncIterator[bytes]:
    """The same pieces. Raises `Stalled` when none comes for `seconds`, and whatever the stream raises."""
    while True:
        try:
            async with asyncio.timeout(seconds):
                piece = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError as error:
            raise Stalled(f"Nothing came for {seconds:g} seconds.") from error
        yield piece
