"""What an event log promises, whoever keeps it.

Promises: appends are atomic over all their streams and fenced by an expected version; what is
stored never changes; `read_all` with a `Cursor` shows every event exactly once, each stream in
the order of its versions; appending the same event ids again changes nothing.
Refuses: to order events of different streams. Two transactions that ran at the same time appear
in the order in which they began to write, which need not be the order in which they committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, Self, TypeVar, runtime_checkable
from uuid import UUID

from microtome.contracts.messages import Message
from microtome.errors import ConcurrencyConflict, Conflict, InvalidRequest


@dataclass(frozen=True, slots=True, order=True)
class Cursor:
    """A place in the log: everything up to and including this event was seen.

    Both halves are needed. Positions are handed out before commit, so a reader that remembers
    only the position steps over events that commit late.
    """

    xid: int = 0
    position: int = 0

    def __str__(self) -> str:
        return f"{self.xid}:{self.position}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `xid:position`. Raises `InvalidRequest` when it is anything else."""
        xid, _, position = text.partition(":")
        # int() also takes signs, spaces and underscores; a cursor comes from clients.
        if not (xid.isascii() and xid.isdigit() and position.isascii() and position.isdigit()):
            raise InvalidRequest(f"{text!r} is not a log position; expected xid:position")
        cursor = cls(int(xid), int(position))
        if cursor.xid >= 2**64 or cursor.position >= 2**63:
            raise InvalidRequest(f"{text!r} is not a log position; expected xid:position")
        return cursor


START = Cursor()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """A fact about to be stored. `event_id` makes appending it again harmless."""

    event_id: UUID
    message: Message
    # The user whose fact it is; scopes subjects and queries.
    tenant: str
    # Trace context and the like; never read by a fold.
    meta: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """A fact as the log keeps it. `at` is the database's clock, in UTC."""

    cursor: Cursor
    stream: str
    # 1 for the first event of a stream, without gaps.
    version: int
    event_id: UUID
    tenant: str
    message: Message
    meta: Mapping[str, str]
    at: datetime


@dataclass(frozen=True, slots=True)
class Append:
    """Events for one stream, which must be at `expected_version` (0: does not exist yet)."""

    stream: str
    expected_version: int
    events: tuple[NewEvent, ...]


ConnectionT_contra = TypeVar("ConnectionT_contra", contravariant=True)


class Projection(Protocol[ConnectionT_contra]):
    """A read model that is written in the transaction that appends.

    `apply` may use the event and its cursor and time only: no clock, no randomness, and no row
    that another stream writes, so that a replay gives identical rows.
    """

    async def apply(self, connection: ConnectionT_contra, event: StoredEvent) -> None:
        """Fold one event into the read model; whatever it raises undoes the whole append."""
        ...


@runtime_checkable
class SettlingProjection(Protocol[ConnectionT_contra]):
    """A projection that has more to do once all events of an append are folded in."""

    async def settle(self, connection: ConnectionT_contra, events: Sequence[StoredEvent]) -> None:
        """Bring what follows from the rows in line with them, for the streams of these events."""
        ...


class EventLog(Protocol):
    """The log, as services see it."""

    async def append(self, *appends: Append) -> tuple[StoredEvent, ...]:
        """Store all events of all streams, or none, together with the read models.

        Returns them in the order given. When these very event ids are stored already, returns
        what is stored and writes nothing.
        Raises `ConcurrencyConflict` when a stream is not at its expected version or someone
        else wrote at the same time, `Conflict` when the event ids belong to other facts or an
        invariant of the read models refuses, `Unavailable` when the log cannot be reached (it
        may or may not have stored the events then; append again with the same ids).
        """
        ...

    async def read_stream(self, stream: str, after_version: int = 0) -> tuple[StoredEvent, ...]:
        """Return the events of a stream with a version above `after_version`, in order."""
        ...

    async def read_all(self, after: Cursor = START, limit: int = 1000) -> tuple[StoredEvent, ...]:
        """Return at most `limit` events after the cursor, in log order; none when at the end."""
        ...

    async def count(self, after: Cursor = START, limit: int = 10_000) -> int:
        """Return how many events `read_all` would give after the cursor, counted up to `limit`."""
        ...

    async def wait(self, timeout: float) -> bool:  # noqa: ASYNC109 - the timeout is an outcome, not an error
        """Sleep until something may have been appended, at most `timeout` seconds.

        True when woken. An append since the calling task's previous `wait` wakes at once, so
        that `wait`, `read_all`, `wait` misses nothing. Only a hint: an event can become
        readable without a wake-up, so keep the timeout to a second or two.
        """
        ...


def check_appends(appends: Sequence[Append]) -> None:
    """Refuse what no log could store. Raises `InvalidRequest`."""
    streams = [append.stream for append in appends]
    ids = [event.event_id for append in appends for event in append.events]
    if len(set(streams)) != len(streams):
        raise InvalidRequest("one append per stream")
    if len(set(ids)) != len(ids):
        raise InvalidRequest("event ids must differ")
    if not ids or any(not append.events for append in appends):
        raise InvalidRequest("an append needs at least one event")
    if any(append.expected_version < 0 or not append.stream for append in appends):
        raise InvalidRequest("a stream has a name and a version of at least 0")


def already_stored(appends: Sequence[Append], stored: Mapping[UUID, StoredEvent]) -> tuple[StoredEvent, ...] | None:
    """Return the stored events of a repeated append, in its order; None for a new one.

    `stored` holds those of the appended event ids that the log knows.
    Raises `Conflict` when the ids belong to other facts.
    """
    if not stored:
        return None
    found = []
    for append in appends:
        for event in append.events:
            known = stored.get(event.event_id)
            if known is None or known.stream != append.stream or type(known.message) is not type(event.message):
                raise Conflict(f"event id {event.event_id} belongs to another append")
            found.append(known)
    return tuple(found)


def check_versions(appends: Sequence[Append], current: Mapping[str, int]) -> None:
    """Compare expected versions with the streams' current ones. Raises `ConcurrencyConflict`."""
    for append in appends:
        actual = current.get(append.stream, 0)
        if actual != append.expected_version:
            raise ConcurrencyConflict(
                f"stream {append.stream} is at version {actual}, not {append.expected_version}; read it again"
            )
