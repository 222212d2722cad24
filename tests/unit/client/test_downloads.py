"""A job's files are fetched a few at a time; each is there whole or not at all."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from microtome.client import ApiClient
from microtome.client.jobs import DOWNLOADS
from microtome.client.problem import ApiProblem
from microtome.errors import Unavailable

FILES = {f"file-{number}.bin": bytes([number]) * (300_000 + number) for number in range(12)}


class Files(BaseHTTPRequestHandler):
    """Serves `FILES` slowly, and counts how many are asked for at once."""

    lock = threading.Lock()
    at_once, most = 0, 0

    def do_GET(self) -> None:
        with Files.lock:
            Files.at_once += 1
            Files.most = max(Files.most, Files.at_once)
        time.sleep(0.05)
        content = FILES.get(self.path.rsplit("/", 1)[-1])
        problem = {"type": "urn:microtome:problem:not-found", "title": "Not found", "status": 404, "code": "not-found"}
        body = json.dumps({**problem, "detail": "There is none."}).encode() if content is None else content
        with Files.lock:
            Files.at_once -= 1
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Type", "application/problem+json" if content is None else "application/octet-stream")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def url() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


async def test_files_come_a_few_at_a_time(url: str, tmp_path: Path) -> None:
    async with ApiClient(url, "u") as client:
        written = await client.download_files("job", FILES, tmp_path)
    assert written == [tmp_path / name for name in FILES]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == FILES
    assert 1 < Files.most <= DOWNLOADS


async def test_a_job_without_files_has_none(url: str, tmp_path: Path) -> None:
    async with ApiClient(url, "u") as client:
        assert await client.download_files("job", [], tmp_path) == []


async def test_one_that_is_not_there_ends_it(url: str, tmp_path: Path) -> None:
    async with ApiClient(url, "u") as client:
        with pytest.raises(ApiProblem, match="There is none"):
            await client.download_files("job", ["file-0.bin", "nothing.bin", *FILES], tmp_path)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == FILES[path.name], "what is there is whole"


async def test_given_up_files_leave_nothing_behind(url: str, tmp_path: Path) -> None:
    async with ApiClient(url, "u") as client:
        fetching = asyncio.create_task(client.download_files("job", FILES, tmp_path))
        await asyncio.sleep(0.07)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        assert Files.at_once <= DOWNLOADS
        there = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        assert len(there) < len(FILES)
        assert there == {name: FILES[name] for name in there}, "what is there is whole"


@pytest.mark.parametrize("sent", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nonly this"])
async def test_an_answer_that_breaks_off_is_no_file(sent: bytes, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with ApiClient(f"http://127.0.0.1:{port}", "u") as client:
            with pytest.raises(Unavailable, match="does not answer"):
                await client.download_files("job", FILES, tmp_path)
    assert not list(tmp_path.iterdir())


async def test_what_the_disk_refuses_is_not_the_servers_fault(url: str, tmp_path: Path) -> None:
    async with ApiClient(url, "u") as client:
        with pytest.raises(FileNotFoundError):
            await client.download_files("job", FILES, tmp_path / "nowhere")
