"""Tiles decoded without OpenSlide are OpenSlide's, and what may be damaged is left to it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile

from microtome.errors import UnreadableSlide
from microtome.slides.jpeg_scan import is_whole
from microtome.slides.opening import open_slide, read_block, read_level
from microtome.slides.pyramid import Compression, write_pyramid
from microtome.slides.synthetic import write_synthetic_slide
from microtome.slides.tiff_tiles import forget_tiles, open_tiles

SIZE = 700
SLIDES = Path(__file__).parents[4] / "shared" / "data" / "slides"
REAL = SLIDES / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    path = tmp_path_factory.mktemp("slide") / "slide.tif"
    write_synthetic_slide(path, size=SIZE, seed=3)
    with open_slide(path) as slide:
        return read_block(slide, 0, 0, 0, SIZE, SIZE)


def written(folder: Path, picture: np.ndarray, compression: Compression) -> Path:
    path = folder / f"{compression}.tif"
    write_pyramid(path, SIZE, SIZE, [picture], compression=compression, mpp=0.5, description="a test")
    return path


@pytest.mark.parametrize("compression", ["jpeg", "deflate", "none"])
def test_every_level_is_read_as_openslide_reads_it(
    tmp_path: Path, picture: np.ndarray, compression: Compression
) -> None:
    path = written(tmp_path, picture, compression)
    with openslide.OpenSlide(path) as slide:
        tiles = open_tiles(path, slide.level_dimensions)
        assert tiles is not None
        assert len(tiles.levels) == slide.level_count == 3
        for level, (width, height) in enumerate(slide.level_dimensions):
            for box in ((0, 0, width, height), (3, 5, width - 17, height - 40), (width - 9, height - 1, 9, 1)):
                mine = tiles.read(level, *box)
                assert mine is not None
                assert np.array_equal(mine, read_block(slide, level, *box))
        assert tiles.read(0, -1, 0, 4, 4) is None
        assert tiles.read(0, SIZE - 3, 0, 4, 4) is None


@pytest.mark.skipif(not REAL.exists(), reason="needs ../shared/data/slides")
def test_a_real_slide_is_read_as_openslide_reads_it() -> None:
    with openslide.OpenSlide(REAL) as slide:
        tiles = open_tiles(REAL, slide.level_dimensions)
        assert tiles is not None
        width, height = slide.dimensions
        mine = tiles.read(0, 0, 0, width, height)
        assert mine is not None
        assert np.array_equal(mine, read_block(slide, 0, 0, 0, width, height))


def spoilt(data: bytes, luck: random.Random) -> bytes:
    """Some bytes changed, the rest lost, or some of it replaced."""
    at = luck.randrange(20, len(data) - 10)
    kind = luck.randrange(3)
    if kind == 0:
        changed = bytearray(data)
        changed[at] ^= 1 << luck.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:at] + bytes(len(data) - at)
    some = luck.randbytes(min(luck.randrange(1, 200), len(data) - at))
    return data[:at] + some + data[at + len(some) :]


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_damage_is_left_to_openslide_or_seen_by_neither(
    tmp_path: Path, picture: np.ndarray, compression: Compression
) -> None:
    path, luck = written(tmp_path, picture, compression), random.Random(5)
    with openslide.OpenSlide(path) as slide:
        sizes = slide.level_dimensions
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        places = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    whole, left = path.read_bytes(), 0
    for _ in range(60):
        number = luck.randrange(4)  # whole tiles: the others are filled up
        at, count = places[number]
        path.write_bytes(whole[:at] + spoilt(whole[at : at + count], luck) + whole[at + count :])
        box = (number % 3 * 256, number // 3 * 256, 188, 256)
        forget_tiles()
        tiles = open_tiles(path, sizes)
        assert tiles is not None
        mine = tiles.read(0, *box)
        left += mine is None
        if mine is not None:
            with openslide.OpenSlide(path) as slide:
                assert np.array_equal(mine, read_block(slide, 0, *box))
    assert left > 40


def test_what_is_whole_beside_a_damaged_tile_is_still_read(tmp_path: Path, picture: np.ndarray) -> None:
    path = written(tmp_path, picture, "jpeg")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        fullest = int(np.argmax(page.databytecounts))
        at, count = page.dataoffsets[fullest], page.databytecounts[fullest]
    data = bytearray(path.read_bytes())
    data[at + count // 2 : at + count] = bytes(count - count // 2)
    path.write_bytes(data)
    row, column = divmod(fullest, 3)
    with pytest.raises(UnreadableSlide, match="damaged"):
        read_level(path, 0, 256 * column, 256 * row, 100, 100)
    other = 0 if row else 2
    place = (0, 256 * other, 100, 100)
    with open_slide(path) as slide:
        assert np.array_equal(read_level(path, 0, *place), read_block(slide, 0, *place))


def test_only_the_expected_kind_of_jpeg_is_called_whole(tmp_path: Path, picture: np.ndarray) -> None:
    path = written(tmp_path, picture, "jpeg")
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        at, count, tables = page.dataoffsets[0], page.databytecounts[0], page.jpegtables
    data = path.read_bytes()[at : at + count]
    assert is_whole(data, tables)
    assert not is_whole(data[:-2], tables)
    assert not is_whole(data + b"\0", tables)
    assert not is_whole(data[:2] + b"\xff\xdd\0\x04\0\x04" + data[2:], tables)
    assert not is_whole(b"", tables)
    assert not is_whole(b"\xff\xd8\xff\xda")
