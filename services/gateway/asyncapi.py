"""Prints the AsyncAPI 3 document: `python -m services.gateway.asyncapi > proto/asyncapi.yaml`.

Promises: every stream, work queue and lossy subject of the bus, and every live view of the gateway, from the code that
uses them: topology, subjects, the compiled protobuf contract, the live messages. The same code gives the same bytes.
Refuses: to need a server or an environment. It needs a YAML writer, which is installed for development only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from pydantic import BaseModel

from microtome.bus import headers, subjects, topology
from microtome.contracts import schema
from services.gateway import live, live_messages
from services.gateway.sse import RETRY_MS
from services.gateway.version import version
from services.gateway.wiring import API

Json = dict[str, Any]

# Messages of the contract and views of the API share names.
_PROTO = "v1."
_FACTS = "microtome/v1/events.proto"
_PLACE = "00000000-0000-0000-0000-000000000000"
_DIGEST = "0" * 12
_PARAMETERS: Mapping[str, str] = {
    "user": "Who asks or whose it is: 1 to 64 letters, digits, hyphens, underscores.",
    "aggregate": "workflow, slide or seats.",
    "id": "Of the aggregate.",
    "event": "Name of the message.",
    "model": "The first 12 hex digits of the model's digest.",
    "engine": "What the operator wishes the network to run on: auto, or an engine's name.",
    "queue": "The work queue whose message could not be worked on.",
    "workflow_id": "Of a workflow of the user.",
    "job_id": "Of a job of the user.",
    "attempt": "Number of the attempt, from 1.",
    "service": "tiler, inference or merger.",
}
_SCALARS: Mapping[int, Json] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_FLOAT: {"type": "number"},
    FieldDescriptor.TYPE_INT32: {"type": "integer"},
    FieldDescriptor.TYPE_UINT32: {"type": "integer", "minimum": 0},
    # Canonical protobuf JSON: numbers of 64 bits are strings.
    FieldDescriptor.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
    FieldDescriptor.TYPE_UINT64: {"type": "string", "pattern": "^[0-9]+$"},
}
_LIVE: Mapping[str, tuple[str, type[BaseModel]]] = {
    "workflow": ("workflows/{workflow_id}", live_messages.WorkflowSnapshot),
    "job": ("jobs/{job_id}", live_messages.JobSnapshot),
    "me": ("me", live_messages.MySnapshot),
}
_CLOSING = (
    f"Closed with {live.BAD_REQUEST} (bad position), {live.NO_USER} (no user), {live.NOT_FOUND} (not found), "
    f"{live.NO_SUCH_POSITION} (a position that the log has not reached), {live.TRY_AGAIN} (try again), 1012 (the "
    "server stops; connect again)."
)
_RESUME = (
    "Without a position a snapshot comes first and then every fact after it, each once, in the order of the log. With "
    "one, every fact since then comes first and then a snapshot. Further snapshots come when something that they show "
    "has changed; they may be ahead of the facts or behind those told meanwhile, and say as of when they are. Of "
    "progress only the latest of each job is told."
)


def document() -> Json:
    """The AsyncAPI document as plain values."""
    facts = _messages(_FACTS)
    parts = _Parts()
    _bus(parts, facts)
    _views(parts)
    return {
        "asyncapi": "3.0.0",
        "id": "urn:microtome",
        "info": {
            "title": "Microtome",
            "version": version(),
            "description": "What is told without being asked: facts and work over NATS, live views over websockets and "
            "server-sent events. What can be asked is in openapi.json.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "bus": {
                "host": "127.0.0.1:4222",
                "protocol": "nats",
                "description": "Between the services; JetStream where a channel names a stream.",
            },
            "gateway": {
                "host": "127.0.0.1:8080",
                "protocol": "ws",
                "pathname": API,
                "description": "For pages and programs: websockets.",
            },
            "events": {
                "host": "127.0.0.1:8080",
                "protocol": "http",
                "pathname": API,
                "description": "For pages and programs: server-sent events.",
            },
        },
        "channels": parts.channels,
        "operations": parts.operations,
        "components": {"messages": parts.messages, "schemas": parts.schemas, "messageTraits": {"facts": _trait()}},
    }


def text() -> str:
    """The document as YAML, ending in a newline."""
    import yaml

    dumped = yaml.safe_dump(document(), sort_keys=False, allow_unicode=True, width=110)
    return f"# Made by `python -m services.gateway.asyncapi`; do not edit.\n{dumped}"


class _Parts:
    """The document while it is put together."""

    def __init__(self) -> None:
        self.channels: dict[str, Json] = {}
        self.operations: dict[str, Json] = {}
        self.messages: dict[str, Json] = {}
        self.schemas: dict[str, Json] = {}

    def channel(
        self,
        name: str,
        address: str,
        server: str,
        message_names: Iterable[str],
        description: str,
        bindings: Json | None = None,
    ) -> None:
        parameters = [part[1:-1] for part in address.replace("/", ".").split(".") if part.startswith("{")]
        self.channels[name] = {
            "address": address,
            "description": description,
            "servers": [{"$ref": f"#/servers/{server}"}],
            "messages": {each: {"$ref": f"#/components/messages/{each}"} for each in message_names},
            **({"parameters": {each: {"description": _PARAMETERS[each]} for each in parameters}} if parameters else {}),
            **({"bindings": bindings} if bindings else {}),
        }

    def operation(self, name: str, action: str, channel: str, summary: str) -> None:
        self.operations[name] = {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": summary}

    def protobuf(self, name: str, *, fact: bool = False) -> str:
        """A message of the contract: binary on the bus, canonical JSON wherever JSON is spoken."""
        found = schema.pool().FindMessageTypeByName(f"{schema.PACKAGE}.{name}")
        self._schema(found)
        self.messages[name] = {
            "name": name,
            "contentType": "application/protobuf",
            "summary": f"{found.full_name} of {found.file.name}, binary; the schema is that of its canonical JSON.",
            "payload": {"$ref": f"#/components/schemas/{_PROTO}{name}"},
            **({"traits": [{"$ref": "#/components/messageTraits/facts"}]} if fact else {}),
        }
        return name

    def model(self, model: type[BaseModel]) -> str:
        """A live message."""
        name = model.__name__
        found = model.model_json_schema(mode="serialization", ref_template="#/components/schemas/{model}")
        self.schemas |= found.pop("$defs", {})
        self.schemas[name] = found
        self.messages[name] = {
            "name": name,
            "contentType": "application/json",
            "summary": (model.__doc__ or "").strip(),
            "payload": {"$ref": f"#/components/schemas/{name}"},
        }
        return name

    def _schema(self, message: Descriptor) -> None:
        name = f"{_PROTO}{message.name}"
        if name in self.schemas:
            return
        self.schemas[name] = {}
        self.schemas[name] = {
            "type": "object",
            "additionalProperties": False,
            "properties": {field.json_name: self._field(field) for field in message.fields},
        }

    def _field(self, field: FieldDescriptor) -> Json:
        if schema.is_time(field):
            one: Json = {"type": "string", "format": "date-time"}
        elif field.message_type is not None:
            self._schema(field.message_type)
            one = {"$ref": f"#/components/schemas/{_PROTO}{field.message_type.name}"}
        elif field.enum_type is not None:
            one = {"type": "string", "enum": [value.name for value in field.enum_type.values]}
        else:
            one = dict(_SCALARS[field.type])
        return {"type": "array", "items": one} if field.is_repeated else one


def _bus(parts: _Parts, facts: list[str]) -> None:
    for name in facts:
        parts.protobuf(name, fact=True)
    address = subjects.event("user", "aggregate", "id", "event")
    for part in ("user", "aggregate", "id", "event"):
        address = address.replace(f".{part}", f".{{{part}}}", 1)
    parts.channel("facts", address, "bus", facts, _stream(topology.EVENTS) + " The log holds them for ever.")
    parts.operation("publishFacts", "send", "facts", "The relay of the scheduler publishes every fact of the log.")
    parts.operation("receiveFacts", "receive", "facts", "For whoever wants to follow; nothing inside depends on it.")
    work = (
        ("plan", subjects.WORK_PLAN, "PlanWork", topology.WORK_PLAN, "The tiler takes a started job."),
        (
            "infer",
            subjects.work_infer(_DIGEST, "engine").replace(_DIGEST, "{model}").replace(".engine", ".{engine}"),
            "InferWork",
            topology.WORK_INFER,
            "Inference takes a batch of tiles.",
        ),
        ("merge", subjects.WORK_MERGE, "MergeWork", topology.WORK_MERGE, "The merger takes a job with all results."),
    )
    for name, subject, message, stream, summary in work:
        parts.channel(name, subject, "bus", [parts.protobuf(message)], _stream(stream))
        parts.operation(f"take{name.title()}", "receive", name, summary)
    dead = subjects.dead("queue").replace(".queue", ".{queue}")
    works = [message for _, _, message, _, _ in work]
    parts.channel("deadLetters", dead, "bus", works, _stream(topology.DEAD_LETTERS))
    parts.operation("buryWork", "send", "deadLetters", "A worker gives up a message that nobody can work on.")
    lossy = (
        (
            "tiles",
            subjects.tiles("job_id", 1).replace("job_id", "{job_id}").replace(".1", ".{attempt}"),
            "TilesInferred",
        ),
        ("progress", "progress.{user}.{workflow_id}.{job_id}", "JobProgress"),
        ("attendance", subjects.service("service").replace(".service", ".{service}"), "ServiceAlive"),
    )
    for name, subject, message in lossy:
        parts.channel(name, subject, "bus", [parts.protobuf(message)], "Core NATS: lossy, latest wins.")
        parts.operation(f"announce{name.title()}", "send", name, "Announced by the workers, as often as they like.")


def _views(parts: _Parts) -> None:
    event, progress = parts.model(live_messages.Event), parts.model(live_messages.Progress)
    for name, (path, snapshot) in _LIVE.items():
        told = [parts.model(snapshot), event, progress]
        query = {
            "type": "object",
            "properties": {
                "user": {"type": "string", "description": _PARAMETERS["user"]},
                "after": {"type": "string", "pattern": "^[0-9]+:[0-9]+$", "description": "Position to go on from."},
            },
        }
        parts.channel(
            f"{name}Socket",
            f"/ws/{path}",
            "gateway",
            told,
            f"{_RESUME} {_CLOSING}",
            bindings={"ws": {"method": "GET", "query": query, "bindingVersion": "0.1.0"}},
        )
        parts.channel(
            f"{name}Events",
            f"/{path}/live",
            "events",
            told,
            f"{_RESUME} The name of an event is its `kind`. The id of an `event`, and of the first `snapshot`, is the "
            f"position for `Last-Event-ID`; `retry` is {RETRY_MS} ms. A comment breaks long silences.",
        )
        for kind in ("Socket", "Events"):
            parts.operation(f"tell{name.title()}{kind}", "send", f"{name}{kind}", "The gateway tells; clients listen.")


def _messages(file: str) -> list[str]:
    return sorted(schema.pool().FindFileByName(file).message_types_by_name)


def _stream(spec: topology.StreamSpec) -> str:
    if spec.max_age_s:
        days = spec.max_age_s / 86400
        kept = f"for {days:g} day{'' if days == 1 else 's'}"
    else:
        kept = "until worked on" if spec.retention is topology.Retention.WORK_QUEUE else "for ever"
    return f"JetStream {spec.name} ({spec.retention}), kept {kept}, at most {spec.max_messages} messages."


def _trait() -> Json:
    names = (*_cloud_event_headers(), headers.MESSAGE_ID, headers.CURSOR, "traceparent")
    return {
        "headers": {"type": "object", "properties": {name: {"type": "string"} for name in names}},
        "description": f"CloudEvents 1.0; `{headers.CURSOR}` is the place in the log.",
    }


def _cloud_event_headers() -> tuple[str, ...]:
    return ("ce-specversion", "ce-id", "ce-type", "ce-source", "ce-subject", "ce-time")


if __name__ == "__main__":
    sys.stdout.write(text())
