"""Files as answers: whole, in parts, and cut short."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from services.gateway.stored_file import SMALL_BYTES, StoredFile

CHUNK = StoredFile.chunk_size
HEADERS = {"ETag": '"tag"', "Cache-Control": "private, no-cache"}


async def asked(path: Path, size_bytes: int, method: str = "GET", **headers: str) -> httpx.Response:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await StoredFile(path, size_bytes, media_type="text/csv", headers=HEADERS)(scope, receive, send)

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        return await client.request(method, "/", headers=headers)


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
@pytest.mark.parametrize("told", [0, SMALL_BYTES + 1])
async def test_small_and_large_files_come_whole(size: int, told: int, tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_bytes(bytes(index % 251 for index in range(size)))
    answer = await asked(path, size + told)
    assert answer.status_code == 200
    assert answer.content == path.read_bytes()
    known = {name: answer.headers[name] for name in ("content-length", "etag", "accept-ranges")}
    assert known == {"content-length": str(size), "etag": '"tag"', "accept-ranges": "bytes"}
    assert answer.headers["content-type"].startswith("text/csv")
    assert "last-modified" in answer.headers


async def test_parts_and_headers_alone(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_bytes(b"0123456789")
    part = await asked(path, 10, Range="bytes=2-4")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    head = await asked(path, 10, "HEAD")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", "10")
