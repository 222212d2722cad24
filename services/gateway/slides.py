"""Slides: upload, facts, pictures."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.requests import ClientDisconnect

from microtome.contracts.messages import SlideRegistered
from microtome.errors import InvalidRequest, NotFound
from microtome.readmodels.listing import SlideFilter
from microtome.slides.deepzoom import TILE_SIZE, DeepZoom
from services.gateway import present, problems, views
from services.gateway.context import Context, Gateway
from services.gateway.documents import Mpp
from services.gateway.etag import NOT_MODIFIED, Rendered, answer, known
from services.gateway.integrity import check_file, parse_digests, parse_sha256
from services.gateway.pace import paced
from services.gateway.paging import Limit, PageCursor, page
from services.gateway.pixels import THUMBNAIL_SIZE
from services.gateway.registration import PixelSizeWish
from services.gateway.uploads import is_multipart
from services.gateway.user import LinkUser, User

router = APIRouter(tags=["slides"])

_BINARY = {"schema": {"type": "string", "format": "binary"}}
_MULTIPART = {
    "schema": {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
}
_UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": _BINARY, "multipart/form-data": _MULTIPART},
    }
}
# A slide never changes, but a browser may be used by more than one user.
_CACHED = {"Cache-Control": "private, max-age=86400", "Vary": "X-User-ID"}
MAX_THUMBNAIL_SIZE = 4096
# The client is gone; nobody reads this.
_CLIENT_CLOSED_REQUEST = 499

_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": _BINARY}, "description": "A picture."},
    **NOT_MODIFIED,
}
_JPEG_PNG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": _BINARY, "image/png": _BINARY}, "description": "A picture."},
    **NOT_MODIFIED,
}
_IN_USE = problems.answers(
    "/api/v1/slides/7f0f2f0e-4c8c-4b0e-9d5e-2f4b1b8a6c11",
    slide_in_use="Jobs that are not finished need this slide: 'cells' (0d3c8f6a-6a0e-4d6b-9d0b-5a0a4a9d1e27). Cancel "
    "them, or wait for them, and delete it then.",
)
_XML: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/xml": {"schema": {"type": "string"}}}, "description": "The descriptor."}
}


class SlidePage(views.View):
    """A part of the list of slides."""

    items: list[views.Slide]
    next_cursor: str | None = Field(description="Ask for the next page with it; null at the end.")


class AssociatedPicture(views.View):
    """A picture that the scanner stored beside the slide. Size in pixels."""

    name: str
    width: int
    height: int
    url: str


@router.post("/slides", status_code=201, openapi_extra=_UPLOAD, response_model=views.Slide, summary="Upload a slide")
async def upload(
    request: Request,
    response: Response,
    user: User,
    gateway: Context,
    filename: Annotated[str | None, Query(max_length=500, description="The file's name.")] = None,
    mpp: Annotated[Mpp | None, Query(description="µm per level-0 pixel, if you know it.")] = None,
    assume_mpp: Annotated[Mpp | None, Query(description="The same, assumed where the file does not say.")] = None,
    sha256: Annotated[
        str | None, Query(max_length=64, description="The file's sha256 in hexadecimal, to be checked.")
    ] = None,
) -> Response | views.Slide:
    """Store a slide. The body is the file itself, or multipart with one file part; it is streamed to disk.

    A raw body may also announce its sha-256 as Content-Digest or Repr-Digest (RFC 9530).
    """
    wish = PixelSizeWish(mpp, assume_mpp)
    digest = _announced_digest(request, sha256)
    slide_id = str(uuid.uuid4())
    length = request.headers.get("content-length")
    announced = int(length) if length and length.isdecimal() else None
    gateway.uploads.check_size(announced)
    async with gateway.quota.reserved(slide_id, user, announced) as room, gateway.uploads.draft(slide_id) as draft:
        try:
            received = await gateway.uploads.receive(
                draft,
                paced(aiter(request.stream()), gateway.settings.upload_stall_seconds),
                request.headers.get("content-type", ""),
                filename,
                room.ensure,
            )
        except ClientDisconnect:
            return Response(status_code=_CLIENT_CLOSED_REQUEST)
        check_file(digest, received.sha256)
        await gateway.registrar.register(draft, received, slide_id=slide_id, user_id=user, wish=wish)
    gateway.metrics.uploaded_bytes.inc(received.size_bytes)
    response.headers["Location"] = f"/api/v1/slides/{slide_id}"
    return present.slide(await gateway.queries.slide(user, slide_id))


@router.get("/slides", response_model=SlidePage, responses=NOT_MODIFIED, summary="Your slides")
async def slides(
    request: Request,
    user: User,
    gateway: Context,
    name: Annotated[str, Query(max_length=200, description="Part of the file's name, in any case.")] = "",
    limit: Limit = 50,
    cursor: PageCursor = None,
) -> Response:
    """List the user's slides, newest first."""
    found = await gateway.queries.find_slides(user, SlideFilter(name=name), limit, cursor)
    return page(request, [present.slide(record).model_dump() for record in found.items], found.next_cursor)


@router.get("/slides/{slide_id}", response_model=views.Slide, responses=NOT_MODIFIED, summary="One slide")
async def slide(slide_id: str, user: User, gateway: Context, request: Request) -> Response:
    """Say what is known of a slide."""
    record = await gateway.queries.slide(user, slide_id)
    return answer(request, Rendered.of(present.slide(record).model_dump()))


