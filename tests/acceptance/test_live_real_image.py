"""A real image, wherever the tests run: the committed crop of a CC0 slide, a JPEG whose pixel size the user gives."""

from __future__ import annotations

import asyncio
import json

import pyarrow.parquet as pq
import pytest
from shapely import from_wkb, geometry

from microtome.client import ApiProblem
from tests.acceptance.bare import bare_cells, cells_in
from tests.acceptance.conftest import TILES, Live, by_key, cells, mask
from tests.conftest import PROJECT_ROOT

CROP = PROJECT_ROOT / "tests" / "data" / "cmu-1-small-region-crop.jpg"
MPP = 0.499


async def test_every_nucleus_of_a_real_image_is_found_and_the_files_agree(live: Live) -> None:
    user = live.user()
    slide = await user.upload_slide(CROP)
    assert (slide["width"], slide["height"], slide["mpp"], slide["mpp_source"]) == (704, 640, None, "unknown")
    with pytest.raises(ApiProblem) as refused:
        await user.create_workflow("too early", [cells(slide)])
    assert refused.value.problem.code == "unknown-mpp"
    assert "parameters.mpp" in refused.value.problem.detail

    workflow = await user.create_workflow("real", [mask(slide, "tissue"), cells(slide, mpp=MPP)])
    jobs = by_key(await live.finished(user, workflow))
    job = jobs["cells"]
    assert job["status"] == "SUCCEEDED", job["error"]
    result = job["result"]
    assert result is not None
    found, _ = cells_in(await user.download(job["id"], "cells.parquet", live.folder / "real.parquet"))
    assert len(found) == result["cells"]
    # A third of a millimetre of skin; the bounds only rule out nonsense, the bare engine is the judge.
    assert 150 < len(found) < 600
    assert found == await asyncio.to_thread(
        bare_cells, live.stored(slide), tile_size=TILES["tile_size"], halo=TILES["halo"], mpp=MPP
    )

    table = pq.read_table(live.folder / "real.parquet")
    shapes = from_wkb(table["geometry"].to_pylist())
    assert all(shape.is_valid for shape in shapes)
    assert all(geometry.box(0, 0, 704, 640).covers(shape) for shape in shapes)
    path = await user.download(job["id"], "cells.geojson", live.folder / "real.geojson")
    features = json.loads(path.read_text())["features"]
    assert {feature["id"] for feature in features} == set(table["id"].to_pylist())
    summary = (await user.result(job["id"]))["summary"]
    assert (summary["mpp"], summary["mpp_source"], summary["cells"]) == (MPP, "user", len(found))
    assert abs(summary["cells_per_mm2"] - len(found) / summary["tissue_mm2"]) < 0.01
