"""All files of a job in one ZIP, and what is left when they are deleted."""

from __future__ import annotations

import asyncio
import io
import socket
import uuid
import zipfile
from pathlib import Path

import cv2
import numpy as np
import orjson
import psutil
import pyarrow.parquet as pq
import pytest

from microtome.artifacts import masks
from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.masks import Tiling
from microtome.artifacts.outlines import outlines
from microtome.contracts.messages import Artifact, JobResult, SeatGranted
from microtome.domain.commands import ReportSuccess, Start
from microtome.eventlog.log import Append, NewEvent
from microtome.joblog import JobLog
from microtome.segmentation.cells import TileCells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.grid import Grid
from microtome.segmentation.measuring import MEASUREMENTS
from tests.integration.gateway.conftest import Running, registered

TILING = Tiling(Grid(640, 640, tile_size=192, halo=32), scale=0.8127)
EDGE = TILING.grid.tile_width
MIB = 1 << 20


def blobs(seed: int) -> np.ndarray:
    """A label image of one tile: overlapping discs, rings with a cell inside, single pixels."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((EDGE, EDGE), np.int32)
    y, x = np.ogrid[: labels.shape[0], : labels.shape[1]]
    for label in range(1, 26):
        at_y, at_x, radius = rng.integers(34, 158), rng.integers(34, 158), rng.integers(0, 12)
        labels[(y - at_y) ** 2 + (x - at_x) ** 2 <= radius**2] = label
    labels[60:80, 60:80] = 26
    labels[65:75, 65:75] = 0
    labels[69:71, 69:71] = 27
    return labels


def origin_of(row: int, column: int) -> np.ndarray:
    """Where the tile's pixels begin on the slide, x and y."""
    padded = TILING.grid.tile(row, column).padded
    return np.array([padded.x, padded.y])


