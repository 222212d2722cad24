"""Errors as `application/problem+json` (RFC 9457).

Promises: every answer with a status of 400 or more has this one shape, and its `code` is stable.
Refuses: to show internals. What nobody foresaw is logged whole and answered with an incident number.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from microtome.errors import MicrotomeError, TooLarge
from services.gateway.kinds import KINDS

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
_LINGER_S = 2.0

_COME_AGAIN = frozenset({HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS})
# Found out while the body was still coming.
_BODY_UNREAD = frozenset({408, 413, 507})
_CODE_BY_STATUS = {400: "invalid-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}


def problem(
    *,
    status: int,
    code: str,
    detail: str,
    instance: str,
    transient: bool = False,
    errors: list[dict[str, str]] | None = None,
    headers: Mapping[str, str] | None = None,
    members: Mapping[str, Any] | None = None,
) -> Response:
    """One problem document. `errors` are `{"field", "detail"}`, one for each wrong field.

    `members`: what this kind of problem says besides, under names of its own.
    """
    document: dict[str, Any] = {
        **(members or {}),
        "type": f"urn:microtome:problem:{code}",
        "title": KINDS[code].title,
        "status": status,
        "detail": detail,
        "instance": instance,
        "code": code,
        "transient": transient,
    }
    if errors is not None:
        document["errors"] = errors
    sent = dict(headers or {})
    if transient and status in _COME_AGAIN:
        sent.setdefault("Retry-After", "2")
    return Response(orjson.dumps(document), status_code=status, media_type=MEDIA_TYPE, headers=sent)


def of_error(error: MicrotomeError, instance: str) -> Response:
    """The problem document of a `MicrotomeError`; codes without a status of their own are internal."""
    kind = KINDS.get(error.code)
    if kind is None:
        return unexpected(error, instance)
    status = kind.status
    answer = problem(
        status=status,
        code=error.code,
        detail=error.detail,
        instance=instance,
        transient=error.transient,
        headers=getattr(error, "headers", None),
        members=getattr(error, "members", None),
    )
    return Lingering(answer) if isinstance(error, TooLarge) or status in _BODY_UNREAD else answer


class Lingering(Response):
    """An answer to a request whose body was not read to its end.

    Promises: the answer goes out at once, and what the client still sends is dropped for a moment before the
    connection closes; closing with unread data would reset it, and the client would never see the answer.
    """

    def __init__(self, answer: Response) -> None:
        headers = {**answer.headers, "Connection": "close"}
        del headers["content-length"], headers["content-type"]
        super().__init__(answer.body, answer.status_code, media_type=MEDIA_TYPE, headers=headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - as ASGI has it
        """Answer, drop what comes for at most two seconds, close."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": bytes(self.body), "more_body": True})
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                while (await receive()).get("more_body", False):
                    pass
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def unexpected(error: BaseException, instance: str) -> Response:
    """A 500 that shows nothing but a number under which the log has everything."""
    incident = uuid.uuid4().hex[:12]
    logger.error("unexpected error, incident %s", incident, exc_info=error, extra={"incident": incident})
    detail = f"Something went wrong that should not have. The server's log has it under incident {incident}."
    return problem(status=500, code="internal", detail=detail, instance=instance)


def _field(item: Mapping[str, Any]) -> str:
    # Of a body that is no JSON the place is a character, not a field.
    parts = ["body"] if item["type"] == "json_invalid" else [str(part) for part in item["loc"]]
    return ".".join(parts[1:] if parts[:1] in (["body"], ["query"], ["path"], ["header"]) and len(parts) > 1 else parts)


def _detail(item: Mapping[str, Any]) -> str:
    """What is wrong with a field, for somebody who has never heard of the validator."""
    match item["type"]:
        case "json_invalid":
            return f"this is not JSON ({item['ctx']['error']}, character {item['loc'][-1]})"
        case "missing":
            return "this is required"
        case "extra_forbidden":
            return "there is no such field"
        case "model_attributes_type" | "model_type":
            return "a JSON object is needed here; a body is sent with Content-Type: application/json"
        case "string_pattern_mismatch":
            return f"{str(item['input'])[:80]!r} has characters that may not be here; it must match {_pattern(item)}"
        case "value_error":
            return str(item["ctx"]["error"])
        case _:
            return str(item["msg"])


def _pattern(item: Mapping[str, Any]) -> str:
    return str(item["ctx"]["pattern"]).removeprefix("^").removesuffix("$")


async def _on_microtome_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MicrotomeError)
    return of_error(error, request.url.path)


async def _on_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": _field(item), "detail": _detail(item)} for item in error.errors()[:50]]
    detail = "; ".join(f"{item['field']}: {item['detail']}" for item in errors[:3])
    return problem(status=422, code="invalid-request", detail=detail, instance=request.url.path, errors=errors)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = _CODE_BY_STATUS.get(error.status_code, "internal" if error.status_code >= 500 else "invalid-request")
    details = {404: "There is nothing under this address.", 405: "This address does not know this method."}
    return problem(
        status=error.status_code,
        code=code,
        detail=details.get(error.status_code, str(error.detail)),
        instance=request.url.path,
        headers=error.headers,
    )


async def _on_unexpected(request: Request, error: Exception) -> Response:
    return unexpected(error, request.url.path)


def answers(path: str, **codes: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: a route's own problems, each with an example, as `code_so_written="detail"`."""
    described: dict[int | str, dict[str, Any]] = {}
    for name, detail in codes.items():
        kind = KINDS[code := name.replace("_", "-")]
        example = {"type": f"urn:microtome:problem:{code}", "title": kind.title, "status": kind.status}
        example |= {"detail": detail, "instance": path, "code": code, "transient": kind.transient}
        content = {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example}
        described[kind.status] = {"description": kind.meaning, "content": {MEDIA_TYPE: content}}
    return described


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(MicrotomeError, _on_microtome_error)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_unexpected)
