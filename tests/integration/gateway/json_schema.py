"""As much of JSON Schema 2020-12 as the OpenAPI document uses, and stricter: objects may not have unknown fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

Json = dict[str, Any]
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}
_KNOWN = {
    "$ref",
    "anyOf",
    "enum",
    "const",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "multipleOf",
    "minLength",
    "maxLength",
    "pattern",
    "format",
    "title",
    "description",
    "default",
    "examples",
}


def faults(document: Json, schema: Json, value: Any, where: str = "$") -> Iterator[str]:
    """Everything in which `value` differs from `schema`; `document` resolves references."""
    unknown = schema.keys() - _KNOWN
    if unknown:
        yield f"{where}: the checker does not know {sorted(unknown)}"
    if "$ref" in schema:
        target: Any = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        yield from faults(document, target, value, where)
        return
    if "anyOf" in schema:
        found = [list(faults(document, each, value, where)) for each in schema["anyOf"]]
        if all(found):
            yield from min(found, key=len)
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r} is not {schema['const']!r}"
    kind = schema.get("type")
    if kind is not None and (not isinstance(value, _KINDS[kind]) or (isinstance(value, bool) and kind != "boolean")):
        yield f"{where}: {value!r} is no {kind}"
        return
    if isinstance(value, dict):
        yield from _object_faults(document, schema, value, where)
    elif isinstance(value, list):
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf):
            yield f"{where}: {len(value)} items"
        for number, each in enumerate(value):
            yield from faults(document, schema.get("items", {}), each, f"{where}[{number}]")
    elif isinstance(value, str):
        yield from _text_faults(schema, value, where)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield from _number_faults(schema, value, where)


def _object_faults(document: Json, schema: Json, value: Json, where: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{where}: {name} is missing"
    # What says nothing about its fields may have any; what names some has those only.
    others = schema.get("additionalProperties", not properties)
    for name, each in value.items():
        if name in properties:
            yield from faults(document, properties[name], each, f"{where}.{name}")
        elif others is False:
            yield f"{where}: there is no field {name}"
        elif isinstance(others, dict):
            yield from faults(document, others, each, f"{where}.{name}")


def _text_faults(schema: Json, value: str, where: str) -> Iterator[str]:
    if not schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf):
        yield f"{where}: {len(value)} characters"
    if "pattern" in schema and re.search(schema["pattern"], value) is None:
        yield f"{where}: {value!r} does not match {schema['pattern']}"
    if schema.get("format") == "date-time":
        try:
            aware = datetime.fromisoformat(value).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            yield f"{where}: {value!r} is no time with its zone"


def _number_faults(schema: Json, value: float, where: str) -> Iterator[str]:
    low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
    if not low <= value <= high or value <= schema.get("exclusiveMinimum", -math.inf):
        yield f"{where}: {value} is out of range"
    if "multipleOf" in schema and value % schema["multipleOf"]:
        yield f"{where}: {value} is no multiple of {schema['multipleOf']}"


def matching(document: Json, path: str, method: str) -> tuple[str, Json] | None:
    """The template and the operation that an address belongs to."""
    for template in sorted(document["paths"], key=lambda each: each.count("{")):
        shape = re.sub(r"\\\{[^/]*?\\\}", "[^/]+?", re.escape(template))
        if re.fullmatch(shape, path) and method.lower() in document["paths"][template]:
            return template, document["paths"][template][method.lower()]
    return None


def answer_faults(document: Json, method: str, path: str, status: int, media_type: str, body: Any) -> list[str]:
    """What is wrong with an answer by the document; nothing for addresses that it does not describe."""
    found = matching(document, path, method)
    if found is None:
        return []
    template, operation = found
    described = operation["responses"].get(str(status)) or (
        operation["responses"]["default"] if status >= 400 else None
    )
    if described is None:
        return [f"{method} {template}: {status} is not described"]
    if "$ref" in described:
        described = document["components"]["responses"][described["$ref"].rpartition("/")[2]]
    content = described.get("content", {})
    if not content:
        return [] if body is None else [f"{method} {template}: {status} has no body by the document"]
    if media_type not in content:
        known = sorted(content)
        return [] if "octet-stream" in str(known) else [f"{method} {template}: {media_type} is none of {known}"]
    if not media_type.endswith("json"):
        return []
    return [f"{method} {template}: {fault}" for fault in faults(document, content[media_type]["schema"], body)]