def cells_of(labels: np.ndarray, row: int, column: int) -> tuple[TileCells, np.ndarray]:
    """The tile's cells as the engine describes them, and which label each one was."""
    found = np.array([label for label in np.unique(labels) if label], np.int32)
    places = [np.argwhere(labels == label) for label in found]
    boxes = np.array([[*place.min(axis=0), *(place.max(axis=0) + 1)] for place in places], np.int32)
    area, offsets, points = trace_contours(labels, found, boxes)
    origin = origin_of(row, column)
    # In the core, which every cell touches.
    nearest = [place[np.argmin(((place - EDGE // 2) ** 2).sum(axis=1))] for place in places]
    seeds = np.array(nearest)[:, ::-1] + origin
    cells = TileCells(
        row=row,
        column=column,
        seed_x=seeds[:, 0].astype(np.int32),
        seed_y=seeds[:, 1].astype(np.int32),
        area_px=area,
        score=np.ones(len(found), np.float32),
        ring_offsets=offsets,
        ring_points=points + 2 * origin.astype(np.int32),
        measurements=np.zeros((len(found), len(MEASUREMENTS)), np.float32),
        seconds={},
    )
    return cells, found


def filled(labels: np.ndarray, found: np.ndarray) -> dict[int, np.ndarray]:
    """What a mask can show of each cell: its largest piece, without its holes."""
    shown = {}
    for label in found.tolist():
        count, pieces, stats, _ = cv2.connectedComponentsWithStats((labels == label).astype(np.uint8), connectivity=8)
        assert count > 1
        piece = (pieces == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))).astype(np.uint8)
        _, outside, *_ = cv2.connectedComponentsWithStats(np.pad(1 - piece, 1, constant_values=1), connectivity=4)
        shown[label] = (outside != outside[0, 0])[1:-1, 1:-1]
    return shown


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """cells.parquet of two tiles, and the label image of each."""
    path = tmp_path_factory.mktemp("cells") / "cells.parquet"
    pictures = {}
    with CellsParquet(path, {}) as file:
        for row, column in ((0, 0), (2, 1)):
            pictures[f"{row}-{column}.png"] = blobs(row)
            cells, _ = cells_of(pictures[f"{row}-{column}.png"], row, column)
            file.append(outlines(cells, TILING.scale, "0123456789abcdef"))
    return path, pictures


def seeds_of(path: Path, row: int, column: int) -> np.ndarray:
    """Seeds of the tile's cells in the order of the file, int64 [n, 2], x and y in the mask's pixels."""
    table = pq.read_table(path, columns=["seed_x", "seed_y"])
    seeds = np.stack([table["seed_x"].to_numpy(), table["seed_y"].to_numpy()], axis=1).astype(np.int64)
    core = TILING.grid.tile(row, column).core
    mine = (seeds >= (core.x, core.y)).all(axis=1) & (seeds < (core.x + core.width, core.y + core.height)).all(axis=1)
    return seeds[mine] - origin_of(row, column)


def check_mask(path: Path, name: str, mask: np.ndarray, picture: np.ndarray) -> None:
    row, column = map(int, name.removesuffix(".png").split("-"))
    assert (mask.dtype, mask.shape) == (np.uint16, (EDGE, EDGE))
    seeds = seeds_of(path, row, column)
    _, found = cells_of(picture, row, column)
    shown = filled(picture, found)
    assert len(seeds) == len(found) > 15
    # The smaller ones over the larger ones, as they lie in their holes.
    expected = np.zeros_like(mask)
    numbers = {int(picture[y, x]): number for number, (x, y) in enumerate(seeds.tolist(), 1)}
    assert set(numbers) == set(found.tolist())
    for label in sorted(shown, key=lambda label: -int(shown[label].sum())):
        expected[shown[label]] = numbers[label]
    assert np.array_equal(mask, expected)


def test_masks_are_the_pixels_of_the_cells(drawn: tuple[Path, dict[str, np.ndarray]]) -> None:
    path, pictures = drawn
    with path.open("rb") as file:
        made = {tile.name: masks.draw(tile, TILING) for tile in masks.tiles(file, TILING)}
    assert set(made) == set(pictures)
    for name, mask in made.items():
        check_mask(path, name, mask, pictures[name])


def test_a_tile_with_more_cells_than_labels_has_more_masks(
    drawn: tuple[Path, dict[str, np.ndarray]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masks, "MAX_LABEL", 10)
    with drawn[0].open("rb") as file:
        parts = [(tile.name, len(tile.rings)) for tile in masks.tiles(file, TILING)]
    assert [name for name, _ in parts][:3] == ["0-0.png", "0-0.2.png", "0-0.3.png"]
    assert max(count for _, count in parts) == 10


async def finished(gateway: Running, files: dict[str, bytes]) -> str:
    """A job that succeeded with these files."""
    slide = await registered(gateway, mpp=0.5)
    submitted = (await gateway.submit({"key": "cells.of_1", "type": "SEGMENT_CELLS", "slide_id": slide})).json()
    job_id: str = submitted["jobs"][0]["id"]
    log, store = gateway.gateway.log, gateway.gateway.artifacts
    seat = NewEvent(event_id=uuid.uuid4(), message=SeatGranted(user_id="ada", seat=0), tenant="ada")
    await log.append(Append("seats", 0, (seat,)))
    await gateway.gateway.workflows.execute(submitted["id"], Start(job_id, 0))
    with store.draft(job_id, 1) as draft:
        for name, body in files.items():
            (draft / name).write_bytes(body)
        published = store.publish(draft, job_id, 1)
    listed = tuple(
        Artifact(name=each.name, media_type=each.media_type, size_bytes=each.size_bytes, sha256=each.sha256)
        for each in published
    )
    result = JobResult(tiles_total=4, tiles_processed=4, cells=50, engine="cpu", model="m", artifacts=listed)
    await gateway.gateway.workflows.execute(submitted["id"], ReportSuccess(job_id, 1, result))
    return job_id


async def test_an_archive_has_everything_until_it_is_deleted(
    gateway: Running, drawn: tuple[Path, dict[str, np.ndarray]]
) -> None:
    grid = TILING.grid
    summary = {
        "tile_size": grid.tile_size,
        "halo": grid.halo,
        "grid_width": grid.width,
        "grid_height": grid.height,
        "scale": TILING.scale,
        "cells": 50,
    }
    files = {
        "cells.parquet": drawn[0].read_bytes(),
        "cells.geojson": b"{}" * 500_000,
        "overlay.jpg": b"picture",
        "summary.json": orjson.dumps(summary),
        "tissue.geojson": b"{}",
        "tissue_drawn.geojson": b"{}",
    }
    job_id = await finished(gateway, files)
    path = f"/jobs/{job_id}/artifacts.zip"
    for refused in (await gateway.get(path, user="bob"), await gateway.get("/jobs/none/artifacts.zip")):
        await gateway.assert_problem(refused, 404, "not-found")
    sent = await gateway.get(path)
    assert sent.status_code == 200
    assert sent.headers["content-type"] == "application/zip"
    assert sent.headers["content-disposition"] == f'attachment; filename="cells.of_1-{job_id[:8]}.zip"'
    with zipfile.ZipFile(io.BytesIO(sent.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["README.txt", *sorted(files), "masks/0-0.png", "masks/2-1.png"]
        assert {name: archive.read(name) for name in files} == files
        assert archive.getinfo("cells.geojson").compress_size < 50_000
        about = archive.read("README.txt").decode()
        assert all(f"{name}\n    " in about for name in files)
        assert "A file of this job" not in about, "what each is, is said"
        assert "y: tile c begins at min(c * 128, 448) and is 192 pixels long; c = min(max(floor((s - 32) / 128" in about
        for name, picture in drawn[1].items():
            encoded = np.frombuffer(archive.read(f"masks/{name}"), np.uint8)
            check_mask(drawn[0], name, cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED), picture)
    assert (await gateway.get(path)).content == sent.content
    headers = {**gateway.as_user("ada"), "If-None-Match": sent.headers["etag"]}
    assert (await gateway.http.get(f"/api/v1{path}", headers=headers)).status_code == 304
    head = await gateway.http.head(f"/api/v1{path}", headers=gateway.as_user("ada"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == sent.headers["etag"]
    assert head.headers["content-disposition"] == sent.headers["content-disposition"]

    address = f"/api/v1/jobs/{job_id}/artifacts"
    assert (await gateway.http.delete(address, headers=gateway.as_user("bob"))).status_code == 404
    for _ in range(2):
        assert (await gateway.http.delete(address, headers=gateway.as_user("ada"))).status_code == 204
    assert not (gateway.data_dir / "artifacts" / job_id).exists()
    for gone in ("artifacts.zip", "artifacts/summary.json", "cells?bbox=0,0,9,9"):
        await gateway.assert_problem(await gateway.get(f"/jobs/{job_id}/{gone}"), 410, "artifacts-deleted")
    shown = (await gateway.get(f"/jobs/{job_id}")).json()
    assert (shown["status"], shown["result"]["cells"]) == ("SUCCEEDED", 50)


async def test_a_slow_client_holds_no_memory_and_one_that_left_no_files(gateway: Running) -> None:
    job_id = await finished(gateway, {"cells.parquet": np.random.default_rng(1).bytes(160 * MIB)})
    process = psutil.Process()
    host, port = gateway.url.removeprefix("http://").split(":")
    before, files = process.memory_info().rss, process.num_fds()
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    client.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(client, (host, int(port)))
    await loop.sock_sendall(
        client, f"GET /api/v1/jobs/{job_id}/artifacts.zip?user=ada HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    )
    assert b" 200 " in await loop.sock_recv(client, 4096)
    await asyncio.sleep(1)
    opened = [Path(each.path).name for each in process.open_files()]
    assert "cells.parquet" in opened
    assert process.memory_info().rss - before < 24 * MIB
    client.close()
    async with asyncio.timeout(10):
        while process.num_fds() > files or any(each.path.endswith(".parquet") for each in process.open_files()):
            await asyncio.sleep(0.05)


async def test_a_log_is_read_line_by_line(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    submitted = (await gateway.submit({"key": "a", "type": "TISSUE_MASK", "slide_id": slide})).json()
    job_id = submitted["jobs"][0]["id"]
    path = f"/jobs/{job_id}/logs"
    assert (await gateway.get(path)).json() == {"items": [], "next_cursor": None}
    log = JobLog(gateway.data_dir, "tiler")
    for attempt, message in ((1, "found tissue"), (1, "sent tiles"), (2, "found it again")):
        log.write(job_id, attempt, message, tiles=12)
    everything = (await gateway.get(path)).json()["items"]
    assert [line["id"] for line in everything] == ["1:1", "1:2", "2:1"]
    assert everything[0]["about"] == {"tiles": 12}
    assert (everything[0]["service"], everything[0]["level"]) == ("tiler", "info")
    part = (await gateway.get(f"{path}?after=1:1&limit=1")).json()
    assert part == {"items": [everything[1]], "next_cursor": "1:2"}
    # A late line of an attempt that is over moves no other.
    log.write(job_id, 1, "too late", level="warning")
    assert (await gateway.get(f"{path}?after=1:2")).json()["items"][1] == everything[2]
    assert [line["message"] for line in (await gateway.get(f"{path}?attempt=2")).json()["items"]] == ["found it again"]
    text = await gateway.get(path, headers={"Accept": "text/plain"})
    assert text.headers["content-type"].startswith("text/plain")
    assert len(text.text.splitlines()) == 4
    assert text.text.splitlines()[2].endswith("WARNING tiler attempt 1: too late")
    await gateway.assert_problem(await gateway.get(f"{path}?after=x"), 422, "invalid-request")
    await gateway.assert_problem(await gateway.get(path, user="bob"), 404, "not-found")
