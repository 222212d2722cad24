"""A mask that a user drew or edited, through the whole stack: cells only there, from tiles that are shared."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import shapely

from microtome.slides.synthetic import MPP
from tests.acceptance.bare import cells_in
from tests.acceptance.conftest import Live, by_key, cells, mask


async def test_an_edited_mask_has_the_slides_cells_inside_of_it_and_computes_nothing_twice(
    live: Live, tmp_path: Path
) -> None:
    user = live.user()
    slide = await live.slide(user, size=768)
    whole = by_key(
        await live.finished(user, await user.create_workflow("whole", [mask(slide, "tissue"), cells(slide)]))
    )
    assert whole["cells"]["status"] == "SUCCEEDED", whole["cells"]["error"]
    everything, _ = cells_in(await user.download(whole["cells"]["id"], "cells.parquet", tmp_path / "whole.parquet"))
    found = await user.download(whole["tissue"]["id"], "tissue.geojson", tmp_path / "tissue.geojson")
    features = json.loads(found.read_text())["features"]
    tissue = shapely.union_all([shapely.geometry.shape(feature["geometry"]) for feature in features])
    area = whole["tissue"]["result"]["tissue_mm2"]
    assert tissue.area * (MPP / 1000) ** 2 == pytest.approx(area, rel=0.02)

    # The left half of what was found, less a notch: edited as one would in QuPath.
    edited = tissue.intersection(shapely.box(0, 0, 400, 768)).difference(shapely.box(100, 300, 250, 420))
    drawn = {"type": "Feature", "geometry": shapely.geometry.mapping(edited), "properties": {"name": "mine"}}
    workflow = await user.create_workflow(
        "edited",
        [
            {**mask(slide, "tissue"), "parameters": {"tissue": drawn}},
            cells(slide, tissue=drawn, stain="hdab"),
            cells(slide, "he", tissue=drawn),
        ],
    )
    jobs = by_key(await live.finished(user, workflow))
    assert {job["status"] for job in jobs.values()} == {"SUCCEEDED"}
    for job in jobs.values():
        result, parameters = job["result"], job["parameters"]["tissue"]
        assert result is not None
        assert parameters is not None
        assert result["tissue_mm2"] == pytest.approx(edited.area * (MPP / 1000) ** 2, rel=0.005)
        assert any("drawn by the user" in note for note in result["notes"])
        names = {artifact["name"] for artifact in result["artifacts"]}
        assert {"tissue.geojson", "tissue_drawn.geojson", "tissue_mask.png"} <= names
    inside, _ = cells_in(await user.download(jobs["he"]["id"], "cells.parquet", tmp_path / "inside.parquet"))
    assert 10 < len(inside) < len(everything)
    seeds = np.array(list(everything), np.float64)
    expected = {seed for seed, held in zip(everything, shapely.contains_xy(edited, seeds), strict=True) if held}
    assert set(inside) == expected
    assert all(inside[seed] == everything[seed] for seed in inside)
    shared = jobs["he"]["result"]
    assert shared["tiles_cached"] == shared["tiles_processed"] > 0
    assert shared["tiles_skipped"] > whole["cells"]["result"]["tiles_skipped"]
    # Another stain measures anew.
    assert jobs["cells"]["result"]["tiles_cached"] == 0
    summary = json.loads((await user.download(jobs["he"]["id"], "summary.json", tmp_path / "summary.json")).read_text())
    assert summary["tissue"]["drawn"]["sha256"] == jobs["he"]["parameters"]["tissue"]["sha256"]
    await asyncio.to_thread(live.stored(slide).stat)
    await live.history()
