"""What an upload costs the gateway in memory: `make bench-upload`.

Uploads a tiled TIFF of 2 GiB over HTTP, watching the gateway's resident memory; then checks that the server has the
same bytes. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile

from microtome.client import ApiClient
from microtome.embedded.supervisor import EmbeddedStack
from tests.bench import machine

TILE = 512
LIMIT_MB = 64


def write_large_tiff(path: Path, size_bytes: int) -> None:
    """A tiled, uncompressed RGB TIFF of at least this size, of noise, at 0.5 µm per pixel."""
    across = int(np.ceil(np.sqrt(size_bytes / (TILE * TILE * 3))))
    noise = np.random.default_rng(0).integers(0, 256, (TILE, TILE, 3), np.uint8)

    def tiles() -> Iterator[np.ndarray]:
        for number in range(across * across):
            # No two tiles alike.
            yield np.roll(noise, number, axis=1)

    side = across * TILE
    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side, 3),
        dtype=np.uint8,
        photometric="rgb",
        tile=(TILE, TILE),
        resolution=(20_000, 20_000),
        resolutionunit="CENTIMETER",
        bigtiff=True,
    )


async def _watch(pid: int, peaks: dict[str, float]) -> None:
    process = psutil.Process(pid)
    while True:
        peaks["gateway"] = max(peaks["gateway"], process.memory_info().rss / 2**20)
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                peaks["reader"] = max(peaks["reader"], child.memory_info().rss / 2**20)
        await asyncio.sleep(0.02)


async def measure(home: Path, size_bytes: int) -> dict[str, Any]:
    """Upload once; returns what the last line says."""
    large = home / "large.tif"
    write_large_tiff(large, size_bytes)
    with large.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    async with EmbeddedStack(home / "stack", services=("gateway",)) as stack, ApiClient(stack.url, "bench") as client:
        await client.slides()
        pid = stack.pid("gateway")
        assert pid is not None, "the gateway runs"
        before = psutil.Process(pid).memory_info().rss / 2**20
        peaks = {"gateway": before, "reader": 0.0}
        watching = asyncio.create_task(_watch(pid, peaks))
        sent = began = time.perf_counter()

        def progress(done: int, total: int) -> None:
            nonlocal sent
            if done == total:
                sent = time.perf_counter()

        slide = await client.upload_slide(large, progress=progress)
        seconds = time.perf_counter() - began
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        if (slide["sha256"], slide["size_bytes"]) != (digest, large.stat().st_size) or stack.pid("gateway") != pid:
            raise SystemExit("the server does not have what was sent")
    return {
        "file_mb": round(large.stat().st_size / 2**20, 1),
        "gateway_before_mb": round(before, 1),
        "gateway_peak_mb": round(peaks["gateway"], 1),
        "gateway_growth_mb": round(peaks["gateway"] - before, 1),
        "reader_peak_mb": round(peaks["reader"], 1),
        "sent_s": round(sent - began, 2),
        "registered_s": round(seconds, 2),
        "machine": machine.facts(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=2.0, help="size of the file")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="microtome-bench-"))
    home.chmod(0o755)
    try:
        result = asyncio.run(measure(home, int(options.gib * 2**30)))
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(json.dumps(result))
    return int(result["gateway_growth_mb"] >= LIMIT_MB)


if __name__ == "__main__":
    raise SystemExit(main())
