"""Slides through the real gateway: stored whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import signal
import time
from io import BytesIO
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from microtome.contracts.messages import MppSource
from microtome.slides.facts import SlideFacts
from services.gateway.pixels import ByteCache
from services.gateway.registration import PixelSizeWish, settle_pixel_size
from services.gateway.uploads import clean_filename
from tests.integration.gateway.conftest import Running, Start, content, picture


async def test_a_real_slide_is_stored_and_shown(gateway: Running, small_slide: Path) -> None:
    slide = await gateway.upload(small_slide)
    assert slide["sha256"] == hashlib.sha256(content(small_slide)).hexdigest()
    assert (slide["width"], slide["height"]) == (2220, 2967)
    assert slide["mpp_source"] == "vendor"
    assert abs(slide["mpp"] - 0.499) < 1e-9
    assert (await gateway.get(f"/slides/{slide['id']}")).json() == slide
    assert (await gateway.get("/slides")).json() == {"items": [slide], "next_cursor": None}

    picture = await gateway.get(f"/slides/{slide['id']}/thumbnail")
    assert picture.headers["content-type"] == "image/jpeg"
    assert max(Image.open(BytesIO(picture.content)).size) == 1024
    again = await gateway.get(f"/slides/{slide['id']}/thumbnail", headers={"If-None-Match": picture.headers["etag"]})
    assert again.status_code == 304

    descriptor = await gateway.get(f"/slides/{slide['id']}/dzi.dzi")
    assert 'Width="2220"' in descriptor.text
    tile = await gateway.get(f"/slides/{slide['id']}/dzi_files/12/0_0.jpeg")
    assert Image.open(BytesIO(tile.content)).size == (255, 255)
    assert "private" in tile.headers["cache-control"]
    linked = await gateway.http.get(f"/api/v1/slides/{slide['id']}/dzi_files/12/1_0.jpeg?user=ada")
    assert linked.status_code == 200
    assert linked.content != tile.content
    for address in ("12/99_0", "99/0_0", "12/-1_0"):
        await gateway.assert_problem(
            await gateway.get(f"/slides/{slide['id']}/dzi_files/{address}.jpeg"), 404, "not-found"
        )


async def test_a_plain_image_becomes_a_slide(gateway: Running, tmp_path: Path) -> None:
    slide = await gateway.upload(picture(tmp_path, "été №1.png"))
    assert (slide["width"], slide["height"]) == (640, 480)
    assert slide["mpp"] is None
    assert slide["mpp_source"] == "unknown"
    assert slide["filename"] == "été _1.png"
    assert any("does not say" in note for note in slide["notes"])
    tile = await gateway.get(f"/slides/{slide['id']}/dzi_files/10/0_0.jpeg")
    assert tile.status_code == 200
    assert [file for file in gateway.stored_files() if file.startswith("uploads/")] == []


def facts(mpp: float | None) -> SlideFacts:
    source: Literal["vendor", "unknown"] = "unknown" if mpp is None else "vendor"
    return SlideFacts("", 1, "aperio", 10, 10, (), mpp, source, None, "brightfield", ())


def test_a_pixel_size_says_where_it_comes_from() -> None:
    assert settle_pixel_size(facts(None), PixelSizeWish()) == (None, MppSource.UNKNOWN, ())
    assert settle_pixel_size(facts(0.5), PixelSizeWish()) == (0.5, MppSource.VENDOR, ())
    assert settle_pixel_size(facts(0.5), PixelSizeWish(mpp=0.5)) == (0.5, MppSource.USER, ())
    mpp, source, notes = settle_pixel_size(facts(0.5), PixelSizeWish(mpp=0.25))
    assert (mpp, source) == (0.25, MppSource.USER)
    assert "The file says 0.5" in notes[0]
    mpp, source, notes = settle_pixel_size(facts(None), PixelSizeWish(assume_mpp=0.25))
    assert (mpp, source) == (0.25, MppSource.ASSUMED)
    assert "assumption" in notes[0]
    mpp, source, notes = settle_pixel_size(facts(0.5), PixelSizeWish(assume_mpp=0.25))
    assert (mpp, source) == (0.5, MppSource.VENDOR)
    assert "not needed" in notes[0]


async def test_multipart_gives_the_same_slide(gateway: Running, tmp_path: Path) -> None:
    plain = picture(tmp_path, "plain.png")
    sent = content(plain)
    raw = await gateway.upload(plain, mpp=0.25)
    assert (raw["mpp"], raw["mpp_source"]) == (0.25, "user")
    file = ("C:\\slides\\plain.png", sent, "image/png")
    response = await gateway.post("/slides", files={"file": file}, params={"assume_mpp": 0.5})
    assert response.status_code == 201, response.text
    parted = response.json()
    assert parted["sha256"] == raw["sha256"] == hashlib.sha256(sent).hexdigest()
    assert parted["filename"] == "plain.png"
    assert (parted["mpp"], parted["mpp_source"]) == (0.5, "assumed")
    stored = gateway.data_dir / "slides" / parted["id"] / "plain.png"
    assert content(stored) == sent


async def test_what_cannot_be_read_is_refused_and_leaves_nothing(gateway: Running, small_slide: Path) -> None:
    truncated = content(small_slide)[:1_000_000]
    png = b"\x89PNG\r\n\x1a\n" + bytes(1000)
    for body, name in ((b"hello, world", "hello.svs"), (truncated, "cut.svs"), (png, "broken.png")):
        refused = await gateway.post("/slides", content=body, params={"filename": name})
        await gateway.assert_problem(refused, 422, "unreadable-slide")
    await gateway.assert_problem(await gateway.post("/slides", content=b""), 422, "invalid-request")
    assert await gateway.stored_events() == 0
    assert gateway.stored_files() == []


async def test_a_malformed_request_is_refused_and_leaves_nothing(gateway: Running) -> None:
    post = gateway.post
    two = {"a": ("a.png", b"a"), "b": ("b.png", b"b")}
    field = await post("/slides", files={"file": ("a.png", b"a")}, data={"mpp": "0.5"})
    half = b'--x\r\nContent-Disposition: form-data; name="f"; filename="a.png"\r\n\r\nabc'
    cut = await post("/slides", content=half, headers={"Content-Type": "multipart/form-data; boundary=x"})
    no_boundary = await post("/slides", content=b"abc", headers={"Content-Type": "multipart/form-data"})
    both = await post("/slides", content=b"abc", params={"mpp": 0.5, "assume_mpp": 0.5})
    absurd = await post("/slides", content=b"abc", params={"mpp": 1e9})
    not_a_number = await post("/slides", content=b"abc", params={"mpp": "nan"})
    for response in (await post("/slides", files=two), field, cut, no_boundary, both, absurd, not_a_number):
        await gateway.assert_problem(response, 422, "invalid-request")
    assert await gateway.stored_events() == 0
    assert gateway.stored_files() == []


async def test_a_file_over_the_limit_is_refused_while_it_comes(start_gateway: Start) -> None:
    async with start_gateway(max_upload_bytes=3 << 20) as gateway:
        host, port = gateway.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /api/v1/slides HTTP/1.1\r\nHost: x\r\nX-User-ID: ada\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = asyncio.create_task(reader.readuntil(b"\r\n"))
        async with asyncio.timeout(10):
            while not answer.done():
                writer.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
                await writer.drain()
        assert b" 413 " in answer.result()
        writer.transport.abort()
        announced = await gateway.post("/slides", content=bytes(4 << 20))
        await gateway.assert_problem(announced, 413, "too-large")
        parted = await gateway.post("/slides", files={"file": ("a.png", bytes(4 << 20))})
        await gateway.assert_problem(parted, 413, "too-large")
        assert await gateway.stored_events() == 0
        assert gateway.stored_files() == []


async def test_a_client_that_leaves_leaves_nothing(gateway: Running) -> None:
    host, port = gateway.url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /api/v1/slides HTTP/1.1\r\nHost: x\r\nX-User-ID: ada\r\nContent-Length: 99999999\r\n\r\n")
    writer.write(bytes(3 << 20))
    await writer.drain()
    async with asyncio.timeout(5):
        while not any(file.endswith(".arriving") for file in gateway.stored_files()):
            await asyncio.sleep(0.01)
        writer.transport.abort()
        while gateway.stored_files():
            await asyncio.sleep(0.01)
    assert await gateway.stored_events() == 0


async def test_leftovers_of_a_killed_gateway_are_swept(start_gateway: Start, tmp_path: Path) -> None:
    leftover = tmp_path / "data" / "uploads" / "dead"
    leftover.mkdir(parents=True)
    (leftover / ".arriving").write_bytes(b"half")
    old = time.time() - 3600
    os.utime(leftover, (old, old))
    async with start_gateway() as gateway:
        assert gateway.stored_files() == []


async def test_other_users_see_nothing_and_a_crash_of_the_decoder_is_survived(gateway: Running, tmp_path: Path) -> None:
    slide = await gateway.upload(picture(tmp_path, "plain.png"))
    for path in ("", "/thumbnail", "/dzi.dzi", "/dzi_files/9/0_0.jpeg"):
        response = await gateway.get(f"/slides/{slide['id']}{path}", user="bob")
        await gateway.assert_problem(response, 404, "not-found")
    assert (await gateway.get("/slides", user="bob")).json()["items"] == []

    tile = f"/slides/{slide['id']}/dzi_files/10"
    assert (await gateway.get(f"{tile}/0_0.jpeg")).status_code == 200
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    assert (await gateway.get(f"{tile}/1_0.jpeg")).status_code == 200


@pytest.mark.parametrize(
    ("name", "cleaned"),
    [
        ("slide.svs", "slide.svs"),
        ("../../etc/passwd", "passwd"),
        ("C:\\a\\b.ndpi", "b.ndpi"),
        ("a\0b\n.tif", "a_b_.tif"),
        ("...", "slide"),
        ("", "slide"),
        ("thumbnail.jpg", "slide-thumbnail.jpg"),
        (".arriving", "arriving"),
        ("ü" * 200 + ".svs", "ü" * 73 + ".svs"),
    ],
)
def test_file_names_are_cleaned(name: str, cleaned: str) -> None:
    assert clean_filename(name) == cleaned
    assert len(clean_filename(name).encode()) <= 150


def test_the_picture_cache_is_bounded() -> None:
    cache = ByteCache(100)
    for key in range(10):
        cache.put(key, bytes(30))
        cache.get(0)
    assert cache.size <= 100
    assert cache.get(0) is not None
    assert cache.get(9) is not None
    assert cache.get(5) is None
