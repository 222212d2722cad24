"""The web page, and the documents about the API; everything comes from this server.

Promises: a content security policy that allows this origin only; hashed assets may be kept for good, the page
itself is asked for anew; without a built page it says how to build one. Refuses: paths outside of its folders.
"""

from __future__ import annotations

import asyncio
import gzip
import mimetypes
import re
from functools import lru_cache
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse
from starlette.exceptions import HTTPException

_STATIC = Path(__file__).parent / "static"
_NOWHERE = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    + _NOWHERE
)
# Swagger UI and Redoc style themselves inline; Redoc searches in a worker that it makes from a blob.
_DOCS_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; worker-src blob:; " + _NOWHERE
)
_MISSING_CSP = "default-src 'none'; style-src 'unsafe-inline'; " + _NOWHERE
_REDOC_LOGO = b"https://cdn.redoc.ly/redoc/logo-mini.svg"
_HASHED = re.compile(r"-[A-Za-z0-9_-]{8,}\.\w+$")
_IMMUTABLE = "public, max-age=31536000, immutable"
_MEDIA_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".wasm": "application/wasm"}
_ELSEWHERE = ("api/", "ws/", "docs/", "redoc/")

_MISSING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Microtome</title>
<body style="font: 16px/1.5 system-ui; max-width: 40em; margin: 4em auto; padding: 0 1em">
<h1>Microtome is running, its page is not built</h1>
<p>Run <code>make ui</code> in the project's folder, then load this page again.</p>
<p>The API works without it: see <a href="/docs">/docs</a>.</p></body></html>"""

_SWAGGER = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Microtome API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css"></head><body><div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script><script src="/docs/start.js"></script></body></html>"""

_REDOC = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Microtome API</title>
<link rel="icon" href="data:,"></head>
<body style="margin: 0"><div id="redoc"></div>
<script src="/redoc/redoc.standalone.js"></script><script src="/redoc/start.js"></script></body></html>"""


def router(ui_dir: Path) -> APIRouter:
    """The routes of the page; include them last, since they take every address that is left."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(_SWAGGER, headers={"Content-Security-Policy": _DOCS_CSP, "Cache-Control": "no-cache"})

    @routes.get("/redoc")
    async def redoc() -> Response:
        return HTMLResponse(_REDOC, headers={"Content-Security-Policy": _DOCS_CSP, "Cache-Control": "no-cache"})

    @routes.get("/docs/{name}")
    async def docs_file(name: str, request: Request) -> Response:
        return await asyncio.to_thread(_vendored, "swagger-ui", name, request)

    @routes.get("/redoc/{name}")
    async def redoc_file(name: str, request: Request) -> Response:
        return await asyncio.to_thread(_vendored, "redoc", name, request)

    @routes.get("/{path:path}")
    async def page(path: str) -> Response:
        if path.startswith(_ELSEWHERE):
            raise HTTPException(404)
        return await asyncio.to_thread(_page, ui_dir, path)

    return routes


def _page(ui_dir: Path, path: str) -> Response:
    index = ui_dir / "index.html"
    if "\0" in path:
        raise HTTPException(404)
    file = (ui_dir / path).resolve()
    if path and file.is_file() and file.is_relative_to(ui_dir):
        cache = _IMMUTABLE if _HASHED.search(file.name) else "no-cache"
        return FileResponse(file, media_type=_media_type(file.name), headers=_headers(cache))
    # An address with a suffix is a file that is not there; any other is a view within the page.
    if "." in path.rsplit("/", 1)[-1]:
        raise HTTPException(404)
    if not index.is_file():
        return HTMLResponse(_MISSING, headers=_headers("no-store", _MISSING_CSP))
    return FileResponse(index, media_type="text/html", headers=_headers("no-cache"))


def _headers(cache: str, policy: str = _CSP) -> dict[str, str]:
    return {"Content-Security-Policy": policy, "Cache-Control": cache, "Referrer-Policy": "same-origin"}


def _media_type(name: str) -> str:
    return _MEDIA_TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream"


def _vendored(folder: str, name: str, request: Request) -> Response:
    content = _vendored_files(folder).get(name)
    if content is None:
        raise HTTPException(404)
    headers = {"Cache-Control": "public, max-age=3600", "Vary": "Accept-Encoding"}
    compressed = content[:2] == b"\x1f\x8b"
    if compressed and "gzip" in request.headers.get("accept-encoding", ""):
        headers["Content-Encoding"] = "gzip"
    elif compressed:
        content = gzip.decompress(content)
    return Response(content, media_type=_media_type(name), headers=headers)


@lru_cache(maxsize=2)
def _vendored_files(folder: str) -> dict[str, bytes]:
    """The files of one folder by name; all of them together are under 1 MB."""
    return {
        file.name.removesuffix(".gz"): _without_foreign_logo(file.read_bytes()) for file in (_STATIC / folder).iterdir()
    }


def _without_foreign_logo(content: bytes) -> bytes:
    """Redoc asks a foreign host for its maker's logo. The file lies here as it was published, and is served without."""
    if content[:2] != b"\x1f\x8b":
        return content
    script = gzip.decompress(content)
    return gzip.compress(script.replace(_REDOC_LOGO, b"data:,")) if _REDOC_LOGO in script else content
