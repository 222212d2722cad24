"""The gateway as a process: how it starts, ends, and how much memory an upload takes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import psutil
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
MIB = 1 << 20
# By hand, for the full size: MICROTOME_TEST_UPLOAD_MIB=2048.
UPLOAD_MIB = int(os.environ.get("MICROTOME_TEST_UPLOAD_MIB", "256"))


@asynccontextmanager
async def process(module: str = "services.gateway", /, **environment: str) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{ROOT / 'libs'}:{ROOT}", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
            await child.communicate()


async def answers(url: str) -> None:
    async with asyncio.timeout(30), httpx.AsyncClient() as client:
        while True:
            try:
                if (await client.get(url)).status_code == 200:
                    return
            except httpx.TransportError:
                await asyncio.sleep(0.1)


async def test_memory_does_not_grow_with_an_upload(
    database_url: str, nats_url: str, tmp_path: Path, free_port: int
) -> None:
    environment = {
        "MICROTOME_DATABASE_URL": database_url,
        "MICROTOME_NATS_URL": nats_url,
        "MICROTOME_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_PORT": str(free_port),
        "METRICS_PORT": "0",
    }
    url = f"http://127.0.0.1:{free_port}/api/v1"
    async with process(**environment) as child:
        await answers(f"{url}/health")
        memory = psutil.Process(child.pid)
        peak = before = memory.memory_info().rss
        async with httpx.AsyncClient(timeout=120) as client:

            async def body() -> AsyncIterator[bytes]:
                nonlocal peak
                block = os.urandom(MIB)
                for _ in range(UPLOAD_MIB):
                    peak = max(peak, memory.memory_info().rss)
                    yield block

            raw = await client.post(f"{url}/slides", content=body(), headers={"X-User-ID": "ada"})
            assert raw.json()["code"] == "unreadable-slide"
        peak = max(peak, memory.memory_info().rss)
        print(f"{(peak - before) / MIB:.1f} MiB more (from {before / MIB:.0f}) for an upload of {UPLOAD_MIB} MiB")
        assert peak - before < 64 * MIB

        # Whoever is still connected is told to go, and the process ends in order.
        child.send_signal(signal.SIGTERM)
        _, complaints = await asyncio.wait_for(child.communicate(), 15)
        assert child.returncode in (0, -signal.SIGTERM)
        assert complaints == b""
    assert [str(path) for path in (tmp_path / "data" / "uploads").iterdir()] == []


async def test_what_cannot_work_is_said_at_start(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        environment = {
            "MICROTOME_DATABASE_URL": "postgresql://127.0.0.1:1/none",
            "MICROTOME_NATS_URL": "nats://127.0.0.1:1",
            "MICROTOME_DATA_DIR": str(tmp_path),
            "GATEWAY_PORT": str(taken.getsockname()[1]),
        }
        async with process(**environment) as child:
            _, complaints = await asyncio.wait_for(child.communicate(), 30)
            assert child.returncode == 1
            assert b"GATEWAY_PORT" in complaints
            assert complaints.count(b"\n") == 1
        async with process(**{**environment, "MAX_WORKERS": "many", "MICROTOME_NATS_URL": ""}) as child:
            _, complaints = await asyncio.wait_for(child.communicate(), 30)
            assert child.returncode == 1
            assert b"MAX_WORKERS" in complaints
            assert b"MICROTOME_NATS_URL" in complaints


async def test_an_upload_goes_on_where_a_killed_gateway_left_it(
    database_url: str, nats_url: str, tmp_path: Path, free_port: int
) -> None:
    environment = {
        "MICROTOME_DATABASE_URL": database_url,
        "MICROTOME_NATS_URL": nats_url,
        "MICROTOME_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_PORT": str(free_port),
        "METRICS_PORT": "0",
    }
    pixels = np.random.default_rng(11).integers(120, 255, (1200, 1400, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "plain.tif")
    body = (tmp_path / "plain.tif").read_bytes()
    url = f"http://127.0.0.1:{free_port}"
    tus = {"X-User-ID": "ada", "Tus-Resumable": "1.0.0"}
    offsets = []
    upload = ""
    for kill in (True, True, False):
        async with process(**environment) as child, httpx.AsyncClient(base_url=url, timeout=60, headers=tus) as client:
            await answers(f"{url}/api/v1/health")
            if not upload:
                created = await client.post("/api/v1/uploads", headers={"Upload-Length": str(len(body))})
                upload = created.headers["location"]
            offset = int((await client.head(upload)).headers["upload-offset"])
            offsets.append(offset)
            headers = {"Upload-Offset": str(offset), "Content-Type": "application/offset+octet-stream"}
            killed = asyncio.Event()
            content = pieces(body[offset:], killed if kill else None)
            sending = asyncio.create_task(client.patch(upload, content=content, headers=headers))
            if kill:
                arriving = tmp_path / "data" / "resumable" / upload.rpartition("/")[2] / "content"
                while not (arriving.exists() and arriving.stat().st_size > offset + MIB):
                    await asyncio.sleep(0.01)
                child.kill()
                await child.wait()
                killed.set()
                with contextlib.suppress(httpx.HTTPError):
                    await sending
                continue
            answered = await sending
            assert answered.status_code == 204, answered.text
            slide = (await client.get(answered.headers["location"])).json()
            assert slide["sha256"] == hashlib.sha256(body).hexdigest()
            stored = tmp_path / "data" / "slides" / slide["id"] / slide["filename"]
            assert hashlib.sha256(stored.read_bytes()).hexdigest() == slide["sha256"]
            child.send_signal(signal.SIGTERM)
            await child.communicate()
    print(f"of {len(body)} bytes the killed gateways had kept {offsets[1:]}")
    assert 0 == offsets[0] < offsets[1] < offsets[2] < len(body)


async def pieces(body: bytes, killed: asyncio.Event | None) -> AsyncIterator[bytes]:
    """The body; of one whose reader will be killed only 2 MiB before that."""
    if killed is not None:
        yield body[: 2 * MIB]
        await killed.wait()
    yield body
