"""A region's pixels depend on where they are and on nothing else."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from microtome.errors import InvalidRequest, TooLarge, UnknownMpp, UnreadableSlide
from microtome.segmentation.grid import Rect
from microtome.segmentation.reading import pad_reflect
from microtome.slides.pyramid import write_pyramid
from microtome.slides.reader import SlideReader
from microtome.slides.synthetic import paint, write_synthetic_slide

WIDTH, HEIGHT = 1100, 900
SLIDES = Path(__file__).resolve().parents[4] / "shared" / "data" / "slides"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.ascontiguousarray(paint(WIDTH, seed=3)[0][:HEIGHT])


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory, picture: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("slides") / "slide.tif"
    write_pyramid(path, WIDTH, HEIGHT, [picture], compression="deflate", mpp=0.25, description="test")
    return path


@pytest.mark.parametrize("mpp", [0.5, 0.499, 0.25, 0.2281750559, 0.17, 0.62, 1.0, 0.125])
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_overlapping_reads_agree_exactly(slide: Path, mpp: float, data: st.DataObject) -> None:
    reader = SlideReader(slide, mpp)
    x = data.draw(st.integers(-80, reader.width + 20))
    y = data.draw(st.integers(-80, reader.height + 20))
    width, height = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 120))
    dx, dy = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    first = pad_reflect(reader, Rect(x, y, width, height))
    second = pad_reflect(reader, Rect(x + dx, y + dy, 130, 130))
    assert first.shape == (height, width, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first[dy:, dx:], second[: height - dy, : width - dx])


def test_at_its_own_pixel_size_the_slide_is_copied(slide: Path, picture: np.ndarray) -> None:
    reader = SlideReader(slide, 0.5)
    assert reader.scale == (1.0, 1.0)
    assert (reader.width, reader.height) == (WIDTH, HEIGHT)
    assert reader.notes == ()
    assert np.array_equal(reader.read(0, 0, WIDTH, HEIGHT), picture)


@pytest.mark.parametrize("factor", [2, 3, 5])
def test_whole_ratios_are_exact_means(slide: Path, picture: np.ndarray, factor: int) -> None:
    reader = SlideReader(slide, 0.5 / factor)
    count = min(WIDTH, HEIGHT) // factor
    boxes = picture[: count * factor, : count * factor].astype(np.int64)
    boxes = boxes.reshape(count, factor, count, factor, 3).sum(axis=(1, 3))
    expected = (boxes + factor**2 // 2) // factor**2
    assert np.array_equal(reader.read(0, 0, count, count), expected)


@pytest.mark.parametrize("scale", [1.37, 2.19, 3.6])
def test_shrinking_is_an_area_average(slide: Path, picture: np.ndarray, scale: float) -> None:
    reader = SlideReader(slide, 0.5 / scale)
    assert reader.scale[0] == pytest.approx(scale)
    summed = np.zeros((HEIGHT + 1, WIDTH + 1, 3))
    summed[1:, 1:] = picture.cumsum(0, dtype=np.float64).cumsum(1)

    def integral(at: np.ndarray, axis: int, values: np.ndarray) -> np.ndarray:
        low = np.floor(at).astype(int)
        part = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
        high = np.minimum(low + 1, values.shape[axis] - 1)
        return values.take(low, axis) * (1 - part) + values.take(high, axis) * part

    edges_x, edges_y = np.arange(201) * scale, np.arange(151) * scale
    area = np.diff(np.diff(integral(edges_x, 1, integral(edges_y, 0, summed)), axis=0), axis=1) / scale**2
    assert np.abs(reader.read(0, 0, 200, 150) - area).max() <= 0.6


def test_enlarging_is_bilinear_between_pixel_centres(slide: Path, picture: np.ndarray) -> None:
    reader = SlideReader(slide, 1.0)
    assert (reader.width, reader.height) == (2 * WIDTH, 2 * HEIGHT)
    got = reader.read(0, 0, 6, 2)
    row = picture[0, :4].astype(float)
    expected = [row[0], row[0] * 0.75 + row[1] * 0.25, row[0] * 0.25 + row[1] * 0.75, row[1] * 0.75 + row[2] * 0.25]
    assert np.abs(got[0, :4] - np.array(expected)).max() <= 0.51


def test_close_pixel_sizes_snap_and_say_so(slide: Path) -> None:
    near = SlideReader(slide, 0.499)
    assert near.scale == (1.0, 1.0)
    assert near.mpp == pytest.approx(0.499)
    assert len(near.notes) == 1
    far = SlideReader(slide, 0.48)
    assert far.scale[0] == pytest.approx(0.5 / 0.48)
    assert far.notes == ()
    assert SlideReader(slide, 0.3).notes == (), "between the pixels of two scanners, and finer than the model's"
    coarse = SlideReader(slide, 1.0)
    assert coarse.scale == (0.5, 0.5)
    assert "enlarged" in coarse.notes[0]
    double = SlideReader(slide, 0.2527)
    assert double.scale == (2.0, 2.0)
    assert len(double.notes) == 1


def test_a_level_that_divides_evenly_is_read_in_place_of_level_0(slide: Path, picture: np.ndarray) -> None:
    # 1100 x 900 has an exact half (lossless here), which is not the same as any other way to get there.
    reader = SlideReader(slide, 0.25)
    half = (picture.astype(int).reshape(HEIGHT // 2, 2, WIDTH // 2, 2, 3).sum(axis=(1, 3)) + 2) // 4
    assert np.array_equal(reader.read(10, 20, 300, 200), half[20:220, 10:310])


def test_outside_is_reflected_by_the_one_rule(slide: Path, picture: np.ndarray) -> None:
    reader = SlideReader(slide, 0.5)
    got = pad_reflect(reader, Rect(-30, HEIGHT - 20, 64, 64))
    expected = np.pad(picture, ((0, 64), (30, 0), (0, 0)), mode="reflect")[HEIGHT - 20 : HEIGHT + 44, :64]
    assert np.array_equal(got, expected)
    for x, y in ((-1, 0), (0, -1), (WIDTH - 63, 0), (0, HEIGHT - 63)):
        with pytest.raises(InvalidRequest, match="not inside"):
            reader.read(x, y, 64, 64)


def test_points_map_by_centres_and_by_edges(slide: Path) -> None:
    reader = SlideReader(slide, 0.25)
    corners = np.array([[0.0, 0.0], [10.0, 4.0]])
    assert np.allclose(reader.edges_to_level0(corners), corners * 2)
    assert np.allclose(reader.to_level0(corners - 0.5), corners * 2 - 0.5)


def _read_in_child(reader: SlideReader) -> np.ndarray:
    return reader.read(100, 100, 64, 64)


def test_a_reader_travels_to_other_processes(slide: Path) -> None:
    reader = SlideReader(slide, 0.2281750559)
    expected = reader.read(100, 100, 64, 64)
    assert np.array_equal(pickle.loads(pickle.dumps(reader)).read(100, 100, 64, 64), expected)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert np.array_equal(pool.submit(_read_in_child, reader).result(60), expected)


def test_refusals(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownMpp):
        SlideReader(slide, None)
    with pytest.raises(InvalidRequest):
        SlideReader(slide, -1.0)
    with pytest.raises(UnreadableSlide):
        SlideReader(tmp_path / "none.svs", 0.5)
    with pytest.raises(InvalidRequest):
        SlideReader(slide, 0.5).read(0, 0, 0, 10)
    with pytest.raises(TooLarge):
        SlideReader(slide, 0.5).read(0, 0, 100_000, 100_000)


def test_damage_met_while_reading_is_typed_and_does_not_stick(tmp_path: Path, slide: Path) -> None:
    path = tmp_path / "damaged.tif"
    data = bytearray(slide.read_bytes())
    with tifffile.TiffFile(slide) as tiff:
        start = tiff.pages.first.dataoffsets[2]
    data[start : start + 60_000] = b"\xff" * 60_000
    path.write_bytes(data)
    reader = SlideReader(path, 0.5)
    with pytest.raises(UnreadableSlide, match=r"damaged\.tif"):
        reader.read(0, 0, WIDTH, HEIGHT)
    # The next slide is opened anew, not through the broken handle.
    path.write_bytes(slide.read_bytes())
    assert np.array_equal(reader.read(0, 0, 50, 50), SlideReader(slide, 0.5).read(0, 0, 50, 50))


@pytest.mark.skipif(not SLIDES.is_dir(), reason="the real slides (../shared/data) are not here")
@pytest.mark.parametrize(
    ("name", "mpp"),
    [("CMU-1-Small-Region.svs", 0.499), ("CMU-1-Small-Region.svs", 0.4), ("test3-DAPI-2-387.ndpi", 0.2281750559028887),
     ("TCGA-CR-7395-01A-01-TS1.svs", 0.23), ("TCGA-CR-7395-01A-01-TS1.svs", 1.0)],
)  # fmt: skip
def test_real_slides_read_the_same_in_any_tiling(name: str, mpp: float) -> None:
    reader = SlideReader(SLIDES / name, mpp)
    whole = pad_reflect(reader, Rect(-16, -16, 700, 600))
    for y, x in [(0, 0), (83, 211), (300, 177), (599 - 150, 699 - 200)]:
        assert np.array_equal(pad_reflect(reader, Rect(x - 16, y - 16, 200, 150)), whole[y : y + 150, x : x + 200])


def test_a_small_slide_is_decoded_once_and_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.tif"
    write_synthetic_slide(path, size=512, seed=9)
    part = SlideReader(path, 0.5).read(37, 41, 100, 90)
    whole = SlideReader(path, 0.5).read(0, 0, 512, 512)
    assert np.array_equal(whole[41:131, 37:137], part)
    whole[:] = 0  # what is read belongs to the reader

    def decoded_again(*_: object) -> None:
        raise AssertionError("it was decoded already")

    monkeypatch.setattr("microtome.slides.level.read_level", decoded_again)
    again = SlideReader(path, 0.5).read(37, 41, 100, 90)
    assert np.array_equal(again, part)
