"""Old events in today's shape.

Promises: an event is stored once, in the shape of its day, and read in the shape of today; the
way between is a chain of pure functions `dict -> dict`, one per (type, schema version).
Refuses: to guess. An event from a newer program than this one is an error, not a default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from microtome.errors import ConfigurationError

Data = dict[str, Any]
Upcast = Callable[[Data], Data]


class Upcasters:
    """The known changes of event types.

    `changes[(type, n)]` turns the canonical JSON of schema version n into that of n + 1.
    A type without changes is at schema version 1.
    """

    def __init__(self, changes: Mapping[tuple[str, int], Upcast] | None = None) -> None:
        self._changes = dict(changes or {})
        self._current: dict[str, int] = {}
        for name, version in self._changes:
            self._current[name] = max(self._current.get(name, 1), version + 1)
        for name, current in self._current.items():
            missing = [n for n in range(1, current) if (name, n) not in self._changes]
            if missing:
                raise ConfigurationError(f"{name} has no upcast from schema version {missing[0]}")

    def current(self, name: str) -> int:
        """Return the schema version in which events of this type are written today."""
        return self._current.get(name, 1)

    def upcast(self, name: str, schema_version: int, data: Data) -> Data:
        """Return the data in today's shape; the argument is left as it is.

        Raises `ConfigurationError` when the event was written by a newer program.
        """
        current = self.current(name)
        if not 1 <= schema_version <= current:
            raise ConfigurationError(
                f"{name} has schema version {schema_version}, this program knows up to {current}; upgrade it"
            )
        for version in range(schema_version, current):
            data = self._changes[name, version](dict(data))
        return data


# The changes since the first release: none yet.
UPCASTERS = Upcasters()
