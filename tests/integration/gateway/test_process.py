"""The gateway as a process: how it starts, ends, and how much memory an upload takes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import psutil

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
