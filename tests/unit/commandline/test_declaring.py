"""Polygons that are read from a file are sent without what is no place."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from microtome.commandline.arguments import parser
from microtome.commandline.declaring import pixel_size, read_geojson
from microtome.errors import InvalidRequest
from microtome.tissue.outline import read_outline

RING = [[0.123456, 0], [100.5, 0.004], [100, 99.999], [0.123456, 0]]


@pytest.mark.parametrize(
    "around",
    [
        lambda geometry: geometry,
        lambda geometry: {"type": "Feature", "id": "7", "geometry": geometry, "properties": {"name": "x" * 1000}},
        lambda geometry: {"type": "FeatureCollection", "features": [geometry], "metadata": {"by": "hand"}},
        lambda geometry: [{"type": "Feature", "geometry": geometry, "properties": {"measurements": [1, 2]}}],
    ],
    ids=["geometry", "feature", "collection", "array"],
)
def test_places_are_kept_to_a_hundredth_of_a_pixel_and_nothing_else_is(around: Any, tmp_path: Path) -> None:
    path = tmp_path / "drawn.geojson"
    path.write_text(json.dumps(around({"type": "Polygon", "coordinates": [RING], "bbox": [0, 0, 100, 100]})))
    sent = read_geojson(path)
    ((ring,),) = read_outline(sent, 1000, 1000).polygons
    assert ring.tolist() == [[0.12, 0], [100.5, 0], [100, 100], [0.12, 0]]
    for left_out in ("properties", "metadata", "bbox", "measurements", '"id"'):
        assert left_out not in json.dumps(sent)


@pytest.mark.parametrize("text", ['"Polygon"', "{", "7"])
def test_what_is_no_geojson_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "drawn.geojson"
    path.write_text(text)
    with pytest.raises(InvalidRequest):
        read_geojson(path)


def test_a_size_that_no_pixel_of_a_slide_has_is_refused() -> None:
    assert [pixel_size(text) for text in ("0.05", "0.25", "10")] == [0.05, 0.25, 10.0]
    # The last two are how many pixels a millimetre has, and a size in metres.
    for text in ("0", "-1", "nan", "inf", "4000", "2.5e-7"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"0\.05 to 10"):
            pixel_size(text)


def test_who_asks_whom_may_stand_before_the_command_and_behind() -> None:
    before = parser().parse_args(["--json", "--user", "ada", "list", "jobs"])
    behind = parser().parse_args(["list", "jobs", "--user", "ada", "--json"])
    assert (before.json, before.user, before.url) == (behind.json, behind.user, behind.url) == (True, "ada", before.url)
    assert not parser().parse_args(["list", "jobs"]).json
    assert parser().parse_args(["--json", "model", "list"]).json
    assert parser().parse_args(["model", "list", "--json"]).json
