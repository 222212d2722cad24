"""The bus as the services see it.

Promises: `publish` reaches a stream or raises; `announce` may be lost; `consume` and `queue`
deliver at least once. Two implementations keep the same contract tests: `JetStreamBus` (the
real one) and `MemoryBus` (for tests of what stands on the bus).
Refuses: to be the truth. Whatever it forgets, the log knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from microtome.bus.message import Published, Subscription
from microtome.bus.queue import OnDead, PullQueue
from microtome.bus.topology import QueueSpec, StreamSpec
from microtome.bus.worker import Handler, Worker

Deliver = Literal["new", "all"]

PUBLISH_DEADLINE_S = 30.0
ANNOUNCEMENT_BUFFER = 1024


class Bus(Protocol):
    """One connection to the bus."""

    @property
    def reconnections(self) -> int:
        """How often the server came back. It may have forgotten what it had acknowledged: all of it, or the newest."""

    async def publish(
        self,
        subject: str,
        payload: bytes,
        *,
        message_id: str,
        headers: Mapping[str, str] | None = None,
        deadline_s: float = PUBLISH_DEADLINE_S,
    ) -> Published:
        """Put a message into the stream of `subject`; try until it is acknowledged.

        A second message of the same `message_id` within two minutes is not stored.
        The current trace context travels along unless `headers` carry one.
        Raises: Unavailable after `deadline_s` seconds; TooLarge; InvalidRequest.
        """

    async def announce(self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None) -> None:
        """Tell whoever listens now; lost if nobody does, or if the server is away."""

    async def listen(self, pattern: str, *, buffer: int = ANNOUNCEMENT_BUFFER) -> Subscription:
        """Return announcements from now on. A slow reader loses the oldest. Raises: Unavailable."""

    async def subscribe_events(self, pattern: str, *, deliver: Deliver = "new") -> Subscription:
        """Return messages of EVENTS in order: all that are kept, or those published after this call returns.

        After an outage it goes on where it was; after a wipe of the server it starts over.
        Raises: Unavailable.
        """

    async def dead_letters(self, queue: str | None = None, *, deliver: Deliver = "all") -> Subscription:
        """Return messages of DEAD_LETTERS, of one queue if asked, in order. Raises: Unavailable."""

    async def queue(self, spec: QueueSpec, *, on_dead: OnDead | None = None) -> PullQueue:
        """Return a handle that fetches from a queue, which is created if it does not exist; close it.

        `on_dead` hears of messages that were delivered too often. Raises: Unavailable, ConfigurationError.
        """

    async def consume(
        self,
        spec: QueueSpec,
        handler: Handler,
        *,
        concurrency: int,
        on_dead: OnDead | None = None,
    ) -> Worker:
        """Start a worker on a queue; stop it. Raises: Unavailable, ConfigurationError."""

    async def depth(self, spec: QueueSpec) -> int:
        """Return how many messages of a queue are not settled yet, waiting or held. Raises: Unavailable."""

    async def stored(self, stream: StreamSpec) -> int:
        """Return how many messages a stream has; a work queue's are those not settled, of all its queues, also of those
        that nobody asks for. Raises: Unavailable.
        """

    async def close(self) -> None:
        """End the connection. What queues still hold comes again after their waiting time."""
