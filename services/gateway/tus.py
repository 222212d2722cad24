"""Uploads that survive a broken connection: tus 1.0.0.

Promises: creation (also with the first bytes), checksum, expiration and termination as https://tus.io has them; with
the last byte the upload becomes a slide, whose id every later answer tells in `Microtome-Slide-Id`.
Refuses: uploads of unknown length, and concatenation; the size is what quota and disk are asked for.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from datetime import datetime
from email.utils import format_datetime
from typing import Any, ClassVar, Literal

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from microtome.errors import Conflict, InvalidRequest, MicrotomeError, TooLarge, UnreadableSlide
from microtome.reservations.uploads import Upload
from services.gateway import problems, views
from services.gateway.announcing import Announcement
from services.gateway.context import Context, Gateway
from services.gateway.integrity import ALGORITHMS, Checksum, ChecksumMismatch
from services.gateway.pace import paced
from services.gateway.resumable import Incoming
from services.gateway.user import User

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
PIECE = "application/offset+octet-stream"
_CLIENT_CLOSED_REQUEST = 499
_REFUSALS: dict[str, type[MicrotomeError]] = {
    error.code: error for error in (UnreadableSlide, TooLarge, ChecksumMismatch, InvalidRequest)
}
State = Literal["receiving", "processing", "registered", "failed"]


class TusVersion(MicrotomeError):
    """Only tus 1.0.0 is spoken here; send Tus-Resumable: 1.0.0."""

    code: ClassVar[str] = "tus-version"
    headers: ClassVar[dict[str, str]] = {"Tus-Version": VERSION}


class UnsupportedMediaType(MicrotomeError):
    """The bytes of an upload are sent with Content-Type: application/offset+octet-stream."""

    code: ClassVar[str] = "unsupported-media-type"


class OffsetMismatch(MicrotomeError):
    """The upload has another offset."""

    code: ClassVar[str] = "offset-mismatch"

    def __init__(self, offset: int) -> None:
        super().__init__(f"The upload has {offset} bytes; continue there.")
        self.headers = {"Upload-Offset": str(offset)}
        self.members = {"offset": offset}


class UploadExpired(MicrotomeError):
    """Nobody continued this upload for too long; begin it anew."""

    code: ClassVar[str] = "upload-expired"


class UploadProblem(views.View):
    """Why an upload came to nothing."""

    code: str
    detail: str


class UploadView(views.View):
    """A resumable upload. `slide_id` is null until it is a slide."""

    id: str
    url: str
    filename: str
    size_bytes: int
    offset: int
    state: State
    slide_id: str | None
    problem: UploadProblem | None
    created_at: datetime
    expires_at: datetime


class _TusRoute(APIRoute):
    """Says the protocol's version with every answer, and lets a client that still sends read an early one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                response = await handle(request)
            except MicrotomeError as error:
                response = problems.of_error(error, request.url.path)
                if request.method in ("POST", "PATCH") and not isinstance(response, problems.Lingering):
                    response = problems.Lingering(response)
            response.headers["Tus-Resumable"] = VERSION
            return response

        return handled


