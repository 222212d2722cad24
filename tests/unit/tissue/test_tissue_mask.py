"""Tissue is found; glass, ink, edges and borders are not."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from microtome.errors import NotFound, UnreadableSlide
from microtome.slides.conversion import make_readable
from microtome.slides.synthetic import paint, write_synthetic_slide
from microtome.tissue.coverage import tile_has_tissue, tissue_fraction
from microtome.tissue.mask import TissueMask, TissueParameters, find_tissue, tissue_mask
from microtome.tissue.store import encode_png, load_mask, save_mask
from tests.scenes.shares import LEVEL1, MISSED, SLIDES, TILES
from tests.scenes.tissue import MPP, SCENES

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real images (../shared/data) are not here")


def glass(height: int = 300, width: int = 400) -> np.ndarray:
    noise = np.random.default_rng(0).normal(242, 2, (height, width, 3))
    return np.clip(noise, 0, 255).astype(np.uint8)


def with_patch(colour: tuple[int, int, int], roughness: float = 12) -> np.ndarray:
    picture = glass()
    patch = np.random.default_rng(1).normal(0, roughness, (100, 120, 1)) + np.array(colour)
    picture[100:200, 150:270] = np.clip(patch, 0, 255)
    return picture


def test_blank_glass_has_no_tissue() -> None:
    assert not tissue_mask(glass(), 8.0)[0].any()
    assert not tissue_mask(np.full((64, 64, 3), 255, np.uint8), 8.0)[0].any()
    assert not tissue_mask(np.zeros((64, 64, 3), np.uint8), 8.0)[0].any()


@pytest.mark.parametrize("colour", [(215, 120, 165), (130, 90, 160), (234, 210, 226), (170, 150, 150)])
def test_stained_and_pale_tissue_is_found(colour: tuple[int, int, int]) -> None:
    bits, _ = tissue_mask(with_patch(colour), 8.0)
    assert bits[105:195, 155:265].mean() > 0.98
    bits[95:205, 145:275] = False
    assert not bits.any()


@pytest.mark.parametrize("colour", [(40, 160, 130), (30, 60, 190), (210, 30, 50), (20, 20, 22)])
def test_ink_is_not_tissue(colour: tuple[int, int, int]) -> None:
    picture = with_patch(colour, roughness=2)
    picture = cv2.GaussianBlur(picture, (0, 0), 3)
    assert tissue_mask(picture, 8.0)[0].mean() < 0.002


def test_a_black_border_and_a_coverslip_edge_are_not_tissue() -> None:
    picture = with_patch((215, 120, 165))
    picture[:, :30] = 0
    picture[:20] = 3
    cv2.line(picture, (350, 20), (390, 299), (90, 90, 92), 2)
    bits, _ = tissue_mask(picture, 8.0)
    assert bits[105:195, 155:265].all()
    assert not bits[:, :40].any()
    assert not bits[:, 300:].any()


def test_specks_go_and_small_holes_close() -> None:
    picture = with_patch((215, 120, 165))
    picture[20:23, 20:23] = (200, 100, 150)
    picture[145:153, 200:208] = 242
    bits, _ = tissue_mask(picture, 8.0)
    assert not bits[10:40, 10:40].any()
    assert bits[140:160, 195:215].all()


def test_the_mask_of_a_slide_maps_to_level_0(tmp_path: Path) -> None:
    path = tmp_path / "slide.tif"
    write_synthetic_slide(path, size=1500, seed=2)
    nuclei = paint(1500, seed=2)[1]
    mask = find_tissue(path, 0.5)
    assert mask.bits.shape == (512, 512)
    assert mask.downsample == (pytest.approx(1500 / 512), pytest.approx(1500 / 512))
    assert 0.2 < mask.fraction < 0.7
    assert mask.area_mm2 == pytest.approx(mask.fraction * (1500 * 0.5 / 1000) ** 2)
    inside = [tissue_fraction(mask, n.x, n.y, n.x + 1, n.y + 1) > 0 for n in nuclei]
    assert np.mean(inside) > 0.99
    assert not tile_has_tissue(mask, 0, 0, 100, 100)
    unknown = find_tissue(path, None)
    assert unknown.mpp is None
    assert unknown.area_mm2 is None
    assert any("unknown" in note for note in unknown.notes)


def test_coverage_depends_on_the_rectangle_alone() -> None:
    bits = np.zeros((50, 80), np.bool_)
    bits[10, 20] = True
    mask = TissueMask(bits, 800, 500, (10.0, 10.0), 8.0, 0.05, TissueParameters(), ())
    assert tile_has_tissue(mask, 200, 100, 210, 110)
    assert not tile_has_tissue(mask, 210, 100, 300, 200)
    # A neighbour whose halo reaches the tissue is not skipped: its nuclei's context is there.
    assert tile_has_tissue(mask, 210, 100, 300, 200, halo=1)
    assert not tile_has_tissue(mask, 0, 0, 800, 500, min_fraction=0.01)
    assert tile_has_tissue(mask, 200, 100, 220, 110, min_fraction=0.5)
    assert not tile_has_tissue(mask, -500, -500, -1, -1)
    assert tile_has_tissue(mask, -100, -100, 5000, 5000)
    for step in (30, 70, 110):
        covered = [
            (x, y)
            for y in range(0, 500, step)
            for x in range(0, 800, step)
            if tile_has_tissue(mask, x, y, x + step, y + step)
        ]
        assert (200 // step * step, 100 // step * step) in covered


def test_masks_are_kept_as_they_are(tmp_path: Path) -> None:
    bits = np.random.default_rng(4).random((37, 53)) > 0.5
    mask = TissueMask(bits, 530, 370, (10.0, 10.5), 4.0, 0.05, TissueParameters(), ("a note",))
    path = tmp_path / "deep" / "mask.npz"
    save_mask(mask, path)
    loaded = load_mask(path)
    assert np.array_equal(loaded.bits, bits)
    assert (loaded.downsample, loaded.mpp, loaded.threshold, loaded.parameters, loaded.notes) == (
        mask.downsample, mask.mpp, mask.threshold, mask.parameters, mask.notes,
    )  # fmt: skip
    first = path.read_bytes()
    save_mask(loaded, path)
    assert path.read_bytes() == first
    assert [entry.name for entry in path.parent.iterdir()] == ["mask.npz"]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(mask)))), bits)
    with pytest.raises(NotFound):
        load_mask(tmp_path / "none.npz")
    path.write_bytes(first[: len(first) // 2])
    with pytest.raises(UnreadableSlide):
        load_mask(path)
    unreadable = 0
    for at in range(0, len(first), 3):
        path.write_bytes(first[:at] + bytes([first[at] ^ 255]) + first[at + 1 :])
        try:
            load_mask(path)
        except UnreadableSlide:  # and nothing else
            unreadable += 1
    assert unreadable > len(first) / 6


# The least agreement (intersection over union) with what is painted. Ink blurs, so that nobody can say where it ends.
AGREEMENT = {
    "H&E": 0.97, "pale": 0.98, "fatty": 0.90, "IHC": 0.98, "black pen": 0.94, "blue pen": 0.95, "green pen": 0.94,
    "red pen": 0.94, "yellow pen": 0.92, "black border": 0.96, "unscanned fields": 0.96,
}  # fmt: skip


@pytest.mark.parametrize("name", AGREEMENT)
def test_tissue_is_found_where_it_was_painted(name: str) -> None:
    scene = SCENES[name]()
    bits, _ = tissue_mask(scene.rgb, MPP)
    assert (bits & scene.truth).sum() / (bits | scene.truth).sum() > AGREEMENT[name]
    assert np.array_equal(bits, tissue_mask(scene.rgb, MPP)[0])


def test_there_is_nothing_on_a_dusty_blank_slide() -> None:
    assert not tissue_mask(SCENES["blank"]().rgb, MPP)[0].any()


@real
@pytest.mark.parametrize("name", TILES)
def test_real_tiles(name: str) -> None:
    rgb = np.asarray(Image.open(DATA / "tiles" / "artifacts" / f"{name}.png").convert("RGB"))
    half = cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    mpp, low, high = TILES[name]
    share = float(tissue_mask(half, mpp)[0].mean())
    assert (low <= share <= high) is (name not in MISSED), share


@real
def test_red_ink_over_tissue_is_no_tissue() -> None:
    rgb = np.asarray(Image.open(DATA / "tiles" / "artifacts" / "high-nuclei-score-red-pen-level1.png").convert("RGB"))
    bits, _ = tissue_mask(cv2.resize(rgb, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), LEVEL1)
    assert not bits[20:90, 118:138].any(), "the stroke"
    assert bits[145:200, :200].all(), "a fold in the tissue is dark, but no ink"


@real
@pytest.mark.parametrize("name", SLIDES)
def test_real_slides(name: str, tmp_path: Path) -> None:
    mpp, low, high = SLIDES[name]
    copy = tmp_path / name
    shutil.copyfile(DATA / "slides" / name, copy)
    make_readable(copy)
    assert low <= find_tissue(copy, mpp).fraction <= high
