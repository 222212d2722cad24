"""Between a slide's rename and its event: outages, kills and clients that leave never leave half a slide."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from services.gateway.uploads import UNRECORDED_AFTER_S, UploadStore
from tests.integration.gateway.conftest import Running, Start, content, picture, registered


class Cable:
    """A way to a server that can be cut."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._writers: set[asyncio.StreamWriter] = set()
        self.whole = True

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.whole:
            writer.close()
            return
        far_reader, far_writer = await asyncio.open_connection(*self._address)
        self._writers |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._writers -= {writer, far_writer}

    def cut(self) -> None:
        self.whole = False
        for writer in self._writers:
            writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(1 << 16):
            writer.write(block)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def cable_to(url: str) -> AsyncIterator[tuple[Cable, str]]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    cable = Cable(parts.hostname, parts.port)
    server = await asyncio.start_server(cable, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    user = parts.netloc.rpartition("@")[0]
    try:
        yield cable, parts._replace(netloc=f"{user}@127.0.0.1:{port}" if user else f"127.0.0.1:{port}").geturl()
    finally:
        server.close()
        cable.cut()


def grow_old(data_dir: Path) -> None:
    """Let the marks be from before the time in which somebody could still be at work."""
    past = time.time() - UNRECORDED_AFTER_S - 1
    for mark in (data_dir / "slides").glob("*/.unrecorded"):
        os.utime(mark, (past, past))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def gone(gateway: Running) -> None:
    async with asyncio.timeout(10):
        while gateway.stored_files():
            await asyncio.sleep(0.02)


async def test_an_outage_of_the_log_leaves_no_slide(start_gateway: Start, database_url: str, tmp_path: Path) -> None:
    body = content(picture(tmp_path, "plain.png"))
    async with cable_to(database_url) as (cable, url), start_gateway(microtome_database_url=url) as gateway:
        cable.cut()
        refused = await gateway.post("/slides", content=body, params={"filename": "plain.png"})
        await gateway.assert_problem(refused, 503, "unavailable")
        # Nobody can know yet whether it was recorded.
        assert any(file.endswith("/plain.png") for file in gateway.stored_files())
    async with start_gateway() as gateway:
        # Too young to judge: another gateway may be recording it.
        await asyncio.sleep(0.2)
        assert any(file.endswith("/plain.png") for file in gateway.stored_files())
        assert (await gateway.get("/slides")).json()["items"] == []
    grow_old(tmp_path / "data")
    async with start_gateway() as gateway:
        await gone(gateway)


async def test_only_what_the_log_does_not_know_is_removed(start_gateway: Start, tmp_path: Path) -> None:
    async with start_gateway() as gateway:
        kept = (await gateway.upload(picture(tmp_path, "plain.png")))["id"]
        recorded = await registered(gateway, mpp=0.5)
        slides = gateway.data_dir / "slides"
        assert "plain.png" in names(slides / kept)
        assert ".unrecorded" not in names(slides / kept)
        # `recorded` was killed after its event, `lost` before; `unknown` was never marked by this gateway.
        for slide_id in (recorded, "lost", "unknown"):
            (slides / slide_id).mkdir()
            (slides / slide_id / "slide.svs").write_bytes(b"pixels")
        for slide_id in (recorded, "lost"):
            (slides / slide_id / ".unrecorded").touch()
    grow_old(tmp_path / "data")
    async with start_gateway() as gateway:
        async with asyncio.timeout(10):
            while (slides / "lost").exists() or (slides / recorded / ".unrecorded").exists():
                await asyncio.sleep(0.02)
        assert names(slides) == sorted([kept, recorded, "unknown"])
        assert names(slides / recorded) == ["slide.svs"]
        assert [file for file in gateway.stored_files() if file.startswith("uploads/")] == []


async def test_a_slide_that_is_being_recorded_is_left_alone(tmp_path: Path) -> None:
    store = UploadStore(tmp_path, 1 << 20)
    store.open()
    async with store.draft("busy") as draft:
        draft.publish()
        grow_old(tmp_path)
        assert store.unrecorded() == []
    assert store.unrecorded() == ["busy"]
    store.remove("busy")
    assert names(tmp_path / "slides") == names(tmp_path / "uploads") == []


async def test_a_client_that_leaves_while_its_slide_is_recorded_gets_it_whole(
    start_gateway: Start, database_url: str, tmp_path: Path
) -> None:
    body = content(picture(tmp_path, "plain.png"))
    async with cable_to(database_url) as (cable, url), start_gateway(microtome_database_url=url) as gateway:
        cable.cut()
        asked = asyncio.create_task(gateway.post("/slides", content=body, params={"filename": "plain.png"}))
        async with asyncio.timeout(20):
            while not any(file.endswith(".unrecorded") for file in gateway.stored_files()):
                await asyncio.sleep(0.01)
        asked.cancel()
        cable.whole = True
        async with asyncio.timeout(20):
            while any(file.endswith(".unrecorded") for file in gateway.stored_files()):
                await asyncio.sleep(0.02)
        with contextlib.suppress(httpx.HTTPError, asyncio.CancelledError):
            await asked
        (slide,) = (await gateway.get("/slides")).json()["items"]
        assert content(gateway.data_dir / "slides" / slide["id"] / "plain.png") == body


async def test_a_request_cancelled_at_its_beginning_leaves_neither_folder_nor_lock(tmp_path: Path) -> None:
    store = UploadStore(tmp_path, 1 << 20)
    store.open()

    async def request() -> None:
        async with store.draft("early"):
            await asyncio.sleep(60)

    await asyncio.to_thread(lambda: None)
    before = len(names(Path("/proc/self/fd")))
    asked = asyncio.create_task(request())
    await asyncio.sleep(0)
    # The loop stands still, so that whatever a thread did by now is not known to the request when it is cancelled.
    time.sleep(0.1)
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    assert names(tmp_path / "uploads") == []
    assert len(names(Path("/proc/self/fd"))) == before
