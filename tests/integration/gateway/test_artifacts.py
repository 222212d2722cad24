"""Results of finished jobs: files by the names in the result, outlines by rectangle."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import numpy as np
import pytest

from microtome.artifacts.geoparquet import CellsParquet
from microtome.artifacts.outlines import Outlines, cell_ids
from microtome.contracts.messages import Artifact, JobResult, SeatGranted
from microtome.domain.commands import ReportSuccess, Start
from microtome.errors import InvalidRequest
from microtome.eventlog.log import Append, NewEvent
from microtome.segmentation.measuring import MEASUREMENTS
from services.gateway.cells import Rectangle, find
from tests.integration.gateway.conftest import Running, registered

STEP = 10
SIDE = 200


def squares(row: int, first: int, count: int) -> Outlines:
    """A row of square cells, 8 level-0 pixels a side, one every 10 pixels."""
    seed_x = (np.arange(first, first + count) * STEP + 4).astype(np.int32)
    seed_y = np.full(count, row * STEP + 4, np.int32)
    corners = np.array([[-4, -4], [4, -4], [4, 4], [-4, 4]], np.float64)
    centres = np.stack([seed_x, seed_y], axis=1).astype(np.float64)
    return Outlines(
        id_text=cell_ids("0123456789abcdef", seed_x, seed_y),
        seed_x=seed_x,
        seed_y=seed_y,
        area=np.full(count, 64.0),
        score=np.ones(count, np.float32),
        offsets=np.arange(count + 1, dtype=np.int64) * 4,
        points=(centres[:, None, :] + corners).reshape(-1, 2),
        lower=centres - 4,
        upper=centres + 4,
        centroid=centres,
        measured=np.zeros((count, len(MEASUREMENTS)), np.float32),
        measurements=MEASUREMENTS,
    )


def write_cells(path: Path) -> None:
    with CellsParquet(path, {}) as file:
        for half in (0, SIDE // 2):
            for row in range(SIDE):
                file.append(squares(row, half, SIDE // 2))


@pytest.fixture(scope="module")
def cells_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.parquet"
    write_cells(path)
    return path


def test_cells_in_a_rectangle_are_exactly_those(cells_file: Path) -> None:
    # Cells 3 to 5 across and 7 to 8 down; the rectangle ends between two cells.
    found = find(cells_file, Rectangle(30.5, 70.5, 59.5, 89.5))
    assert (found.count, found.sampled) == (6, False)
    corners = sorted((outline[0], outline[1]) for outline in found.outlines)
    assert corners == [(x, y) for x in (30, 40, 50) for y in (70, 80)]
    assert all(len(outline) == 8 for outline in found.outlines)
    assert find(cells_file, Rectangle(5000, 5000, 6000, 6000)).count == 0


def test_many_cells_are_sampled_evenly(cells_file: Path) -> None:
    everything = Rectangle(-1, -1, 1e6, 1e6)
    found = find(cells_file, everything)
    assert (found.count, len(found.outlines), found.sampled) == (40_000, 20_000, True)
    few = find(cells_file, everything, limit=400)
    assert len(few.outlines) == 400
    rows = np.array([outline[1] for outline in few.outlines])
    assert np.bincount((rows // 500).astype(int)).tolist() == [100, 100, 100, 100]
    assert find(cells_file, everything, limit=400) == few
    assert not find(cells_file, everything, limit=40_000).sampled


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,x", "0,0,0,5", "5,0,0,5", "nan,0,1,1", "0,0,inf,1", "1,2,3,4,5"])
def test_rectangles_that_are_none(text: str) -> None:
    with pytest.raises(InvalidRequest):
        Rectangle.parse(text)


async def test_artifacts_are_found_by_the_names_in_the_result(gateway: Running) -> None:
    slide = await registered(gateway, mpp=0.5)
    submitted = (await gateway.submit({"key": "a", "type": "SEGMENT_CELLS", "slide_id": slide})).json()
    job_id = submitted["jobs"][0]["id"]
    log, store = gateway.gateway.log, gateway.gateway.artifacts
    seat = NewEvent(event_id=uuid.uuid4(), message=SeatGranted(user_id="ada", seat=0), tenant="ada")
    await log.append(Append("seats", 0, (seat,)))
    await gateway.gateway.workflows.execute(submitted["id"], Start(job_id, 0))
    with store.draft(job_id, 1) as draft:
        write_cells(draft / "cells.parquet")
        (draft / "summary.json").write_text('{"cells": 40000}')
        (draft / "unlisted.txt").write_text("not in the result")
        published = store.publish(draft, job_id, 1)
    listed = tuple(
        Artifact(name=each.name, media_type=each.media_type, size_bytes=each.size_bytes, sha256=each.sha256)
        for each in published
        if each.name != "unlisted.txt"
    )
    result = JobResult(tiles_total=4, tiles_processed=4, cells=40_000, engine="cpu", model="m", artifacts=listed)
    await gateway.gateway.workflows.execute(submitted["id"], ReportSuccess(job_id, 1, result))

    shown = (await gateway.get(f"/jobs/{job_id}")).json()
    assert shown["result"]["artifacts"] == (await gateway.get(f"/jobs/{job_id}/artifacts")).json()
    assert [each["name"] for each in shown["result"]["artifacts"]] == ["cells.parquet", "summary.json"]
    for each in shown["result"]["artifacts"]:
        file = await gateway.http.get(each["url"], headers={"X-User-ID": "ada"})
        assert hashlib.sha256(file.content).hexdigest() == each["sha256"]
        assert file.headers["etag"] == f'"{each["sha256"]}"'
        assert file.headers["content-type"].startswith(each["media_type"])
        again = await gateway.http.get(f"{each['url']}?user=ada", headers={"If-None-Match": file.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    manifest = (await gateway.get(f"/jobs/{job_id}/result")).json()
    assert manifest["summary"] == {"cells": 40000}
    assert manifest["artifacts"] == shown["result"]["artifacts"]
    assert (manifest["workflow_id"], manifest["attempt"]) == (submitted["id"], 1)
    part = await gateway.get(f"/jobs/{job_id}/artifacts/summary.json", headers={"Range": "bytes=1-7"})
    assert (part.status_code, part.text) == (206, '"cells"')

    for name in (
        "unlisted.txt",
        "none.json",
        "..%2f1%2fsummary.json",
        "%2e%2e",
        "..%2f..%2f..%2fetc%2fpasswd",
        "a%00b",
    ):
        response = await gateway.get(f"/jobs/{job_id}/artifacts/{name}")
        await gateway.assert_problem(response, 404, "not-found")
    for path in ("", "/result", "/artifacts", "/artifacts/summary.json", "/cells?bbox=0,0,9,9"):
        await gateway.assert_problem(await gateway.get(f"/jobs/{job_id}{path}", user="bob"), 404, "not-found")

    cells = (await gateway.get(f"/jobs/{job_id}/cells?bbox=30.5,70.5,59.5,89.5")).json()
    assert (cells["count"], cells["returned"], cells["sampled"]) == (6, 6, False)
    assert [30.0, 70.0, 38.0, 70.0, 38.0, 78.0, 30.0, 78.0] in cells["outlines"]
    await gateway.assert_problem(await gateway.get(f"/jobs/{job_id}/cells?bbox=1,2,3"), 422, "invalid-request")
