"""What live clients are told: one tail of the log and one feed of progress, dealt out to many listeners.

Promises: facts come from the log alone, in its order, each once, whatever the bus loses. The log is read once for all
clients of this process. Memory is bounded: the facts of the last moments are held once for everybody, and a client
that falls behind them reads the log at its own pace; of progress only the latest waits, per job.
Refuses: to wait for anybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import ClassVar

from microtome.bus import subjects
from microtome.bus.bus import Bus
from microtome.bus.message import Message
from microtome.contracts.codec import from_bytes
from microtome.contracts.messages import JobProgress
from microtome.errors import MicrotomeError
from microtome.eventlog.log import START, Cursor
from services.gateway.admission import Overloaded
from services.gateway.facts import Fact, Facts, Interest, Topic

logger = logging.getLogger(__name__)

MAX_FACTS = 4096
MAX_BYTES = 16 << 20
MAX_TOLD_AT_ONCE = 32
_MAX_PROGRESS = 256
_PAGE = 1000
_REMEMBERED = 10_000
_RECONNECT_S = 1.0
# After a wake-up an event may stay unreadable while another transaction ends, and nothing tells of that end.
_SOON_S = 0.01
_WAIT_S = 1.0
# Under load one read gathers what many appended.
_GATHER_S = 0.005

Wait = Callable[[float], Awaitable[bool]]


class TooManyClients(MicrotomeError):
    """You have as many live views open as one user may have; close some."""

    code: ClassVar[str] = "too-many-clients"
    transient: ClassVar[bool] = True


class Place:
    """Room for one client, until it is given back."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release: Callable[[], None] | None = release

    def give_back(self) -> None:
        """Make room for another; again changes nothing."""
        if self._release is not None:
            self._release()
            self._release = None


class Listener:
    """What is held for one client: where it has yet to look, and the latest progress of each job."""

    def __init__(self, interest: Interest) -> None:
        self.interest = interest
        # Number of the oldest fact that may interest it and that it has not been given; None: there is none.
        self.due: int | None = None
        # Something changed that a snapshot shows: facts, or what its pending jobs wait for.
        self.stale = False
        self.moved = False
        self._progress: OrderedDict[str, JobProgress] = OrderedDict()
        self._wake = asyncio.Event()

    def note_fact(self, number: int) -> None:
        """There is something new from this number on."""
        if self.due is None:
            self.due = number
        self.stale = True
        self._wake.set()

    def note_places(self) -> None:
        """What pending jobs wait for may be different."""
        self.moved = True
        self._wake.set()

    def note_progress(self, progress: JobProgress) -> None:
        """A job got further; what waited for it before is forgotten."""
        if self.interest.job_id in (None, progress.job_id):
            self._progress.pop(progress.job_id, None)
            self._progress[progress.job_id] = progress
            if len(self._progress) > _MAX_PROGRESS:
                self._progress.popitem(last=False)
            self._wake.set()

    @property
    def has_progress(self) -> bool:
        """Whether some waits."""
        return bool(self._progress)

    def take_progress(self) -> list[JobProgress]:
        """The latest of each job that was not taken yet."""
        taken = list(self._progress.values())
        self._progress.clear()
        return taken

    async def wait(self) -> None:
        """Sleep until something was noted since the last wait."""
        await self._wake.wait()
        self._wake.clear()


