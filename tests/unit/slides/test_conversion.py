"""Pictures that OpenSlide does not open become slides that it does, pixel by pixel."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from PIL import Image

from microtome.errors import TooLarge, UnreadableSlide
from microtome.slides import flat
from microtome.slides.conversion import make_readable
from microtome.slides.inspection import inspect_slide
from microtome.slides.opening import converted_path
from microtome.slides.reader import SlideReader
from microtome.slides.sandbox import inspect_sandboxed
from microtome.slides.synthetic import paint

DATA = Path(__file__).resolve().parents[4] / "shared" / "data"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the real slides (../shared/data) are not here")


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.ascontiguousarray(paint(700, seed=5)[0][:601, :555])


def pixels(path: Path) -> np.ndarray:
    with openslide.OpenSlide(make_readable(path)[0]) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


TIFFS = {
    "strips": {"rowsperstrip": 16},
    "one-strip": {},
    "lzw": {"compression": "lzw", "rowsperstrip": 32},
    "deflate-predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 64},
    "bigtiff-msb": {"bigtiff": True, "byteorder": ">", "rowsperstrip": 100},
    "ome": {"ome": True, "metadata": {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}},
    "ome-tiled": {"ome": True, "tile": (256, 256), "compression": "zlib", "metadata": {"axes": "YXS"}},
}


@pytest.mark.parametrize("kind", TIFFS)
def test_tiffs_keep_every_pixel(kind: str, tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / f"{kind}.tif"
    tifffile.imwrite(path, picture, photometric="rgb", **TIFFS[kind])
    if kind.startswith("ome"):
        # OpenSlide opens some OME-TIFFs as they are; the point here is the conversion.
        assert np.array_equal(np.concatenate(list(flat.open_flat(path).bands())), picture)
    assert np.array_equal(pixels(path), picture)


def test_the_twin_carries_origin_and_pixel_size(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "strips.tif"
    tifffile.imwrite(path, picture, photometric="rgb", resolution=(40_000, 40_000), resolutionunit="CENTIMETER")
    twin, notes = make_readable(path)
    assert twin == converted_path(path)
    assert make_readable(path) == (twin, notes)
    facts = inspect_slide(path)
    assert (facts.vendor, facts.mpp_source) == ("plain-tiff", "resolution_tag")
    assert facts.mpp == pytest.approx(0.25)
    assert facts.size_bytes == path.stat().st_size
    assert [level.width for level in facts.levels] == [555, 278, 139]
    assert facts.notes[0] == "Converted from a flat TIFF."
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["strips.tif", twin.name]
    # Everything in slides reads the twin when given the original.
    assert np.array_equal(SlideReader(path, 0.5).read(0, 0, 555, 601), picture)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
async def test_png_and_jpeg(suffix: str, tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / f"picture.{suffix}"
    Image.fromarray(picture).save(path, dpi=(50_800, 50_800))
    facts = await inspect_sandboxed(path)
    assert facts.vendor == {"png": "png", "jpg": "jpeg"}[suffix]
    assert (facts.width, facts.height) == (555, 601)
    assert facts.mpp == pytest.approx(0.5, rel=1e-3)
    assert np.array_equal(pixels(path), np.asarray(Image.open(path)))


def test_a_screen_resolution_is_no_pixel_size(tmp_path: Path, picture: np.ndarray) -> None:
    path = tmp_path / "screen.jpg"
    Image.fromarray(picture).save(path, dpi=(72, 72))
    make_readable(path)
    assert (inspect_slide(path).mpp, inspect_slide(path).mpp_source) == (None, "unknown")


def test_grey_alpha_and_depth_become_rgb_and_are_noted(tmp_path: Path, picture: np.ndarray) -> None:
    grey = tmp_path / "grey.tif"
    tifffile.imwrite(grey, picture[..., 1], photometric="minisblack", rowsperstrip=50)
    assert np.array_equal(pixels(grey), np.repeat(picture[..., 1:2], 3, axis=2))
    assert any("grey" in note for note in inspect_slide(grey).notes)

    deep = tmp_path / "deep.tif"
    tifffile.imwrite(deep, picture.astype(np.uint16) * 257, photometric="rgb", rowsperstrip=50)
    assert np.array_equal(pixels(deep), picture)
    assert any("16 bits" in note for note in inspect_slide(deep).notes)

    for name in ("alpha.tif", "alpha.png"):
        clear = tmp_path / name
        rgba = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
        rgba[:100, :, 3] = 0
        if name.endswith("png"):
            Image.fromarray(rgba).save(clear)
        else:
            tifffile.imwrite(clear, rgba, photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=50)
        expected = picture.copy()
        expected[:100] = 255
        assert np.array_equal(pixels(clear), expected)
        assert any("white" in note for note in inspect_slide(clear).notes)


def test_what_cannot_become_rgb_is_refused(tmp_path: Path, picture: np.ndarray) -> None:
    real_valued = tmp_path / "float.tif"
    tifffile.imwrite(real_valued, picture.astype(np.float32), photometric="rgb")
    channels = tmp_path / "channels.ome.tif"
    tifffile.imwrite(channels, picture.transpose(2, 0, 1), ome=True, photometric="minisblack", metadata={"axes": "CYX"})
    for path in (real_valued, channels):
        with pytest.raises(UnreadableSlide):
            make_readable(path)
        assert not converted_path(path).exists()


def test_damaged_pictures_leave_nothing(tmp_path: Path, picture: np.ndarray) -> None:
    whole = tmp_path / "whole.png"
    Image.fromarray(picture).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:-20_000])
    packed = tmp_path / "packed.tif"
    tifffile.imwrite(packed, picture, photometric="rgb", compression="zlib", rowsperstrip=64)
    with tifffile.TiffFile(packed) as tiff:
        start = tiff.pages.first.dataoffsets[4]
    with packed.open("r+b") as file:
        file.seek(start)
        file.write(b"\xff" * 2000)
    for path in (cut, packed):
        with pytest.raises(UnreadableSlide, match="damaged or truncated"):
            make_readable(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["cut.png", "packed.tif", "whole.png"]


def test_pictures_too_large_to_convert_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (400, 400)).save(path)
    monkeypatch.setattr(flat, "MAX_WHOLE_PIXELS", 100_000)
    with pytest.raises(TooLarge, match="tiled, pyramidal"):
        make_readable(path)


@real
def test_real_flat_pictures(tmp_path: Path) -> None:
    for name, vendor, mpp in [
        ("slides/kidney-48-5.tif", "plain-tiff", None),
        ("slides/OS-2-ndpi.ome.tif", "ome-tiff", 0.2271),
        ("tiles/HE_example.tif", "ome-tiff", 0.50008),
    ]:
        path = tmp_path / Path(name).name
        shutil.copyfile(DATA / name, path)
        make_readable(path)
        facts = inspect_slide(path)
        assert facts.vendor == vendor
        assert facts.mpp == (None if mpp is None else pytest.approx(mpp, abs=1e-4))
        assert np.array_equal(pixels(path), tifffile.imread(path))