@router.delete(
    "/slides/{slide_id}", status_code=204, response_class=Response, responses=_IN_USE, summary="Delete a slide"
)
async def delete(slide_id: str, user: User, gateway: Context) -> Response:
    """Remove a slide's pixels. What was found on it stays. Refused while jobs that are not finished need it."""
    await gateway.deletions.slide(user, slide_id)
    return Response(status_code=204)


@router.get("/slides/{slide_id}/thumbnail", response_class=Response, responses=_JPEG, summary="The slide in small")
async def thumbnail(
    slide_id: str,
    user: LinkUser,
    gateway: Context,
    request: Request,
    size: Annotated[
        int, Query(ge=16, le=MAX_THUMBNAIL_SIZE, description="No side is longer, pixels.")
    ] = THUMBNAIL_SIZE,
) -> Response:
    """Show the whole slide; it is never enlarged."""
    facts = await _facts(gateway, user, slide_id)
    etag = f'"{facts.sha256[:32]}-thumbnail-{size}"'
    if _known(request, etag):
        return _not_modified(etag)
    return _picture(await gateway.pixels.thumbnail(_path(gateway, facts), size), etag)


@router.get(
    "/slides/{slide_id}/associated",
    response_model=list[AssociatedPicture],
    responses=NOT_MODIFIED,
    summary="Pictures beside the slide",
)
async def associated(slide_id: str, user: User, gateway: Context, request: Request) -> Response:
    """List what the scanner stored: label, macro, thumbnail. A label may show a patient's name."""
    facts = await _facts(gateway, user, slide_id)
    pictures = [
        AssociatedPicture(
            name=name, width=width, height=height, url=f"/api/v1/slides/{slide_id}/associated/{quote(name, safe='')}"
        ).model_dump()
        for name, width, height in await gateway.pixels.associated(_path(gateway, facts))
    ]
    return answer(request, Rendered.of(pictures))


@router.get(
    "/slides/{slide_id}/associated/{name}", response_class=Response, responses=_JPEG_PNG, summary="One of these"
)
async def associated_picture(
    slide_id: str,
    name: str,
    user: LinkUser,
    gateway: Context,
    request: Request,
    form: Annotated[Literal["jpeg", "png"], Query(alias="format", description="PNG loses nothing.")] = "jpeg",
) -> Response:
    """Show a picture that the scanner stored beside the slide."""
    facts = await _facts(gateway, user, slide_id)
    etag = f'"{facts.sha256[:32]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}-{form}"'
    if _known(request, etag):
        # Without asking whether there is such a picture: whoever has its tag has seen it.
        return _not_modified(etag)
    media_type = f"image/{form}"
    return _picture(await gateway.pixels.associated_picture(_path(gateway, facts), name, media_type), etag, media_type)


@router.get("/slides/{slide_id}/dzi.dzi", response_class=Response, responses=_XML, summary="Deep Zoom descriptor")
async def dzi(slide_id: str, user: LinkUser, gateway: Context) -> Response:
    """Describe the slide's Deep Zoom pyramid."""
    facts = await _facts(gateway, user, slide_id)
    document = DeepZoom(_path(gateway, facts), facts.width, facts.height).descriptor()
    return Response(document, media_type="application/xml", headers=_CACHED)


@router.get(
    "/slides/{slide_id}/dzi_files/{level}/{column}_{row}.jpeg",
    response_class=Response,
    responses=_JPEG,
    summary="One Deep Zoom tile",
)
async def tile(
    slide_id: str, level: int, column: int, row: int, user: LinkUser, gateway: Context, request: Request
) -> Response:
    """Show one tile."""
    facts = await _facts(gateway, user, slide_id)
    path = _path(gateway, facts)
    _check_address(DeepZoom(path, facts.width, facts.height), level, column, row)
    etag = f'"{facts.sha256[:32]}-{level}-{column}-{row}"'
    if _known(request, etag):
        return _not_modified(etag)
    return _picture(await gateway.pixels.tile(path, level, column, row), etag)


def _announced_digest(request: Request, sha256: str | None) -> str | None:
    digest = parse_digests(request.headers.get("content-digest"), request.headers.get("repr-digest"))
    if digest is not None and is_multipart(request.headers.get("content-type", "")):
        raise InvalidRequest("The digest of a multipart body is not its file's; give the file's as ?sha256=.")
    given = parse_sha256(sha256)
    if digest is not None and given not in (None, digest):
        raise InvalidRequest("The announced digests contradict each other.")
    return given or digest


async def _facts(gateway: Gateway, user: str, slide_id: str) -> SlideRegistered:
    return (await gateway.queries.slide(user, slide_id)).facts


def _path(gateway: Gateway, facts: SlideRegistered) -> Path:
    return gateway.settings.microtome_data_dir / facts.path


def _check_address(pyramid: DeepZoom, level: int, column: int, row: int) -> None:
    """Refuse addresses outside of the pyramid before a worker is asked."""
    if not 0 <= level < pyramid.level_count:
        raise NotFound(f"The slide has Deep Zoom levels 0 to {pyramid.level_count - 1}, not {level}.")
    width, height = pyramid.level_size(level)
    if not (0 <= column * TILE_SIZE < width and 0 <= row * TILE_SIZE < height):
        raise NotFound(f"Level {level} has no tile at {column}, {row}.")


def _known(request: Request, etag: str) -> bool:
    return known(request.headers.get("if-none-match"), etag)


def _not_modified(etag: str) -> Response:
    return Response(status_code=304, headers={**_CACHED, "ETag": etag})


def _picture(picture: bytes, etag: str, media_type: str = "image/jpeg") -> Response:
    return Response(picture, media_type=media_type, headers={**_CACHED, "ETag": etag})
