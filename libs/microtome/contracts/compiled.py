"""Straight-line readers and writers of canonical JSON, one pair per message class, compiled when first needed.

A replay of the log reads every event, so these decide how long it takes. Each is the code that one would write by hand
for its class: a lookup, a check and a value per field, and no call for most.

Promises: what comes out is what `canonical` says. Only JSON of the exact form that `canonical` itself writes is read
here, and only values of the exact types that the contract names are written.
Refuses, with `Unusual`: everything else. Whoever calls then takes the general way, which understands more and says
what is wrong.
"""

# Any is the honest type of generated code and of JSON values.
# ruff: noqa: ANN401
from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from microtome.contracts.messages import Message
from microtome.contracts.schema import dataclass_of, descriptor, enum_of, is_time

Read = Callable[[Mapping[str, Any]], Any]
Write = Callable[[Any], dict[str, Any]]
Convert = Callable[[Any], Any]
_INT32 = "-2147483648 <= {v} <= 2147483647"
_INT64 = "-9223372036854775808 <= {v} <= 9223372036854775807"


class Unusual(Exception):
    """The general way is needed."""


class Compiler:
    """Makes the readers and writers. `times` reads and writes a Timestamp."""

    def __init__(self, times: tuple[Convert, Convert]) -> None:
        self._times = times
        self._readers: dict[type[Message], Read] = {}
        self._writers: dict[type[Message], Write] = {}

    def reader(self, cls: type[Message]) -> Read:
        """Return the function that reads a message of this class from a dict."""
        if cls not in self._readers:
            self._readers[cls] = self._compile(cls, self._read_lines)
        return self._readers[cls]

    def writer(self, cls: type[Message]) -> Write:
        """Return the function that writes a message of this class as a dict."""
        if cls not in self._writers:
            self._writers[cls] = self._compile(cls, self._write_lines)
        return self._writers[cls]

    def _compile(
        self, cls: type[Message], lines: Callable[[type[Message], dict[str, Any]], list[str]]
    ) -> Callable[[Any], Any]:
        names: dict[str, Any] = {"cls": cls, "Unusual": Unusual}
        source = "\n    ".join(["def convert(given):", *lines(cls, names)])
        exec(compile(source, f"<{cls.__name__} in canonical JSON>", "exec"), names)  # noqa: S102 - made from the contract
        made: Callable[[Any], Any] = names["convert"]
        return made

    # -- reading ----------------------------------------------------------------------------------

    def _read_lines(self, cls: type[Message], names: dict[str, Any]) -> list[str]:
        lines = ["if type(given) is not dict: raise Unusual", "get = given.get", "left = len(given)"]
        lines.append("made = new(cls)")
        names["new"] = object.__new__
        for number, field in enumerate(descriptor(cls).fields):
            value = f"v{number}"
            lines.append(f"{value} = get({field.json_name!r})")
            lines.append(f"if {value} is not None:")
            lines.append("    left -= 1")
            if field.is_repeated:
                lines.append(f"    if type({value}) is not list: raise Unusual")
                lines += self._read_many(field, value, names)
            else:
                lines += [f"    {line}" for line in self._read_one(field, value, names)]
            if field.is_repeated or not field.has_presence:
                names[f"d{number}"] = () if field.is_repeated else _default(field)
                lines.append("else:")
                lines.append(f"    {value} = d{number}")
            # The message is frozen for everybody else; its own constructor does the same, at twice the time.
            names[f"set{number}"] = getattr(cls, field.name).__set__
            lines.append(f"set{number}(made, {value})")
        # A member that is null, unknown, or named as in the contract.
        lines.append("if left: raise Unusual")
        lines.append("return made")
        return lines

    def _read_many(self, field: FieldDescriptor, value: str, names: dict[str, Any]) -> list[str]:
        if field.type == FieldDescriptor.TYPE_MESSAGE and not is_time(field):
            read = self._named(names, self.reader(dataclass_of(field)))
            return [f"    {value} = tuple([{read}(each) for each in {value}])"]
        inner = [f"        {line}" for line in self._read_one(field, "each", names)]
        return [
            "    many = []",
            f"    for each in {value}:",
            *inner,
            "        many.append(each)",
            f"    {value} = tuple(many)",
        ]

    def _read_one(self, field: FieldDescriptor, value: str, names: dict[str, Any]) -> list[str]:
        """Return the lines that check and convert the variable `value` in place."""
        v = {"v": value}
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            read = self._times[0] if is_time(field) else self.reader(dataclass_of(field))
            guard = [f"if type({value}) is not str: raise Unusual"] if is_time(field) else []
            return [*guard, f"{value} = {self._named(names, read)}({value})"]
        if field.type == FieldDescriptor.TYPE_ENUM:
            enum, known = enum_of(field)
            look_up = self._named(names, {name: enum(number) for number, name in known.items()}.get)
            is_text = f"if type({value}) is not str: raise Unusual"
            return [is_text, f"{value} = {look_up}({value})", f"if {value} is None: raise Unusual"]
        if field.type == FieldDescriptor.TYPE_STRING:
            return [f"if type({value}) is not str or not {value}.isascii(): raise Unusual"]
        if field.type == FieldDescriptor.TYPE_INT32:
            return [f"if type({value}) is not int or not {_INT32.format(**v)}: raise Unusual"]
        if field.type == FieldDescriptor.TYPE_INT64:
            # Up to 18 digits fit, whatever they are.
            fits = f"type({value}) is str and len({value}) < 19 and {value}.isascii() and {value}.isdigit()"
            return [f"if not ({fits}): raise Unusual", f"{value} = int({value})"]
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            return [
                f"if type({value}) is not float:",
                f"    if type({value}) is not int: raise Unusual",
                f"    {value} = float({value})",
            ]
        if field.type == FieldDescriptor.TYPE_BOOL:
            return [f"if {value} is not True and {value} is not False: raise Unusual"]
        return ["raise Unusual"]

    # -- writing ----------------------------------------------------------------------------------

    def _write_lines(self, cls: type[Message], names: dict[str, Any]) -> list[str]:
        lines = ["if type(given) is not cls: raise Unusual", "data = {}"]
        for field in descriptor(cls).fields:
            lines.append(f"v = given.{field.name}")
            target = f"data[{field.json_name!r}]"
            if field.is_repeated:
                check, expression = self._write_one(field, "each", names)
                lines.append("if v:")
                if check:
                    lines += ["    for each in v:", f"        if not ({check}): raise Unusual"]
                lines.append(f"    {target} = [{expression} for each in v]")
                continue
            check, expression = self._write_one(field, "v", names)
            lines.append("if v is not None:" if field.has_presence else "if v:")
            if check:
                lines.append(f"    if not ({check}): raise Unusual")
            lines.append(f"    {target} = {expression}")
            if not field.has_presence:
                # Nothing is left out but defaults: no None, and no negative zero.
                unlike = " or type(v) is float" if field.type == FieldDescriptor.TYPE_DOUBLE else ""
                lines += [f"elif v is None{unlike}: raise Unusual"]
        lines.append("return data")
        return lines

    def _write_one(self, field: FieldDescriptor, value: str, names: dict[str, Any]) -> tuple[str, str]:
        """Return what must hold of the variable `value`, and the expression that converts it."""
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            write = self._times[1] if is_time(field) else self.writer(dataclass_of(field))
            return "", f"{self._named(names, write)}({value})"
        if field.type == FieldDescriptor.TYPE_ENUM:
            enum, known = enum_of(field)
            written = {enum(number): name for number, name in known.items()}
            return f"type({value}) is {self._named(names, enum)}", f"{self._named(names, written)}[{value}]"
        if field.type == FieldDescriptor.TYPE_STRING:
            return f"type({value}) is str and {value}.isascii()", value
        if field.type == FieldDescriptor.TYPE_INT32:
            return f"type({value}) is int and {_INT32.format(v=value)}", value
        if field.type == FieldDescriptor.TYPE_INT64:
            return f"type({value}) is int and {_INT64.format(v=value)}", f"str({value})"
        if field.type == FieldDescriptor.TYPE_DOUBLE:
            # Subtracting a number from itself tells the finite ones.
            return f"type({value}) is float and {value} - {value} == 0.0", value
        if field.type == FieldDescriptor.TYPE_BOOL:
            return f"type({value}) is bool", value
        return "False", value

    @staticmethod
    def _named(names: dict[str, Any], value: Any) -> str:
        name = f"n{len(names)}"
        names[name] = value
        return name


def _default(field: FieldDescriptor) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        enum, _ = enum_of(field)
        return enum(0)
    return field.default_value
