"""A moment of the log, as people name it: a place, a position, a time, or some time ago.

Promises: the events up to a moment are complete histories of their streams, whatever moment it is.
Refuses, with InvalidRequest: anything that names no moment.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from microtome.errors import InvalidRequest
from microtome.eventlog.log import Cursor, StoredEvent

FORMS = "xid:position, a position, a time (2026-11-22T10:15:00Z), a duration ago (90s, 10m, 2h, 3d), start or now"

_AGO = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
# A transaction has its number before it writes its events, but never for longer than the server lets it idle.
_DISORDER = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Moment:
    """Up to where one looks: a cursor, a bare position, a time, or (with none of them) the end of the log.

    A position is the second half of a cursor. Events are numbered in the order in which they were written, which is
    not quite the order of the log; the events up to a position are those with no higher number.
    """

    cursor: Cursor | None = None
    position: int | None = None
    time: datetime | None = None

    @classmethod
    def parse(cls, text: str, now: datetime | None = None) -> Moment:
        """Read one of `FORMS`; a time without a zone is UTC. Raises `InvalidRequest`."""
        text = text.strip()
        if text == "now":
            return NOW
        if text == "start":
            return cls(cursor=Cursor())
        if text.isascii() and text.isdigit():
            return cls(position=Cursor.parse(f"0:{text}").position)
        if ago := _AGO.fullmatch(text):
            try:
                return cls(time=(now or datetime.now(UTC)) - timedelta(**{_UNITS[ago[2]]: float(ago[1])}))
            except OverflowError:
                raise InvalidRequest(f"{text!r} ago is before all time.") from None
        if re.fullmatch(r"\d+:\d+", text):
            return cls(cursor=Cursor.parse(text))
        return cls(time=_time(text))

    @property
    def is_end(self) -> bool:
        """Whether it means everything there is."""
        return self.cursor is None and self.position is None and self.time is None

    def includes(self, event: StoredEvent) -> bool:
        """Whether the event had happened by then."""
        if self.cursor is not None:
            return event.cursor <= self.cursor
        if self.position is not None:
            return event.cursor.position <= self.position
        return self.time is None or event.at <= self.time

    def over(self, event: StoredEvent) -> bool:
        """Whether no event from this one on can have happened by then."""
        if self.cursor is not None:
            return event.cursor > self.cursor
        # Positions and times run ahead of the order of the log by what one transaction takes at most.
        return self.time is not None and event.at > self.time + _DISORDER

    def __str__(self) -> str:
        if self.cursor is not None:
            return str(self.cursor)
        if self.position is not None:
            return f"position {self.position}"
        return "now" if self.time is None else f"{self.time:%Y-%m-%d %H:%M:%S} UTC"


NOW = Moment()


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"{text!r} is no moment; give {FORMS}.") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


@dataclass(slots=True)
class Window:
    """Lets pass what had happened by a moment. Feed it the log in order.

    Once an event of a stream came too late, all later ones of that stream are too late as well, even if the clock of
    the database was set back between them.
    """

    moment: Moment
    _closed: set[str] = field(default_factory=set)

    def admits(self, event: StoredEvent) -> bool:
        """Whether the event had happened by the moment."""
        if event.stream not in self._closed and self.moment.includes(event):
            return True
        self._closed.add(event.stream)
        return False
