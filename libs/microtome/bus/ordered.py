"""Reading a stream in order.

Promises: every message from the start position on, once and in order, across restarts of the
server; after a wipe (the stream was created anew) it starts over with what the new stream holds.
Refuses: to run ahead of its reader: it asks for more when the last batch was taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from datetime import datetime

import nats.errors
from nats.aio.client import Client
from nats.js import api
from nats.js.errors import NotFoundError

from microtome.bus.message import Subscription
from microtome.bus.pull import ConsumerGone, PullInbox
from microtome.errors import Unavailable

log = logging.getLogger(__name__)

_BATCH = 256
_WAIT_S = 5.0
_PAUSE_S = 0.25
_FORGET_CONSUMER_S = 60.0


class OrderedReader:
    """Feeds one `Subscription` from one stream through consumers that it replaces as needed."""

    def __init__(self, client: Client, stream: str, pattern: str, opened: Callable[[PullInbox], None]) -> None:
        self._client = client
        self._js = client.jetstream()
        self._stream = stream
        self._pattern = pattern
        self._opened = opened
        self._next_sequence = 1
        self._created: datetime | None = None
        self._inbox: PullInbox | None = None
        self._consumer_sequence = 0
        self._closed = False
        self._task: asyncio.Task[None] | None = None
        self.subscription = Subscription(self._close)

    async def start(self, *, from_now: bool) -> Subscription:
        """Fix the start position and begin to read. Raises: Unavailable."""
        await self._open(from_now=from_now)
        self._task = asyncio.create_task(self._run(), name=f"reader {self._stream} {self._pattern}")
        return self.subscription

    async def _close(self) -> None:
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._inbox is not None:
            await self._inbox.close()

    async def _run(self) -> None:
        while not self._closed:
            try:
                if self._inbox is None:
                    await self._open()
                await self._read_batch()
                await self.subscription.drained()
            except ConsumerGone:
                await self._drop()
                await asyncio.sleep(_PAUSE_S)
            except Unavailable as error:
                log.info("reading %s pauses: %s", self._stream, error)
                await asyncio.sleep(_PAUSE_S)
            except Exception:
                # Whatever it is, a reader that ends here would leave its subscriber waiting for ever.
                log.exception("reading %s went wrong; it goes on at message %d", self._stream, self._next_sequence)
                with contextlib.suppress(Exception):
                    await self._drop()
                await asyncio.sleep(_PAUSE_S)

    async def _read_batch(self) -> None:
        assert self._inbox is not None
        for delivery in await self._inbox.pull(_BATCH, _WAIT_S):
            if delivery.consumer_sequence != self._consumer_sequence + 1:
                await self._drop()  # something was lost on the way: read again from the last one
                return
            self._consumer_sequence = delivery.consumer_sequence
            self._next_sequence = delivery.message.sequence + 1
            self.subscription.put(delivery.message)

    async def _drop(self) -> None:
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            await inbox.close()

    async def _open(self, *, from_now: bool = False) -> None:
        try:
            stream = await self._js.stream_info(self._stream)
            if from_now:
                self._next_sequence = stream.state.last_seq + 1
            elif self._created is not None and stream.created != self._created:
                self._next_sequence = 1
            self._created = stream.created
            consumer = await self._js.add_consumer(
                self._stream,
                api.ConsumerConfig(
                    deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self._next_sequence,
                    ack_policy=api.AckPolicy.NONE,
                    filter_subject=self._pattern,
                    mem_storage=True,
                    num_replicas=1,
                    inactive_threshold=_FORGET_CONSUMER_S,
                ),
            )
        except NotFoundError as error:
            raise Unavailable(f"The stream {self._stream} does not exist: {error}.") from error
        except nats.errors.Error as error:
            raise Unavailable(f"The stream {self._stream} cannot be read: {error!r}.") from error
        self._consumer_sequence = 0
        self._inbox = PullInbox(self._client, self._stream, consumer.name, float("inf"))
        self._opened(self._inbox)
