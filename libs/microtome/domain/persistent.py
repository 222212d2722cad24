"""An immutable map from text to values whose next version costs little, however large it is.

Promises: `set` and `drop` leave the old version as it was and copy one of 256 shards; iteration order depends on the
history alone, not on the process (Python's own hash of a text does).
Refuses: to be a general container; keys are texts, and order means nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar
from zlib import crc32

V = TypeVar("V")
_SHARDS = 256


class PersistentMap(Mapping[str, V], Generic[V]):
    """A mapping that is never changed, only followed by its next version."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("_shards", "_size")

    def __init__(self, shards: tuple[dict[str, V], ...] | None = None, size: int = 0) -> None:
        self._shards: tuple[dict[str, V], ...] = shards if shards is not None else ({},) * _SHARDS
        self._size = size

    def __getitem__(self, key: str) -> V:
        return self._shards[crc32(key.encode()) % _SHARDS][key]

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._size

    def set(self, key: str, value: V) -> PersistentMap[V]:
        """Return the version in which `key` has `value`."""
        place = crc32(key.encode()) % _SHARDS
        old = self._shards[place]
        return PersistentMap(self._with(place, {**old, key: value}), self._size + (key not in old))

    def drop(self, key: str) -> PersistentMap[V]:
        """Return the version without `key`."""
        place = crc32(key.encode()) % _SHARDS
        old = self._shards[place]
        if key not in old:
            return self
        return PersistentMap(self._with(place, {k: v for k, v in old.items() if k != key}), self._size - 1)

    def _with(self, place: int, shard: dict[str, V]) -> tuple[dict[str, V], ...]:
        return (*self._shards[:place], shard, *self._shards[place + 1 :])
