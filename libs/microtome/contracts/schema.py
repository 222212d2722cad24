"""The compiled contract: which protobuf descriptor belongs to which dataclass.

Promises: a pool of its own, so that nothing else in the process can clash with or change the contract; one pool and one
class of each message, however many threads ask first.
Refuses: message classes that the contract does not know.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import TypeVar

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf import message as protobuf_message
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from microtome.contracts import messages
from microtome.contracts.messages import Message

PACKAGE = "microtome.v1"
TIMESTAMP = "google.protobuf.Timestamp"
T = TypeVar("T")
# Two pools would be two contracts: a message of the one is none of the other. Held for what is built once only.
_building = threading.RLock()


def once_per_class(build: Callable[[type[Message]], T]) -> Callable[[type[Message]], T]:
    """Remember what `build` returns for each message class."""
    built: dict[type[Message], T] = {}

    def look_up(cls: type[Message]) -> T:
        try:
            return built[cls]
        except KeyError:
            with _building:
                if cls not in built:
                    built[cls] = build(cls)
                return built[cls]

    return look_up


def pool() -> descriptor_pool.DescriptorPool:
    """Return the contract's own descriptor pool, built once from `descriptors.binpb`."""
    with _building:
        return _pool()


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    image = (Path(__file__).resolve().parent / "descriptors.binpb").read_bytes()
    own = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(image).file:
        own.AddSerializedFile(file.SerializeToString())
    return own


@once_per_class
def descriptor(cls: type[Message]) -> Descriptor:
    """Return the protobuf descriptor of a message class; raises KeyError for classes outside the contract."""
    found: Descriptor = pool().FindMessageTypeByName(f"{PACKAGE}.{cls.__name__}")
    return found


@once_per_class
def protobuf_class(cls: type[Message]) -> type[protobuf_message.Message]:
    """Return the protobuf message class that mirrors `cls`."""
    return GetMessageClass(descriptor(cls))


def is_time(field: FieldDescriptor) -> bool:
    """Say whether the field is a Timestamp."""
    return field.message_type is not None and field.message_type.full_name == TIMESTAMP


def enum_of(field: FieldDescriptor) -> tuple[type[IntEnum], dict[int, str]]:
    """Return the IntEnum of an enum field, and its names in the contract by number."""
    assert field.enum_type is not None
    enum = getattr(messages, field.enum_type.name)
    assert isinstance(enum, type)
    assert issubclass(enum, IntEnum)
    return enum, {value.number: value.name for value in field.enum_type.values}


def dataclass_of(field: FieldDescriptor) -> type[Message]:
    """Return the dataclass of a message field (not of a Timestamp)."""
    assert field.message_type is not None
    cls = getattr(messages, field.message_type.name)
    assert isinstance(cls, type)
    assert issubclass(cls, Message)
    return cls
