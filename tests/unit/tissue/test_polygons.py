"""A mask's polygons are valid, and as geometry by others sees them, the mask."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely

from microtome.tissue.mask import TissueMask, TissueParameters, tissue_mask
from microtome.tissue.polygons import geojson, pieces
from tests.scenes.tissue import MPP, SCENES


def as_mask(
    bits: np.ndarray, downsample: float = 1.0, width: int | None = None, height: int | None = None
) -> TissueMask:
    whole = round(bits.shape[1] * downsample), round(bits.shape[0] * downsample)
    return TissueMask(
        bits, width or whole[0], height or whole[1], (downsample, downsample), MPP, 0.1, TissueParameters(), ()
    )


def check(bits: np.ndarray) -> int:
    y, x = np.mgrid[0 : bits.shape[0], 0 : bits.shape[1]] + 0.5
    again = np.zeros_like(bits)
    found = pieces(as_mask(bits))
    for piece in found:
        shape = shapely.Polygon(piece.outer, piece.holes)
        assert shape.is_valid, shapely.is_valid_reason(shape)
        assert shape.area == piece.pixels
        assert shapely.LinearRing(piece.outer).is_ccw
        assert not any(shapely.LinearRing(hole).is_ccw for hole in piece.holes)
        assert shapely.simplify(shape, 0).equals_exact(shape, 0) or shapely.get_num_coordinates(shape) > 4
        inside = shapely.contains_xy(shape, x, y)
        assert not (again & inside).any()
        again |= inside
    assert np.array_equal(again, bits)
    return len(found)


def test_every_small_mask_is_its_polygons() -> None:
    for number in range(2**12):
        check(np.array([number >> bit & 1 for bit in range(12)], np.bool_).reshape(3, 4))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.6, 0.9])
def test_random_masks_are_their_polygons(share: float) -> None:
    random = np.random.default_rng(7)
    for _ in range(10):
        check(random.random(tuple(random.integers(5, 40, 2))) < share)


def test_pixels_that_share_a_corner_are_pieces_and_holes_of_their_own() -> None:
    assert check(np.eye(5, dtype=np.bool_)) == 5
    assert check(~np.eye(5, dtype=np.bool_)) == 2
    assert pieces(as_mask(np.zeros((4, 4), np.bool_))) == ()


def test_polygons_end_where_the_slide_ends() -> None:
    (piece,) = pieces(as_mask(np.ones((10, 10), np.bool_), 8.0, width=77, height=79))
    assert piece.outer.max(axis=0).tolist() == [77, 79]


def test_a_real_readers_view(tmp_path: Path) -> None:
    bits, _ = tissue_mask(SCENES["fatty"]().rgb, MPP)
    mask = as_mask(bits, 16.0)
    path = tmp_path / "tissue.geojson"
    path.write_bytes(geojson(mask))
    assert path.read_bytes() == geojson(mask)
    frame = geopandas.read_file(path)
    assert frame.geometry.is_valid.all()
    assert shapely.area(frame.geometry.array).sum() == pytest.approx(bits.sum() * 16.0**2)
    assert set(frame.objectType) == {"annotation"}
    assert all("Tissue" in str(each) for each in frame.classification)
