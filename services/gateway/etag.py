"""Answers that a client may already have.

Promises: the tag is strong and follows from the bytes alone, so that two gateways give the same tag for the same
answer and never the same tag for different ones; `If-None-Match` is understood as RFC 9110 has it.
Refuses: to be cached without asking again; whoever asks is asked who they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Self

import orjson
from starlette.requests import Request
from starlette.responses import Response

CACHE_CONTROL = "private, no-cache"
VARY = "X-User-ID"
NOT_MODIFIED: dict[int | str, dict[str, Any]] = {304: {"description": "The client has this answer already."}}
_JSON_OPTIONS = orjson.OPT_UTC_Z
_TAG_BYTES = 12


@dataclass(frozen=True, slots=True)
class Rendered:
    """One JSON document, ready to be sent, and its entity tag (with quotes)."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, document: Any) -> Self:  # noqa: ANN401 - JSON
        """Render a document of plain values and aware datetimes."""
        body = orjson.dumps(document, option=_JSON_OPTIONS)
        return cls(body, f'"{blake2b(body, digest_size=_TAG_BYTES).hexdigest()}"')


def known(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has what `etag` names. Comparison is weak, as it must be for `If-None-Match`."""
    if if_none_match is None:
        return False
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags


def answer(request: Request, rendered: Rendered, more: dict[str, str] | None = None) -> Response:
    """The document, or 304 without one where the client has it. `more`: further headers."""
    headers = {"ETag": rendered.etag, "Cache-Control": CACHE_CONTROL, "Vary": VARY, **(more or {})}
    if known(request.headers.get("if-none-match"), rendered.etag):
        return Response(status_code=304, headers=headers)
    return Response(rendered.body, media_type="application/json", headers=headers)


def accepted(rendered: Rendered, more: dict[str, str] | None = None) -> Response:
    """The answer to a command: 202 and how things are now."""
    headers = {"ETag": rendered.etag, "Cache-Control": CACHE_CONTROL, **(more or {})}
    return Response(rendered.body, status_code=202, media_type="application/json", headers=headers)