class Hub:
    """Feeds all listeners of this process."""

    def __init__(self, bus: Bus, facts: Facts, wait: Wait, max_clients: int, max_per_user: int = 0) -> None:
        """`wait(seconds)`: sleep until something may have been appended to the log. `max_per_user` 0: no limit."""
        self.facts = facts
        self.max_clients = max_clients
        self._bus = bus
        self._wait = wait
        self._head = START
        self._listeners: dict[Topic, set[Listener]] = {}
        self._max_per_user = max_per_user
        # By what they say who they are, before it is looked at.
        self._clients: Counter[str] = Counter()
        self._recent: list[Fact] = []
        self._oldest = 0
        self._bytes = 0
        # The newest attempt heard of, per job: what an older one still says is not told.
        self._attempts: OrderedDict[str, int] = OrderedDict()
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = asyncio.Event()

    async def start(self) -> None:
        """Begin to listen at the end of the log. Raises `Unavailable`."""
        self._head = await self.facts.head()
        self._tasks = [asyncio.create_task(self._tail()), asyncio.create_task(self._follow_progress())]

    async def stop(self) -> None:
        """End the subscriptions."""
        self.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Let all clients go, so that they connect elsewhere."""
        self._closing.set()

    async def closed(self) -> None:
        """Wait until `close`."""
        await self._closing.wait()

    @property
    def head(self) -> Cursor:
        """Everything up to here was dealt out."""
        return self._head

    @property
    def clients(self) -> int:
        """How many are connected."""
        return self._clients.total()

    def admit(self, user: str) -> Place:
        """Room for one more client. Raises `Overloaded`, `TooManyClients`."""
        if self.clients >= self.max_clients:
            raise Overloaded(f"{self.clients} live clients are connected, as many as this process takes.")
        if self._max_per_user and self._clients[user] >= self._max_per_user:
            raise TooManyClients(f"You have {self._clients[user]} live views open, as many as one user may have.")
        self._clients[user] += 1
        return Place(partial(self._release, user))

    def _release(self, user: str) -> None:
        self._clients[user] -= 1
        if not self._clients[user]:
            del self._clients[user]

    def join(self, listener: Listener) -> None:
        """Feed this listener from now on."""
        self._listeners.setdefault(listener.interest.topic, set()).add(listener)

    def leave(self, listener: Listener) -> None:
        """Feed it no more."""
        topic = listener.interest.topic
        listening = self._listeners[topic]
        listening.remove(listener)
        if not listening:
            del self._listeners[topic]

    def due(self, listener: Listener) -> list[Fact] | None:
        """The next facts, a few at a time, other people's among them; None when it fell behind and must read the log.

        The first of them interests the listener; of the others `Interest.covers` knows.
        """
        if listener.due is None:
            return []
        if listener.due < self._oldest:
            return None
        start = listener.due - self._oldest
        end = min(start + MAX_TOLD_AT_ONCE, len(self._recent))
        listener.due = self._oldest + end if end < len(self._recent) else None
        return self._recent[start:end]

    def places_changed(self) -> None:
        """Somewhere a job started or a seat changed hands: what pending jobs wait for may be different."""
        for listening in self._listeners.values():
            for listener in listening:
                listener.note_places()

    async def _tail(self) -> None:
        pause = _SOON_S
        while True:
            try:
                if await self._read():
                    pause = _SOON_S
                    await asyncio.sleep(_GATHER_S)
                elif await self._wait(pause):
                    pause = _SOON_S
                else:
                    pause = min(2 * pause, _WAIT_S)
            except MicrotomeError as error:
                logger.warning("no live facts for now: %s", error.detail)
                await asyncio.sleep(_RECONNECT_S)
            except Exception:
                logger.exception("no live facts for now")
                await asyncio.sleep(_RECONNECT_S)

    async def _read(self) -> bool:
        head, count, found = await self.facts.page(self._head, _PAGE, self._listeners.__contains__)
        for topics, fact in found:
            self._deal(topics, fact)
        self._head = head
        return count > 0

    def _deal(self, topics: Iterable[Topic], fact: Fact) -> None:
        number = self._oldest + len(self._recent)
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.note_fact(number)
        self._recent.append(fact)
        self._bytes += len(fact.message)
        if len(self._recent) > MAX_FACTS or self._bytes > MAX_BYTES:
            # A quarter at a time, so that forgetting costs next to nothing per fact.
            forgotten = max(1, len(self._recent) // 4)
            self._bytes -= sum(len(old.message) for old in self._recent[:forgotten])
            del self._recent[:forgotten]
            self._oldest += forgotten

    async def _follow_progress(self) -> None:
        while True:
            try:
                async with await self._bus.listen(subjects.PROGRESS) as subscription:
                    async for message in subscription:
                        try:
                            self._on_progress(message)
                        except MicrotomeError:
                            logger.warning("a message on %s cannot be read", message.subject, exc_info=True)
                        except Exception:
                            logger.exception("a message on %s cannot be dealt out", message.subject)
            except MicrotomeError as error:
                logger.warning("no live progress for now: %s", error.detail)
            except Exception:
                logger.exception("no live progress for now")
            await asyncio.sleep(_RECONNECT_S)

    def _on_progress(self, message: Message) -> None:
        progress = from_bytes(JobProgress, message.payload)
        if self._attempts.get(progress.job_id, 0) > progress.attempt:
            return
        self._attempts[progress.job_id] = progress.attempt
        self._attempts.move_to_end(progress.job_id)
        if len(self._attempts) > _REMEMBERED:
            self._attempts.popitem(last=False)
        _, user_id, workflow_id, _ = message.subject.split(".")
        topics: tuple[Topic, ...] = (("workflow", workflow_id), ("user", user_id))
        for topic in topics:
            for listener in self._listeners.get(topic, ()):
                listener.note_progress(progress)
