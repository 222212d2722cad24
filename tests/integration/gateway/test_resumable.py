"""Resumable uploads by tus 1.0.0, spoken through plain HTTP to the real gateway."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

import httpx
import pytest

from services.gateway.resumable import ResumableStore, UploadLocked
from tests.integration.gateway.conftest import Running, Start, content, picture

PIECE = "application/offset+octet-stream"


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def checksum(algorithm: str, data: bytes) -> str:
    known = {"crc32": lambda: zlib.crc32(data).to_bytes(4, "big")}
    value = known.get(algorithm, lambda: hashlib.new(algorithm, data).digest())()
    return f"{algorithm} {base64.b64encode(value).decode()}"


class Client:
    """The requests of the protocol, each once, without trying again."""

    def __init__(self, gateway: Running, user: str = "ada") -> None:
        self._gateway = gateway
        self._user = user

    async def request(self, method: str, url: str, content: Any = None, **headers: str) -> httpx.Response:
        sent = {"X-User-ID": self._user, "Tus-Resumable": "1.0.0"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        response = await self._gateway.http.request(method, url, content=content, headers=sent)
        assert response.headers["tus-resumable"] == "1.0.0"
        return response

    async def create(self, length: int, **headers: str) -> str:
        response = await self.request("POST", "/api/v1/uploads", Upload_Length=str(length), **headers)
        assert response.status_code == 201, response.text
        return response.headers["location"]

    async def patch(self, url: str, offset: int, data: Any, **headers: str) -> httpx.Response:
        headers = {"Content_Type": PIECE, "Upload_Offset": str(offset), **headers}
        return await self.request("PATCH", url, content=data, **headers)

    async def offset(self, url: str) -> int:
        response = await self.request("HEAD", url)
        assert response.status_code == 200
        assert response.headers["cache-control"] == "no-store"
        return int(response.headers["upload-offset"])


async def test_what_the_server_can_is_said(gateway: Running) -> None:
    response = await gateway.http.options("/api/v1/uploads")
    assert response.status_code == 204
    assert response.headers["tus-version"] == "1.0.0"
    assert set(response.headers["tus-extension"].split(",")) == {
        "creation",
        "creation-with-upload",
        "checksum",
        "expiration",
        "termination",
    }
    assert response.headers["tus-checksum-algorithm"] == "sha1,sha256,crc32"
    assert int(response.headers["tus-max-size"]) == gateway.gateway.settings.max_upload_bytes


async def test_an_upload_in_pieces_becomes_the_same_slide(gateway: Running, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    client = Client(gateway)
    named = metadata(filename="plain.png", assume_mpp="0.25", sha256=hashlib.sha256(body).hexdigest(), filetype="png")
    url = await client.create(len(body), Upload_Metadata=named)
    third = len(body) // 3
    assert await client.offset(url) == 0
    assert (await client.patch(url, 0, body[:third])).headers["upload-offset"] == str(third)
    (open_upload,) = (await gateway.get("/uploads")).json()
    assert (open_upload["state"], open_upload["offset"], open_upload["filename"]) == ("receiving", third, "plain.png")
    stored = await client.patch(url, third, body[third:-1], Upload_Checksum=checksum("sha1", body[third:-1]))
    assert stored.status_code == 204
    assert stored.headers["upload-expires"].endswith("GMT")
    assert "microtome-slide-id" not in stored.headers
    last = await client.patch(url, len(body) - 1, body[-1:])
    assert last.status_code == 204
    slide_id = last.headers["microtome-slide-id"]
    assert last.headers["location"] == f"/api/v1/slides/{slide_id}"

    resumed = await gateway.get(f"/slides/{slide_id}")
    whole = await gateway.upload(tmp_path / "pictures" / "plain.png", assume_mpp=0.25)
    differing = {"id", "registered_at"}
    shown = resumed.json()
    assert {key: value for key, value in shown.items() if key not in differing} == {
        key: value for key, value in whole.items() if key not in differing
    }
    assert shown["sha256"] == hashlib.sha256(body).hexdigest()
    assert content(gateway.data_dir / "slides" / slide_id / "plain.png") == body

    # What is over is remembered, and nothing else is left.
    head = await client.request("HEAD", url)
    assert head.headers["microtome-slide-id"] == slide_id
    assert head.headers["upload-metadata"] == named
    assert (await client.patch(url, len(body), b"")).headers["microtome-slide-id"] == slide_id
    assert (await client.patch(url, 0, body)).status_code == 409
    assert (await gateway.get("/uploads")).json() == []
    assert list((gateway.data_dir / "resumable").iterdir()) == []
    assert [file for file in gateway.stored_files() if file.startswith("uploads/")] == []
    assert (await client.request("DELETE", url)).status_code == 204
    assert (await gateway.get(f"/slides/{slide_id}")).status_code == 200


async def test_creation_may_bring_all_of_it(gateway: Running, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    response = await Client(gateway).request(
        "POST", "/api/v1/uploads", body, Upload_Length=str(len(body)), Content_Type=PIECE
    )
    assert response.status_code == 201
    assert response.headers["upload-offset"] == str(len(body))
    assert response.headers["location"].startswith("/api/v1/uploads/")
    slide = (await gateway.get(f"/slides/{response.headers['microtome-slide-id']}")).json()
    assert (slide["filename"], slide["sha256"]) == ("slide", hashlib.sha256(body).hexdigest())


async def test_a_damaged_piece_is_dropped_whole(gateway: Running) -> None:
    client = Client(gateway)
    url = await client.create(9000)
    assert (await client.patch(url, 0, b"a" * 1000)).status_code == 204
    offset = 1000
    for algorithm in ("sha1", "sha256", "crc32"):
        announced = {"Upload_Checksum": checksum(algorithm, b"b" * 2000)}
        damaged = await client.patch(url, offset, b"b" * 1999 + b"c", **announced)
        await gateway.assert_problem(damaged, 460, "chunk-checksum-mismatch")
        assert await client.offset(url) == offset
        right = await client.patch(url, offset, b"b" * 2000, **announced)
        offset += 2000
        assert right.headers["upload-offset"] == str(offset)
    unknown = await client.patch(url, offset, b"b", Upload_Checksum="md4 AAAA")
    await gateway.assert_problem(unknown, 422, "invalid-request")
    (file,) = (gateway.data_dir / "resumable").glob("*/content")
    assert content(file) == b"a" * 1000 + b"b" * 6000


async def test_what_a_kill_left_of_a_piece_with_a_checksum_does_not_count(tmp_path: Path) -> None:
    store = ResumableStore(tmp_path)
    folder = tmp_path / "resumable" / "killed"
    folder.mkdir(parents=True)
    (folder / "content").write_bytes(b"verified, and what was not")
    (folder / "unverified").write_text("8")
    assert await store.offset("killed") == 8
    async with store.locked("killed") as incoming:
        assert incoming.offset == 8
        with pytest.raises(UploadLocked):
            async with store.locked("killed"):
                pass
    assert [(path.name, path.read_bytes()) for path in folder.iterdir()] == [("content", b"verified")]


async def test_what_the_protocol_forbids(start_gateway: Start) -> None:
    async with start_gateway(max_upload_bytes=10_000) as gateway:
        client = Client(gateway)
        post = "/api/v1/uploads"
        for headers in (
            {"Upload_Defer_Length": "1"},
            {"Upload_Length": "5", "Upload_Concat": "partial"},
            {"Upload_Length": "0"},
            {"Upload_Length": "-5"},
            {"Upload_Length": "five"},
            {"Upload_Length": "5", "Upload_Metadata": "filename ???"},
            {"Upload_Length": "5", "Upload_Metadata": metadata(mpp="0.25", assume_mpp="0.5")},
            {"Upload_Length": "5", "Upload_Metadata": metadata(mpp="nan")},
            {"Upload_Length": "5", "Upload_Metadata": metadata(sha256="abc")},
        ):
            await gateway.assert_problem(await client.request("POST", post, **headers), 422, "invalid-request")
        await gateway.assert_problem(await client.request("POST", post, Upload_Length="10001"), 413, "too-large")
        typed = await client.request("POST", post, b"12345", Upload_Length="5", Content_Type="image/png")
        await gateway.assert_problem(typed, 415, "unsupported-media-type")
        assert (await gateway.get("/uploads")).json() == []

        url = await client.create(10)
        unversioned = await gateway.http.head(url, headers={"X-User-ID": "ada"})
        assert (unversioned.status_code, unversioned.headers["tus-version"]) == (412, "1.0.0")
        ahead = await client.patch(url, 3, b"1234")
        assert (await gateway.assert_problem(ahead, 409, "offset-mismatch"))["offset"] == 0
        assert ahead.headers["upload-offset"] == "0"
        await gateway.assert_problem(await client.patch(url, 0, b"12345678901"), 422, "invalid-request")
        wrong = await client.request("PATCH", url, b"1", Upload_Offset="0", Content_Type="image/png")
        await gateway.assert_problem(wrong, 415, "unsupported-media-type")

        async def too_much() -> Any:
            for _ in range(11):
                yield b"1"

        await gateway.assert_problem(await client.patch(url, 0, too_much()), 422, "invalid-request")
        assert await client.offset(url) == 0

        # Whoever cannot send PATCH says so.
        overridden = await client.request(
            "POST", url, b"12345", Upload_Offset="0", Content_Type=PIECE, X_HTTP_Method_Override="PATCH"
        )
        assert (overridden.status_code, overridden.headers["upload-offset"]) == (204, "5")

        # Walls.
        stranger = Client(gateway, "bob")
        for response in (
            await stranger.request("HEAD", url),
            await stranger.patch(url, 5, b"6"),
            await stranger.request("DELETE", url),
            await gateway.get(url.removeprefix("/api/v1"), user="bob"),
        ):
            assert response.status_code == 404
        assert (await gateway.get("/uploads", user="bob")).json() == []
        assert await client.offset(url) == 5

        assert (await client.request("DELETE", url)).status_code == 204
        assert (await client.request("HEAD", url)).status_code == 404
        assert list((gateway.data_dir / "resumable").iterdir()) == []


async def test_a_file_that_is_refused_says_why(gateway: Running) -> None:
    client = Client(gateway)
    url = await client.create(12, Upload_Metadata=metadata(filename="hello.svs"))
    refused = await client.patch(url, 0, b"hello, world")
    await gateway.assert_problem(refused, 422, "unreadable-slide")
    assert (await client.request("HEAD", url)).status_code == 422
    shown = (await gateway.get(url.removeprefix("/api/v1"))).json()
    assert (shown["state"], shown["slide_id"]) == ("failed", None)
    assert shown["problem"] == {"code": "unreadable-slide", "detail": refused.json()["detail"]}

    other = await client.create(12, Upload_Metadata=metadata(sha256="0" * 64))
    await gateway.assert_problem(await client.patch(other, 0, b"hello, world"), 422, "checksum-mismatch")
    await gateway.assert_problem(await client.patch(other, 12, b""), 422, "checksum-mismatch")
    assert await gateway.stored_events() == 0
    assert gateway.stored_files() == []
    assert list((gateway.data_dir / "resumable").iterdir()) == []


async def stalling(gateway: Running, method: str, path: str, came: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    """Announce ten bytes, send some, and wait for what the server says to that."""
    host, port = gateway.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    sent = {"Host": "x", "X-User-ID": "ada", "Tus-Resumable": "1.0.0", "Content-Length": "10"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + came)
    async with asyncio.timeout(10):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        body = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
    writer.close()
    return int(head.split()[1]), json.loads(body)


async def test_one_writer_at_a_time_and_what_stalls_is_let_go(start_gateway: Start) -> None:
    async with start_gateway(upload_stall_seconds=0.6) as gateway:
        client = Client(gateway)
        url = await client.create(100)
        piece = {"Content_Type": PIECE, "Upload_Offset": "0"}
        writing = asyncio.create_task(stalling(gateway, "PATCH", url, b"12345", **piece))
        await asyncio.sleep(0.2)
        await gateway.assert_problem(await client.patch(url, 0, b"abc"), 423, "upload-locked")
        assert (await client.request("DELETE", url)).status_code == 423
        status, problem = await writing
        assert (status, problem["code"], problem["transient"]) == (408, "request-timeout", True)
        assert await client.offset(url) == 5
        assert (await client.patch(url, 5, b"678")).headers["upload-offset"] == "8"
        # A piece that is to be verified counts as a whole or not at all.
        piece |= {"Upload_Offset": "8", "Upload_Checksum": checksum("sha1", b"12345never")}
        assert (await stalling(gateway, "PATCH", url, b"12345", **piece))[0] == 408
        assert await client.offset(url) == 8

        for path, kind in (("/slides", "image/tiff"), ("/workflows", "application/json")):
            status, problem = await stalling(gateway, "POST", f"/api/v1{path}", b"{", Content_Type=kind)
            assert (status, problem["code"]) == (408, "request-timeout")
        assert gateway.stored_files() == []


async def test_one_upload_that_cannot_be_dealt_with_does_not_hold_up_the_others(gateway: Running) -> None:
    client = Client(gateway)
    stuck, expired = [(await client.create(5)).rpartition("/")[2] for _ in range(2)]
    await client.patch(f"/api/v1/uploads/{stuck}", 0, b"1234")
    (gateway.data_dir / "uploads" / stuck).write_text("where the slide's folder should be made")
    async with gateway.gateway.database.connection() as connection:
        await connection.execute("update uploads set size_bytes = 4 where upload_id = $1", stuck)
        await connection.execute("update uploads set expires_at = clock_timestamp() where upload_id = $1", expired)
    await gateway.gateway.completion.sweep()
    assert [each["id"] for each in (await gateway.get("/uploads")).json()] == [stuck]
    assert [folder.name for folder in (gateway.data_dir / "resumable").iterdir()] == [stuck]


async def test_a_user_has_only_so_many_uploads_under_way(start_gateway: Start) -> None:
    async with start_gateway(max_open_uploads=2) as gateway:
        ada = Client(gateway)
        urls = [await ada.create(5) for _ in range(2)]
        both = [ada.request("POST", "/api/v1/uploads", Upload_Length="5") for _ in range(2)]
        for refused in await asyncio.gather(*both):
            await gateway.assert_problem(refused, 429, "too-many-uploads")
        await Client(gateway, "bob").create(5)
        assert (await ada.request("DELETE", urls[0])).status_code == 204
        await ada.create(5)


async def test_what_nobody_continues_expires(start_gateway: Start) -> None:
    async with start_gateway(upload_expiry_seconds=1) as gateway:
        client = Client(gateway)
        url = await client.create(100)
        await client.patch(url, 0, b"12345")
        await asyncio.sleep(1.1)
        await gateway.assert_problem(await client.patch(url, 5, b"6"), 410, "upload-expired")
        await gateway.gateway.completion.sweep()
        assert (await client.request("HEAD", url)).status_code == 404
        assert list((gateway.data_dir / "resumable").iterdir()) == []
