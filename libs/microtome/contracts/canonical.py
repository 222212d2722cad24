"""Canonical protobuf JSON, mapped straight between dataclasses and dicts.

Promises: what `google.protobuf.json_format` says (tests hold the two against each other), several times faster: what
is usual is read and written by code compiled for its class (`compiled`), the rest by converters chosen once per class.
Members that the contract does not know are ignored when reading, so that an old process reads what a newer one wrote.
Refuses: values of the wrong type or out of range, in both directions, with InvalidRequest naming the field.
"""

# Any is the honest type of a JSON value before it is read.
# ruff: noqa: ANN401
from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import index
from typing import Any, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor

from microtome.contracts.compiled import Compiler, Unusual
from microtome.contracts.messages import Message
from microtome.contracts.schema import dataclass_of, descriptor, enum_of, is_time, once_per_class
from microtome.errors import InvalidRequest

M = TypeVar("M", bound=Message)
Convert = Callable[[Any], Any]
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    json_name: str
    read: Convert
    write: Convert
    repeated: bool
    always: bool  # A field with presence is written even when it has its default value.


def _integer(bits: int) -> tuple[Convert, Convert]:
    low, high = -(1 << bits - 1), (1 << bits - 1) - 1

    def read(value: Any) -> int:
        if isinstance(value, bool):
            raise TypeError("a number is needed, not a truth value")
        if isinstance(value, str | float):
            exact = int(value) if isinstance(value, str) else int(value) if value.is_integer() else None
            if exact is None:
                raise ValueError(f"{value} is not an integer")
            value = exact
        number = int(index(value))
        if not low <= number <= high:
            raise ValueError(f"{number} does not fit in {bits} bits")
        return number

    def write(value: Any) -> int:
        number = int(index(value))
        if not low <= number <= high:
            raise ValueError(f"{number} does not fit in {bits} bits")
        return number

    return read, (write if bits == 32 else lambda value: str(write(value)))


def _read_double(value: Any) -> float:
    if isinstance(value, float):
        return value
    if isinstance(value, bool):
        raise TypeError("a number is needed, not a truth value")
    if isinstance(value, str) and value in _NON_FINITE:
        return _NON_FINITE[value]
    return float(value)


def _write_double(value: Any) -> float | str:
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("a text is needed")
    if not value.isascii():
        value.encode()  # A lone surrogate has no UTF-8 and would only fail later, on the bus.
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("true or false is needed")
    return value


def _read_bytes(value: Any) -> bytes:
    text = _text(value).replace("-", "+").replace("_", "/")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _write_bytes(value: Any) -> str:
    return base64.b64encode(value).decode()


def read_time(value: Any) -> datetime:
    """Read an RFC 3339 time with an offset as an aware datetime in UTC (microseconds; finer digits are cut off)."""
    at = datetime.fromisoformat(_text(value))
    if at.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    return at.astimezone(UTC)


def write_time(at: datetime) -> str:
    """Write an aware datetime as RFC 3339 in UTC with 0, 3 or 6 digits of a second, as protobuf does."""
    if at.tzinfo is None:
        raise ValueError("a time needs its offset from UTC")
    at = at.astimezone(UTC)
    exact = "seconds" if not at.microsecond else "microseconds" if at.microsecond % 1000 else "milliseconds"
    return at.replace(tzinfo=None).isoformat(timespec=exact) + "Z"


_COMPILER = Compiler((read_time, write_time))


def _enumeration(field: FieldDescriptor) -> tuple[Convert, Convert]:
    enum, names = enum_of(field)
    unspecified = enum(0)
    numbers = {name: enum(number) for number, name in names.items()}

    def read(value: Any) -> Any:
        if isinstance(value, str):
            return numbers.get(value, unspecified)
        return enum(value) if index(value) in names else unspecified

    return read, lambda value: names[enum(value)]


def _converters(field: FieldDescriptor) -> tuple[Convert, Convert]:
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        if is_time(field):
            return read_time, write_time
        cls = dataclass_of(field)
        return (lambda value: read_message(cls, value)), (lambda value: _write_instance(cls, value))
    if field.type == FieldDescriptor.TYPE_ENUM:
        return _enumeration(field)
    simple: dict[int, tuple[Convert, Convert]] = {
        FieldDescriptor.TYPE_STRING: (_text, _text),
        FieldDescriptor.TYPE_BYTES: (_read_bytes, _write_bytes),
        FieldDescriptor.TYPE_BOOL: (_truth, _truth),
        FieldDescriptor.TYPE_DOUBLE: (_read_double, _write_double),
        FieldDescriptor.TYPE_INT32: _integer(32),
        FieldDescriptor.TYPE_INT64: _integer(64),
    }
    return simple[field.type]


@once_per_class
def _members(cls: type[Message]) -> tuple[_Member, ...]:
    return tuple(
        _Member(field.name, field.json_name, *_converters(field), field.is_repeated, field.has_presence)
        for field in descriptor(cls).fields
    )


@once_per_class
def _readers(cls: type[Message]) -> dict[str, _Member]:
    return {name: member for member in _members(cls) for name in (member.name, member.json_name)}


def _elements(value: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise TypeError("a list is needed")
    return value


def read_message(cls: type[M], data: Mapping[str, Any]) -> M:
    """Return the message that the JSON object `data` says; raises InvalidRequest naming the field at fault."""
    try:
        return cast("M", _COMPILER.reader(cls)(data))
    except (Unusual, ValueError, OverflowError):
        return _read_any(cls, data)


def _read_any(cls: type[M], data: Mapping[str, Any]) -> M:
    if not isinstance(data, Mapping):
        raise InvalidRequest(f"{cls.__name__}: a JSON object is needed.")
    readers = _readers(cls)
    values: dict[str, Any] = {}
    for key, value in data.items():
        member = readers.get(key)
        if member is None or value is None:
            continue
        try:
            read = member.read
            values[member.name] = tuple([read(each) for each in _elements(value)]) if member.repeated else read(value)
        except (TypeError, ValueError, OverflowError, binascii.Error) as error:
            raise InvalidRequest(f"{cls.__name__}.{member.name}: {error}") from error
    return cls(**values)


def _write_instance(cls: type[Message], value: Any) -> dict[str, Any]:
    if type(value) is not cls:
        raise TypeError(f"a {cls.__name__} is needed")
    return write_message(value)


def write_message(message: Message) -> dict[str, Any]:
    """Return the canonical JSON object of `message`; raises InvalidRequest naming the field at fault."""
    try:
        return _COMPILER.writer(type(message))(message)
    except (Unusual, AttributeError, TypeError, ValueError, OverflowError):
        return _write_any(message)


def _write_any(message: Message) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for member in _members(type(message)):
        value = getattr(message, member.name)
        if value is None and member.always:
            continue
        try:
            if member.repeated:
                if value:
                    write = member.write
                    data[member.json_name] = [write(each) for each in value]
            elif member.always or value or not _is_default(value):
                data[member.json_name] = member.write(value)
        except (TypeError, ValueError, OverflowError) as error:
            raise InvalidRequest(f"{type(message).__name__}.{member.name}: {error}") from error
    return data


def _is_default(value: Any) -> bool:
    """Say whether a falsy value is left out: all are, except None (an error) and the float -0.0."""
    return value is not None and not (isinstance(value, float) and math.copysign(1.0, value) < 0)
