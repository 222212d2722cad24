"""Headers: what a message says about itself beside its payload.

Promises: CloudEvents attributes as `ce-*`, the message id as `Nats-Msg-Id` (the server drops a
second message of the same id), the W3C trace context as `traceparent`, the log position as
`microtome-cursor`. Values are single-line ASCII whatever was put in.
Refuses: header names that NATS cannot carry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from opentelemetry import propagate
from opentelemetry.context import Context

from microtome.errors import InvalidRequest

MESSAGE_ID = "Nats-Msg-Id"
# Store it only if the newest message of the stream has this id. A message whose own id is known is a duplicate first.
AFTER = "Nats-Expected-Last-Msg-Id"
CURSOR = "microtome-cursor"
ERROR_CODE = "microtome-error-code"
ERROR_DETAIL = "microtome-error-detail"
DELIVERIES = "microtome-deliveries"
ORIGIN = "microtome-origin-subject"
ORIGIN_ID = "microtome-origin-id"

_NAME = re.compile(r"[A-Za-z0-9-]+")
_VALUE_LIMIT = 1000


def clean(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy that NATS can carry: single-line ASCII values of at most 1,000 characters.

    Raises: InvalidRequest for a name that is not letters, digits and dashes.
    """
    cleaned = {}
    for name, value in headers.items():
        if not _NAME.fullmatch(name):
            raise InvalidRequest(f"{name!r} cannot be the name of a header.")
        line = " ".join(value.split()) if not value.isprintable() else value.strip()
        cleaned[name] = line.encode("ascii", "backslashreplace").decode()[:_VALUE_LIMIT]
    return cleaned


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEvent:
    """The CloudEvents 1.0 attributes of a message; `cursor` is its place in the log, if it has one."""

    id: str
    type: str
    source: str
    subject: str
    time: datetime
    cursor: tuple[int, int] | None = None

    def to_headers(self) -> dict[str, str]:
        """Return the attributes as headers, `Nats-Msg-Id` included."""
        headers = {
            MESSAGE_ID: self.id,
            "ce-specversion": "1.0",
            "ce-id": self.id,
            "ce-type": self.type,
            "ce-source": self.source,
            "ce-subject": self.subject,
            "ce-time": self.time.astimezone(UTC).isoformat().replace("+00:00", "Z"),
        }
        if self.cursor is not None:
            headers[CURSOR] = format_cursor(*self.cursor)
        return headers

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> CloudEvent:
        """Return the attributes that `to_headers` wrote. Raises: InvalidRequest if some are missing."""
        try:
            return cls(
                id=headers["ce-id"],
                type=headers["ce-type"],
                source=headers["ce-source"],
                subject=headers["ce-subject"],
                time=datetime.fromisoformat(headers["ce-time"]),
                cursor=parse_cursor(headers[CURSOR]) if CURSOR in headers else None,
            )
        except (KeyError, ValueError) as error:
            raise InvalidRequest(f"The message has no valid CloudEvents headers: {error}.") from error


def format_cursor(xid: int, position: int) -> str:
    """Return `xid:position`."""
    return f"{xid}:{position}"


def parse_cursor(text: str) -> tuple[int, int]:
    """Return (xid, position). Raises: InvalidRequest."""
    xid, separator, position = text.partition(":")
    if not (separator and xid.isdecimal() and position.isdecimal()):
        raise InvalidRequest(f"{text[:80]!r} is not a position in the log (xid:position).")
    return int(xid), int(position)


def with_trace(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy that also carries the current trace context, unless the headers already carry one."""
    carrier = dict(headers)
    if "traceparent" not in carrier:
        propagate.inject(carrier)
    return carrier


def trace_context(headers: Mapping[str, str]) -> Context:
    """Return the trace context that the headers carry; an empty one if they carry none."""
    return propagate.extract(dict(headers))
