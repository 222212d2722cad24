"""The OpenAPI document: what FastAPI derives from the routes, with examples and with the problems that may come.

Promises: every operation has an id of its own, an example of what it takes and gives, and says which problems it
answers with; `default` stands for those that any request may meet. Refuses: to describe what no route does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from services.gateway import examples
from services.gateway.kinds import KINDS
from services.gateway.problems import MEDIA_TYPE

Json = dict[str, Any]
_REFERENCE = "#/components/schemas/"
_TAGS = {
    "workflows": "Graphs of jobs: submit, add to, start, cancel, retry.",
    "jobs": "Single jobs and what they made.",
    "slides": "Whole-slide images: upload, look at, delete.",
    "uploads": "Resumable uploads (tus 1.0.0).",
    "history": "The past: events, timelines, a workflow as it was.",
    "live": "What happens, as it happens: server-sent events. The websockets are in AsyncAPI's document.",
    "users": "Who is active, who waits, what you may do and have.",
    "system": "Whether the installation is well, and its limits.",
}
# The kind of problem that is typical of a status, for its example.
_TYPICAL: Mapping[int, str] = {
    401: "user-required",
    404: "not-found",
    409: "conflict",
    413: "too-large",
    422: "invalid-request",
    429: "rate-limited",
    503: "unavailable",
}
_ADDING = "workflows_add_jobs"
_SUBMITTING = frozenset({"workflows_submit", _ADDING, "jobs_create"})
_READY = ("/result", "/preview", "/cells", "/artifacts/{name}", "/artifacts.zip")


def operation_id(route: APIRoute) -> str:
    """The name of an operation, unique in the document: its first tag and its function."""
    return "_".join([*(str(tag) for tag in route.tags[:1]), route.name])


def install(app: FastAPI) -> None:
    """Make `app.openapi()` give the whole document; made once."""
    derived = app.openapi

    def document() -> Json:
        if app.openapi_schema is None:
            complete(derived())
        assert app.openapi_schema is not None
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def complete(document: Json) -> None:
    """Add examples, problems and the meaning of tags to a document, in place."""
    document["tags"] = [{"name": name, "description": about} for name, about in _TAGS.items()]
    responses = document["components"].setdefault("responses", {})
    responses.update({_name(status): _problem(status, code) for status, code in _TYPICAL.items()})
    for path, method, operation in operations(document):
        if operation["operationId"] == _ADDING:
            # The model takes a bare job, too, and names its fields as those of the first of many.
            content = operation["requestBody"]["content"]["application/json"]
            content["schema"] = {"anyOf": [{"$ref": f"{_REFERENCE}{name}"} for name in ("JobsIn", "JobIn")]}
        for status in _statuses(path, method, operation):
            operation["responses"][str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
        for parameter in operation.get("parameters", ()):
            _show(parameter, examples.PARAMETERS.get(parameter["name"]))
        for content in operation.get("requestBody", {}).get("content", {}).values():
            _show(content, _example(content.get("schema", {}), examples.DOCUMENTS))
        for response in operation["responses"].values():
            _drop_unsaid(response.get("content", {}))
            for media_type, content in response.get("content", {}).items():
                _show(content, examples.TEXTS.get(media_type) or _example(content.get("schema", {}), examples.VIEWS))


def operations(document: Json) -> Iterator[tuple[str, str, Json]]:
    """Path, method and operation of everything that the document describes."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def _drop_unsaid(content: Json) -> None:
    """Take out what FastAPI adds by itself: JSON of any shape, and problems under the media type of other answers."""
    schema = content.get("application/json", {}).get("schema")
    if MEDIA_TYPE in content or (len(content) > 1 and schema == {}):
        content.pop("application/json", None)


def _statuses(path: str, method: str, operation: Json) -> Iterator[int]:
    """The problems that are particular to an operation."""
    names = {parameter["name"] for parameter in operation.get("parameters", ())}
    if "X-User-ID" in names:
        yield 401
    if "_id}" in path:
        yield 404
    if (method == "post" and path.count("/") > 3) or path.endswith(_READY) or "Idempotency-Key" in names:
        yield 409
    if "requestBody" in operation:
        yield 413
    if "requestBody" in operation or names - {"X-User-ID"}:
        yield 422
    if operation["operationId"] in _SUBMITTING:
        yield 429
    yield 503


def _name(status: int) -> str:
    return f"Problem{status}"


def _problem(status: int, code: str) -> Json:
    kind = KINDS[code]
    example = {
        "type": f"urn:microtome:problem:{code}",
        "title": kind.title,
        "status": status,
        "detail": kind.meaning,
        "instance": "/api/v1/workflows",
        "code": code,
        "transient": kind.transient,
        "errors": [],
    }
    schema = {"$ref": f"{_REFERENCE}Problem"}
    return {"description": kind.meaning, "content": {MEDIA_TYPE: {"schema": schema, "example": example}}}


def _show(where: Json, example: Any) -> None:  # noqa: ANN401 - JSON
    if example is not None and "examples" not in where:
        where.setdefault("example", example)


def _example(schema: Json, known: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """The example of a schema: that of what it names, or a list of one such thing."""
    if "$ref" in schema:
        return known.get(schema["$ref"].removeprefix(_REFERENCE))
    if schema.get("type") == "array":
        item = _example(schema.get("items", {}), known)
        return None if item is None else [item]
    return next((found for each in schema.get("anyOf", ()) if (found := _example(each, known)) is not None), None)