class MethodOverride:
    """ASGI middleware: X-HTTP-Method-Override below `prefix`, for clients that cannot send PATCH or DELETE."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].startswith(self._prefix):
            override = dict(scope["headers"]).get(b"x-http-method-override", b"").decode("latin-1").upper()
            if override in ("PATCH", "DELETE", "HEAD"):
                scope = {**scope, "method": override}
        await self._app(scope, receive, send)


router = APIRouter(tags=["uploads"], route_class=_TusRoute)


def _said(*names: str) -> dict[str, Any]:
    described = {name: {"schema": {"type": "string"}} for name in ("Tus-Resumable", *names)}
    return {"headers": described}


def _asked(*names: str, body: bool = False) -> dict[str, Any]:
    """Headers that a route reads, for the OpenAPI document; they are checked by hand, as the protocol has it."""
    examples = {
        "Tus-Resumable": VERSION,
        "Upload-Length": "1938955",
        "Upload-Offset": "0",
        "Upload-Metadata": "filename Q01VLTEuc3Zz,assume_mpp MC41",
        "Upload-Checksum": "sha256 47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
    }
    asked = [
        {"name": name, "in": "header", "required": True, "schema": {"type": "string"}, "example": examples[name]}
        if name in ("Tus-Resumable", "Upload-Length", "Upload-Offset")
        else {"name": name, "in": "header", "required": False, "schema": {"type": "string"}, "example": examples[name]}
        for name in ("Tus-Resumable", *names)
    ]
    binary = {"content": {PIECE: {"schema": {"type": "string", "format": "binary"}}}}
    return {"parameters": asked, **({"requestBody": binary} if body else {})}


@router.options("/uploads", status_code=204, response_class=Response, summary="What this server can (tus)")
@router.options("/uploads/{upload_id}", status_code=204, response_class=Response, include_in_schema=False)
async def options(gateway: Context) -> Response:
    """Say which version, extensions and sizes are understood."""
    headers = {
        "Tus-Version": VERSION,
        "Tus-Extension": EXTENSIONS,
        "Tus-Max-Size": str(gateway.settings.max_upload_bytes),
        "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    "/uploads",
    status_code=201,
    response_class=Response,
    responses={201: {"description": "Created.", **_said("Location", "Upload-Offset", "Upload-Expires")}},
    openapi_extra=_asked("Upload-Length", "Upload-Metadata", "Upload-Checksum", body=True),
    summary="Begin a resumable upload (tus)",
)
async def create(request: Request, user: User, gateway: Context) -> Response:
    """Reserve room. Metadata: filename, mpp, assume_mpp, sha256. The body may already hold the first bytes."""
    _check_version(request)
    for unknown in ("Upload-Defer-Length", "Upload-Concat"):
        if unknown in request.headers:
            raise InvalidRequest(f"{unknown} is not supported; say Upload-Length, and send the file in its order.")
    size = _number(request, "Upload-Length")
    if size < 1:
        raise InvalidRequest("The file is empty.")
    if size > gateway.settings.max_upload_bytes:
        raise TooLarge(
            f"The file is larger than the {gateway.settings.max_upload_bytes} bytes that this server accepts."
        )
    metadata = request.headers.get("upload-metadata", "")
    Announcement.parse(metadata)
    brings = _brings_bytes(request)
    checksum = Checksum.parse(request.headers.get("upload-checksum")) if brings else None
    seconds = gateway.settings.upload_expiry_seconds
    upload = await gateway.quota.promise(str(uuid.uuid4()), user, size, metadata, seconds)
    async with gateway.resumable.locked(upload.upload_id) as incoming:
        if brings:
            answer = await _take(gateway, request, upload, incoming, checksum)
        else:
            answer = Response(headers={"Upload-Offset": "0", "Upload-Expires": _http_date(upload.expires_at)})
    if answer.status_code != _CLIENT_CLOSED_REQUEST:
        answer.status_code = 201
        answer.headers["Location"] = _url(upload)
    return answer


@router.head(
    "/uploads/{upload_id}",
    response_class=Response,
    responses={200: {"description": "Where to continue.", **_said("Upload-Offset", "Upload-Length")}},
    openapi_extra=_asked(),
    summary="Where to continue an upload (tus)",
)
async def head(upload_id: str, request: Request, user: User, gateway: Context) -> Response:
    """Say how many bytes are safely stored; of a finished upload, which slide it is."""
    _check_version(request)
    upload = await _existing(gateway, user, upload_id)
    offset = upload.size_bytes if upload.finished_at else await gateway.resumable.offset(upload_id)
    headers = {
        "Upload-Offset": str(offset),
        "Upload-Length": str(upload.size_bytes),
        "Upload-Expires": _http_date(upload.expires_at),
        "Cache-Control": "no-store",
        "Microtome-Upload-State": _state(upload, offset),
    }
    if upload.metadata:
        headers["Upload-Metadata"] = upload.metadata
    return Response(headers=headers | _slide_headers(upload, registered=upload.finished_at is not None))


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    responses={
        204: {"description": "Stored.", **_said("Upload-Offset", "Upload-Expires", "Microtome-Slide-Id")},
        **problems.answers(
            "/api/v1/uploads/5a1c7d0e-93f2-4b6a-a8d4-0c1e2f3a4b5c",
            request_timeout="Nothing came for 60 seconds.",
            offset_mismatch="The upload has 67108864 bytes; continue there.",
            upload_expired="Nobody continued this upload for too long; begin it anew.",
            unsupported_media_type="The bytes are sent with Content-Type: application/offset+octet-stream.",
            upload_locked="Another request is writing to this upload; try again in a moment.",
            chunk_checksum_mismatch="A piece of the upload arrived damaged and was dropped; send it again.",
        ),
    },
    openapi_extra=_asked("Upload-Offset", "Upload-Checksum", body=True),
    summary="Send a piece of an upload (tus)",
)
async def append(upload_id: str, request: Request, user: User, gateway: Context) -> Response:
    """Store the body at the offset. With the last byte the file becomes a slide, which may take a while."""
    _check_version(request)
    if not _is_piece(request):
        raise UnsupportedMediaType
    offset = _number(request, "Upload-Offset")
    checksum = Checksum.parse(request.headers.get("upload-checksum"))
    await _existing(gateway, user, upload_id)
    async with gateway.resumable.locked(upload_id) as incoming:
        # Whoever held the lock before may have finished the upload, or ended it.
        upload = await _existing(gateway, user, upload_id)
        stored = upload.size_bytes if upload.finished_at else incoming.offset
        if offset != stored:
            raise OffsetMismatch(stored)
        if upload.finished_at:
            return Response(status_code=204, headers={"Upload-Offset": str(stored)} | _slide_headers(upload))
        return await _take(gateway, request, upload, incoming, checksum)


@router.delete("/uploads/{upload_id}", status_code=204, response_class=Response, summary="Give an upload up (tus)")
async def terminate(upload_id: str, user: User, gateway: Context) -> Response:
    """Forget the upload and what came of it; a slide that it has become stays."""
    await gateway.uploading.get(user, upload_id)
    async with gateway.resumable.locked(upload_id) as incoming:
        await gateway.uploading.remove(upload_id)
        # Giving many gigabytes back takes a file system a while.
        await asyncio.to_thread(incoming.drop)
    return Response(status_code=204)


@router.get("/uploads", summary="Your uploads that are under way")
async def uploads(user: User, gateway: Context) -> list[UploadView]:
    """List what can be continued, oldest first."""
    return [await _view(gateway, upload) for upload in await gateway.uploading.of_user(user)]


@router.get("/uploads/{upload_id}", summary="One upload")
async def upload(upload_id: str, user: User, gateway: Context) -> UploadView:
    """Show how far an upload is, which slide it became, or why it was refused."""
    return await _view(gateway, await gateway.uploading.get(user, upload_id))


async def _take(
    gateway: Gateway, request: Request, upload: Upload, incoming: Incoming, checksum: Checksum | None
) -> Response:
    """Append the request's body; complete the upload if that was the last of it."""
    room = upload.size_bytes - incoming.offset
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > room:
        raise InvalidRequest(f"The body has {announced} bytes, but Upload-Length leaves only {room}.")
    try:
        stream = paced(aiter(request.stream()), gateway.settings.upload_stall_seconds)
        await incoming.append(stream, room, checksum)
    except ClientDisconnect:
        return Response(status_code=_CLIENT_CLOSED_REQUEST)
    finally:
        expires_at = await gateway.uploading.touch(upload.upload_id, gateway.settings.upload_expiry_seconds)
    headers = {"Upload-Offset": str(incoming.offset)}
    if incoming.offset == upload.size_bytes:
        await gateway.completion.complete(upload, incoming)
        gateway.metrics.uploaded_bytes.inc(upload.size_bytes)
        headers |= _slide_headers(upload)
    elif expires_at is not None:
        headers["Upload-Expires"] = _http_date(expires_at)
    return Response(status_code=204, headers=headers)


