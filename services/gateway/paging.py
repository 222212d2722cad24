"""Lists in pages.

Promises: every list that pages answers `{"items", "next_cursor"}` and, where more follows, a `Link` header with the
address of the next page (RFC 8288), which keeps the filters. Refuses: to know what a cursor means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import Query, Request
from starlette.responses import Response

from services.gateway.etag import Rendered, answer

Limit = Annotated[int, Query(ge=1, le=200, description="How many at most.")]
PageCursor = Annotated[
    str | None, Query(max_length=400, description="`next_cursor` of the page before; absent for the first page.")
]
LINK: dict[str, Any] = {
    "Link": {"description": 'The next page, `rel="next"`, if there is one.', "schema": {"type": "string"}}
}


def page(request: Request, items: Sequence[dict[str, Any]], next_cursor: str | None) -> Response:
    """One page as an answer, or 304 where the client has it."""
    rendered = Rendered.of({"items": items, "next_cursor": next_cursor})
    headers = {}
    if next_cursor is not None:
        following = request.url.include_query_params(cursor=next_cursor)
        headers["Link"] = f'<{following.path}?{following.query}>; rel="next"'
    return answer(request, rendered, headers)
