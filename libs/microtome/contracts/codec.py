"""Messages to and from what the log stores (canonical JSON) and what the bus carries (binary protobuf).

Promises: reading what was written gives an equal message; fields that the contract does not know are tolerated when
reading and dropped; an enum value that it does not know reads as UNSPECIFIED.
Refuses, with InvalidRequest: bytes or JSON that are no such message, values of the wrong type or out of range, and
naive datetimes.
"""

# Any is the honest type of a field's value and of protobuf's untyped messages.
# ruff: noqa: ANN401
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError

from microtome.contracts.canonical import read_message, write_message
from microtome.contracts.messages import ALL, Message
from microtome.contracts.schema import dataclass_of, descriptor, enum_of, is_time, once_per_class, protobuf_class
from microtome.errors import InvalidRequest

M = TypeVar("M", bound=Message)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BY_NAME = {cls.__name__: cls for cls in ALL}


def type_name(message: Message) -> str:
    """Return the short name of a message's type, such as `JobStarted`."""
    return type(message).__name__


def message_type(name: str) -> type[Message]:
    """Return the class for a short name; raises InvalidRequest for a name outside the contract."""
    try:
        return _BY_NAME[name]
    except KeyError:
        raise InvalidRequest(f"The contract has no message type {name!r}.") from None


def to_json(message: Message) -> dict[str, Any]:
    """Return canonical protobuf JSON: lowerCamelCase, defaults left out, int64 as text, enums by name."""
    return write_message(message)


def from_json(cls: type[M], data: Mapping[str, Any]) -> M:
    """Return the message of type `cls` that the JSON object says; raises InvalidRequest."""
    return read_message(cls, data)


def to_bytes(message: Message) -> bytes:
    """Return the binary encoding, the same bytes for equal messages; raises InvalidRequest."""
    try:
        return bytes(_to_protobuf(message).SerializeToString(deterministic=True))
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"{type_name(message)}: {error}") from error


def from_bytes(cls: type[M], data: bytes) -> M:
    """Return the message of type `cls` that the bytes say; raises InvalidRequest."""
    try:
        return _from_protobuf(cls, protobuf_class(cls).FromString(data))
    except (DecodeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"These {len(data)} bytes are no {cls.__name__}: {error}") from error


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    repeated: bool
    presence: bool
    pack: Callable[[Any], Any]
    unpack: Callable[[Any], Any]


def _pack_time(at: datetime) -> Any:
    if at.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    since = at - _EPOCH
    return {"seconds": since.days * 86_400 + since.seconds, "nanos": since.microseconds * 1000}


def _unpack_time(stamp: Any) -> datetime:
    return _EPOCH + timedelta(seconds=stamp.seconds, microseconds=stamp.nanos // 1000)


def _same(value: Any) -> Any:
    return value


def _conversion(field: FieldDescriptor) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if is_time(field):
            return _pack_time, _unpack_time
        cls = dataclass_of(field)
        return _to_protobuf, lambda value: _from_protobuf(cls, value)
    if field.type == FieldDescriptor.TYPE_ENUM:
        enum, names = enum_of(field)
        return int, lambda value: enum(value if value in names else 0)
    return _same, _same


@once_per_class
def _fields(cls: type[Message]) -> tuple[_Field, ...]:
    return tuple(
        _Field(field.name, field.is_repeated, field.has_presence, *_conversion(field))
        for field in descriptor(cls).fields
    )


def _to_protobuf(message: Message) -> Any:
    values: dict[str, Any] = {}
    for field in _fields(type(message)):
        value = getattr(message, field.name)
        if value is not None:
            values[field.name] = [field.pack(each) for each in value] if field.repeated else field.pack(value)
    return protobuf_class(type(message))(**values)


def _from_protobuf(cls: type[M], packed: Any) -> M:
    values: dict[str, Any] = {}
    for field in _fields(cls):
        if field.presence and not packed.HasField(field.name):
            continue
        value = getattr(packed, field.name)
        values[field.name] = tuple([field.unpack(each) for each in value]) if field.repeated else field.unpack(value)
    return cls(**values)