async def _existing(gateway: Gateway, user: str, upload_id: str) -> Upload:
    """The upload. Raises `NotFound`, `UploadExpired`, and what a refused file was refused for."""
    upload = await gateway.uploading.get(user, upload_id)
    if upload.problem is not None:
        # The same once more.
        raise _REFUSALS.get(upload.problem["code"], Conflict)(upload.problem["detail"])
    if upload.expired:
        raise UploadExpired
    return upload


async def _view(gateway: Gateway, upload: Upload) -> UploadView:
    offset = upload.size_bytes if upload.finished_at else await gateway.resumable.offset(upload.upload_id)
    return UploadView(
        id=upload.upload_id,
        url=_url(upload),
        filename=Announcement.parse(upload.metadata).filename,
        size_bytes=upload.size_bytes,
        offset=offset,
        state=_state(upload, offset),
        slide_id=upload.upload_id if upload.finished_at else None,
        problem=None if upload.problem is None else UploadProblem(**upload.problem),
        created_at=upload.created_at,
        expires_at=upload.expires_at,
    )


def _state(upload: Upload, offset: int) -> State:
    if upload.problem is not None:
        return "failed"
    if upload.finished_at is not None:
        return "registered"
    return "processing" if offset == upload.size_bytes else "receiving"


def _slide_headers(upload: Upload, *, registered: bool = True) -> dict[str, str]:
    if not registered:
        return {}
    # The slide of an upload has the upload's id.
    slide = f"/api/v1/slides/{upload.upload_id}"
    return {"Microtome-Slide-Id": upload.upload_id, "Location": slide, "Microtome-Upload-State": "registered"}


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != VERSION:
        raise TusVersion


def _is_piece(request: Request) -> bool:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == PIECE


def _brings_bytes(request: Request) -> bool:
    """Whether a creation has bytes in it. Raises `UnsupportedMediaType` for bytes of another kind."""
    empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    if not empty and not _is_piece(request):
        raise UnsupportedMediaType
    return not empty


def _number(request: Request, header: str) -> int:
    text = request.headers.get(header, "")
    # No file is longer than a 64-bit number can say.
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise InvalidRequest(f"The header {header} is needed here, a whole number of bytes.")
    return int(text)


def _url(upload: Upload) -> str:
    return f"/api/v1/uploads/{upload.upload_id}"


def _http_date(at: datetime) -> str:
    return format_datetime(at, usegmt=True)
