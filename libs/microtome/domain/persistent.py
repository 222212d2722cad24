"""Immutable containers whose next version costs little, however large they are.

Promises: a new version leaves the old one as it was and shares most of it; iteration order depends on the history
alone, not on the process (Python's own hash of a text does).
Refuses: to be general; keys are texts.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, ValuesView
from itertools import chain
from typing import Generic, TypeVar
from zlib import crc32

V = TypeVar("V")
_SHARDS = 256
_CHUNK = 32


class PersistentMap(Mapping[str, V], Generic[V]):
    """A mapping of which a change copies one of 256 shards. Order means nothing."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("_shards", "_size")

    def __init__(self, shards: tuple[dict[str, V], ...] | None = None, size: int = 0) -> None:
        self._shards: tuple[dict[str, V], ...] = shards if shards is not None else ({},) * _SHARDS
        self._size = size

    @classmethod
    def of(cls, items: Iterable[tuple[str, V]]) -> PersistentMap[V]:
        """Return the map of `items`, keys with their values; at once, not one version after the other."""
        shards: list[dict[str, V]] = [{} for _ in range(_SHARDS)]
        for key, value in items:
            shards[crc32(key.encode()) % _SHARDS][key] = value
        return cls(tuple(shards), sum(map(len, shards)))

    def __getitem__(self, key: str) -> V:
        return self._shards[crc32(key.encode()) % _SHARDS][key]

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            if shard:
                yield from shard

    def __len__(self) -> int:
        return self._size

    def values(self) -> ValuesView[V]:
        """Return the values in the order of the keys."""
        return _ShardValues(self)

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

    def each_value(self) -> Iterator[V]:
        """Yield the values, without looking up any key."""
        for shard in self._shards:
            if shard:
                yield from shard.values()


class _ShardValues(ValuesView[V]):
    __slots__ = ()
    _mapping: PersistentMap[V]

    def __iter__(self) -> Iterator[V]:
        return self._mapping.each_value()


class Table(Mapping[str, V], Generic[V]):
    """A mapping in the order in which its keys came; none ever goes. A change copies 32 values, not all."""

    __hash__ = None  # type: ignore[assignment]
    __slots__ = ("_chunks", "_places")

    def __init__(self, items: Iterable[tuple[str, V]] = ()) -> None:
        """`items`: keys, each once, with their values."""
        pairs = list(items)
        self._places = {key: place for place, (key, _) in enumerate(pairs)}
        values = [value for _, value in pairs]
        self._chunks = tuple(tuple(values[start : start + _CHUNK]) for start in range(0, len(values), _CHUNK))

    def __getitem__(self, key: str) -> V:
        place = self._places[key]
        return self._chunks[place // _CHUNK][place % _CHUNK]

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def values(self) -> ValuesView[V]:
        """Return the values in the order of the keys."""
        return _TableValues(self)

    def items(self) -> ItemsView[str, V]:
        """Return keys and values in their order."""
        return _TableItems(self)

    def set(self, key: str, value: V) -> Table[V]:
        """Return the version in which the known `key` has `value`; raises KeyError for a new one."""
        place = self._places[key]
        number, within = divmod(place, _CHUNK)
        chunks, chunk = self._chunks, self._chunks[number]
        following: Table[V] = Table.__new__(Table)
        following._places = self._places
        following._chunks = (
            *chunks[:number],
            (*chunk[:within], value, *chunk[within + 1 :]),
            *chunks[number + 1 :],
        )
        return following

    def extended(self, items: Iterable[tuple[str, V]]) -> Table[V]:
        """Return the version with new keys and their values at the end."""
        return Table(chain(self.items(), items))

    def each_value(self) -> Iterator[V]:
        """Yield the values, without looking up any key."""
        return chain.from_iterable(self._chunks)


class _TableValues(ValuesView[V]):
    __slots__ = ()
    _mapping: Table[V]

    def __iter__(self) -> Iterator[V]:
        return self._mapping.each_value()


class _TableItems(ItemsView[str, V]):
    __slots__ = ()
    _mapping: Table[V]

    def __iter__(self) -> Iterator[tuple[str, V]]:
        return zip(self._mapping, self._mapping.each_value(), strict=True)
