"""Thumbnails, Deep Zoom tiles, mosaics and synthetic slides."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from openslide.deepzoom import DeepZoomGenerator
from PIL import Image

from microtome.errors import InvalidRequest, NotFound
from microtome.slides.deepzoom import DeepZoom
from microtome.slides.mosaic import main, write_mosaic
from microtome.slides.pyramid import write_pyramid
from microtome.slides.synthetic import paint, write_synthetic_slide
from microtome.slides.thumbnail import thumbnail

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT.parent / "shared" / "models" / "first_brightfield_nuclei_16.onnx"


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_synthetic_slide(path, size=1500, seed=2)
    return path


def test_a_thumbnail_has_the_size_and_colours_of_the_slide(slide: Path) -> None:
    picture = thumbnail(slide, 300)
    assert picture.shape == (300, 300, 3)
    with openslide.OpenSlide(slide) as opened:
        whole = np.asarray(opened.read_region((0, 0), 0, opened.dimensions))[..., :3].astype(float)
    expected = whole.reshape(300, 5, 300, 5, 3).mean(axis=(1, 3))
    # Through JPEG-compressed levels, so close but not equal.
    assert np.abs(picture - expected).mean() < 4
    assert thumbnail(slide, 5000).shape == (1500, 1500, 3)
    with pytest.raises(InvalidRequest):
        thumbnail(slide, 0)


def test_a_thumbnail_of_a_flat_slide_takes_little_memory(tmp_path: Path) -> None:
    """12,000² pixels in one level are 432 MB decoded."""
    import tifffile

    path = tmp_path / "flat.tif"
    tile = np.full((512, 512, 3), 200, np.uint8)
    with tifffile.TiffWriter(path) as writer:
        count = (-(-12_000 // 512)) ** 2
        writer.write(
            (tile for _ in range(count)), shape=(12_000, 12_000, 3), dtype=np.uint8, tile=(512, 512),
            photometric="rgb", compression="zlib", metadata=None,
        )  # fmt: skip
    program = (
        "import resource, sys; from pathlib import Path; from microtome.slides.thumbnail import thumbnail;"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024;"
        "from microtome.slides.synthetic import write_synthetic_slide as w;"
        "w(Path(sys.argv[1] + '.warm.tif'), size=1024);"
        "thumbnail(Path(sys.argv[1] + '.warm.tif'), 300); before = peak();"
        "print(thumbnail(Path(sys.argv[1]), 1024).mean(), peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, check=True, text=True,
        env={"PYTHONPATH": str(ROOT / "libs"), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    mean, grown = done.stdout.split()
    assert float(mean) == pytest.approx(200)
    assert int(grown) < 150


def test_deep_zoom_has_the_geometry_of_the_format(slide: Path) -> None:
    ours = DeepZoom.of(slide)
    with openslide.OpenSlide(slide) as opened:
        reference = DeepZoomGenerator(opened, tile_size=254, overlap=1)
        assert ours.level_count == reference.level_count
        assert 'Overlap="1"' in ours.descriptor()
        assert 'Width="1500"' in ours.descriptor()
        for level in range(ours.level_count):
            assert ours.level_size(level) == reference.level_dimensions[level]
            columns, rows = reference.level_tiles[level]
            for address in {(0, 0), (columns - 1, rows - 1), (columns // 2, rows // 2)}:
                expected = reference.get_tile(level, address)
                tile = Image.open(io.BytesIO(ours.tile(level, *address)))
                assert tile.format == "JPEG"
                assert tile.size == expected.size
                if min(expected.size) > 20:
                    difference = np.asarray(tile, float) - np.asarray(expected.convert("RGB"), float)
                    assert abs(difference.mean()) < 3
        full = ours.level_count - 1
        exact = reference.get_tile(full, (2, 3)).convert("RGB")
        assert np.array_equal(ours.tile_pixels(full, 2, 3), np.asarray(exact))


@pytest.mark.parametrize("address", [(-1, 0, 0), (12, 0, 0), (11, 6, 0), (11, 0, 6), (11, -1, 0), (0, 1, 0)])
def test_deep_zoom_addresses_outside_are_not_found(slide: Path, address: tuple[int, int, int]) -> None:
    with pytest.raises(NotFound):
        DeepZoom.of(slide).tile(*address)


def test_pyramids_halve_exactly_and_refuse_wrong_bands(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (777, 1030, 3), dtype=np.uint8)
    path = tmp_path / "p.tif"
    cuts = [picture[:1], picture[1:300], picture[300:301], picture[301:]]
    write_pyramid(path, 1030, 777, cuts, compression="deflate", mpp=(0.5, 0.25), description="d")
    with openslide.OpenSlide(path) as opened:
        assert opened.level_dimensions == ((1030, 777), (515, 389), (258, 195), (129, 98))
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.25)
        assert np.array_equal(np.asarray(opened.read_region((0, 0), 0, (1030, 777)))[..., :3], picture)
        half = np.asarray(opened.read_region((0, 0), 1, (515, 388)))[..., :3]
    expected = (picture[:776].reshape(388, 2, 515, 2, 3).astype(int).sum(axis=(1, 3)) + 2) // 4
    assert np.array_equal(half, expected)
    for bands in ([picture[:700]], [picture, picture[:1]], [picture[:, :100]]):
        with pytest.raises((ValueError, RuntimeError)):
            write_pyramid(tmp_path / "bad.tif", 1030, 777, bands, compression="jpeg", mpp=None, description="d")
        assert not (tmp_path / "bad.tif").exists()


def test_a_mosaic_continues_its_source_without_seams(slide: Path, tmp_path: Path) -> None:
    out = tmp_path / "mosaic.tif"
    assert main(["--source", str(slide), "--size", "3100", "--out", str(out)]) == 0
    with openslide.OpenSlide(slide) as small, openslide.OpenSlide(out) as large:
        assert large.dimensions == (3100, 3100)
        assert float(large.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert "Mosaic" in large.properties["tiff.ImageDescription"]
        source = np.asarray(small.read_region((0, 0), 0, (1500, 1500)))[..., :3].astype(float)
        got = np.asarray(large.read_region((1400, 1400), 0, (200, 200)))[..., :3]
    expected = np.pad(source, ((0, 200), (0, 200), (0, 0)), mode="reflect")[1400:1600, 1400:1600]
    assert np.abs(got - expected).mean() < 4
    with pytest.raises(InvalidRequest):
        write_mosaic(slide, out, width=0, height=10)


def test_synthetic_slides_repeat_and_differ_by_seed() -> None:
    first, nuclei = paint(512, seed=7)
    again, same = paint(512, seed=7)
    assert np.array_equal(first, again)
    assert nuclei == same
    assert not np.array_equal(first, paint(512, seed=8)[0])
    with pytest.raises(InvalidRequest):
        paint(100_000, seed=0)


@pytest.mark.skipif(not MODEL.exists(), reason="the first weights (../shared/models) are not here")
def test_a_trained_network_finds_the_synthetic_nuclei() -> None:
    import cv2
    import onnxruntime

    picture, nuclei = paint(1024, seed=0)
    low, high = np.percentile(picture, [0.1, 99.9], axis=(0, 1))
    part = np.clip((picture[256:768, 256:768] - low) / (high - low), -2, 3).astype(np.float32)
    session = onnxruntime.InferenceSession(str(MODEL), providers=["CPUExecutionProvider"])
    seeds = session.run(None, {"x": part.transpose(2, 0, 1)[None]})[0][0, 4] / 15 + 0.5
    peaks = np.argwhere((seeds == cv2.dilate(seeds, np.ones((11, 11)))) & (seeds > 0.4))
    true = np.array([[n.y - 256, n.x - 256] for n in nuclei if 256 <= n.x < 768 and 256 <= n.y < 768])
    near = np.hypot(*(peaks[:, None] - true[None]).transpose(2, 0, 1))
    assert len(true) > 100
    assert (near.min(axis=0) < 6).mean() > 0.9
    assert (near.min(axis=1) < 6).mean() > 0.9
