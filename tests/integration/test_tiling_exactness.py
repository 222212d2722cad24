"""The law of the engine: a tiled run is the untiled run, bit for bit; and what breaks the law is seen to break it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from shapely import Polygon

from microtome.errors import ConfigurationError
from microtome.segmentation import run
from microtome.segmentation.cells import TileCells, read_cells, segment_tile, write_cells
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.reading import ArrayReader, pad_reflect
from microtome.segmentation.run import content_key, segment
from microtome.segmentation.sampling import measure_normalisation, sample_histogram, sampling_grid, spread
from microtome.slides.synthetic import paint

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"

Cells = dict[tuple[int, int], tuple[int, float, bytes, bytes]]


def collect(results: Iterable[tuple[Tile, TileCells]]) -> Cells:
    """Cells by their seed; a seed that two tiles own is an error."""
    found: Cells = {}
    for tile, cells in results:
        for i in range(len(cells)):
            seed = int(cells.seed_y[i]), int(cells.seed_x[i])
            assert seed not in found
            assert tile.core.intersection(Rect(seed[1], seed[0], 1, 1)).width == 1
            measured = cells.measurements[i].tobytes()
            found[seed] = int(cells.area_px[i]), float(cells.score[i]), cells.ring(i).tobytes(), measured
    return found


def one_by_one(
    image: np.ndarray,
    model: Model,
    engine: OnnxRuntimeEngine,
    tiles: Iterable[Tile],
    normalisation: Normalisation | None,
) -> Cells:
    """Without the stream and without its guards; None normalises each tile by itself."""
    results = []
    for tile in tiles:
        pixels = pad_reflect(ArrayReader(image), tile.padded)
        own = normalisation or Normalisation.from_histogram(Histogram.of(pixels), model.percentiles)
        low, scale = own.arrays()
        logits = engine.infer(pixels[None], low[None], scale[None])[0]
        results.append((tile, segment_tile(logits, tile, model, pixels)))
    return collect(results)


@pytest.fixture(scope="module")
def untiled(image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation) -> Cells:
    grid = Grid.whole(image.shape[1], image.shape[0])
    assert len(grid) == 1
    found = collect(segment(ArrayReader(image), model, engine, grid, normalisation=normalisation))
    assert len(found) > 150
    return found


@pytest.mark.parametrize(
    ("tile_size", "halo", "offset", "batch_size", "workers"),
    [(384, 96, 0, 1, 1), (384, 96, 16, 3, 2), (512, 96, 160, 2, 1), (512, 128, 0, 4, 2), (1024, 96, 0, 1, 1)],
)
def test_tiled_is_untiled(
    image: np.ndarray,
    model: Model,
    engine: OnnxRuntimeEngine,
    normalisation: Normalisation,
    untiled: Cells,
    tile_size: int,
    halo: int,
    offset: int,
    batch_size: int,
    workers: int,
) -> None:
    grid = Grid(image.shape[1], image.shape[0], tile_size, halo, offset)
    results = segment(
        ArrayReader(image), model, engine, grid, normalisation=normalisation, batch_size=batch_size, workers=workers
    )
    assert collect(results) == untiled


def test_the_order_of_tiles_is_not_felt(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation, untiled: Cells
) -> None:
    tiles = list(Grid(image.shape[1], image.shape[0], 448).tiles())
    order = np.random.default_rng(3).permutation(len(tiles))
    assert one_by_one(image, model, engine, [tiles[i] for i in order], normalisation) == untiled


def one_pixel_off(grid: Grid) -> list[Tile]:
    slide = Rect(0, 0, grid.width, grid.height)
    moved = [Rect(tile.padded.x - 1, tile.padded.y - 1, grid.tile_width, grid.tile_height) for tile in grid.tiles()]
    return [
        Tile(tile.row, tile.column, tile.core, rect, rect.intersection(slide))
        for tile, rect in zip(grid.tiles(), moved, strict=True)
    ]


@pytest.mark.parametrize(
    ("cut", "slide_level"),
    [
        (lambda w, h: one_pixel_off(Grid(w, h, 448)), True),
        (lambda w, h: Grid(w, h, 448).tiles(), False),
        (lambda w, h: Grid(w, h, 256, 0).tiles(), True),
    ],
    ids=["origin off by one", "normalised tile by tile", "no halo"],
)
def test_what_breaks_the_law_is_seen(
    image: np.ndarray,
    model: Model,
    engine: OnnxRuntimeEngine,
    normalisation: Normalisation,
    untiled: Cells,
    cut: Callable[[int, int], Iterable[Tile]],
    slide_level: bool,
) -> None:
    tiles = cut(image.shape[1], image.shape[0])
    assert one_by_one(image, model, engine, tiles, normalisation if slide_level else None) != untiled


def test_a_halo_too_short_is_refused(image: np.ndarray, model: Model, engine: OnnxRuntimeEngine) -> None:
    grid = Grid(image.shape[1], image.shape[0], 512, model.halo_min - 16)
    with pytest.raises(ConfigurationError, match="halo"):
        segment(ArrayReader(image), model, engine, grid)
    with pytest.raises(ConfigurationError, match="grid"):
        segment(ArrayReader(image), model, engine, Grid(10, 10))


@pytest.mark.parametrize("kind", ["one colour", "noise", "black"])
def test_glass_has_no_cells(kind: str, model: Model, engine: OnnxRuntimeEngine) -> None:
    noise = np.random.default_rng(0).normal(238, 3, (300, 400, 3)).clip(0, 255).astype(np.uint8)
    blank = {"one colour": np.full_like(noise, 243), "noise": noise, "black": np.zeros_like(noise)}[kind]
    assert collect(segment(ArrayReader(blank), model, engine, Grid(400, 300, 512))) == {}


def test_every_ring_is_a_valid_polygon_inside_the_slide(image: np.ndarray, untiled: Cells, model: Model) -> None:
    for area, _, ring, _ in untiled.values():
        points = np.frombuffer(ring, np.int32).reshape(-1, 2)
        assert Polygon(points).is_valid
        assert area >= model.min_size
        assert points.min() >= 0
        assert (points <= [2 * image.shape[1], 2 * image.shape[0]]).all()


def test_skipped_tiles_take_nothing_else_with_them(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation, untiled: Cells
) -> None:
    grid = Grid(image.shape[1], image.shape[0], 448)
    wanted = {(0, 1), (1, 0)}
    found = collect(
        segment(
            ArrayReader(image),
            model,
            engine,
            grid,
            normalisation=normalisation,
            wanted=lambda tile: (tile.row, tile.column) in wanted,
        )
    )
    cores = [grid.tile(*at).core for at in wanted]
    assert found == {
        seed: cell
        for seed, cell in untiled.items()
        if any(c.x <= seed[1] < c.x + c.width and c.y <= seed[0] < c.y + c.height for c in cores)
    }
    assert 0 < len(found) < len(untiled)


def test_stopping_early_stops_the_threads(image: np.ndarray, model: Model, engine: OnnxRuntimeEngine) -> None:
    import threading

    before = threading.active_count()
    stream = segment(ArrayReader(image), model, engine, Grid(image.shape[1], image.shape[0], 384))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_a_failing_reader_fails_the_run(image: np.ndarray, model: Model, engine: OnnxRuntimeEngine) -> None:
    class Torn(ArrayReader):
        def read(self, x: int, y: int, width: int, height: int) -> np.ndarray:
            if x > 200:
                raise OSError("torn")
            return super().read(x, y, width, height)

    normalisation = Normalisation((0.0, 0.0, 0.0), (255.0, 255.0, 255.0))
    grid = Grid(image.shape[1], image.shape[0], 384)
    with pytest.raises(OSError, match="torn"):
        list(segment(Torn(image), model, engine, grid, normalisation=normalisation))


def test_a_normalisation_is_the_images_whatever_the_tiles(image: np.ndarray, model: Model) -> None:
    height, width = image.shape[:2]
    reader, blocks = ArrayReader(image), list(sampling_grid(width, height).tiles())
    assert (sample_histogram(reader, blocks).counts == Histogram.of(image).counts).all()
    assert spread(blocks, 5) == spread(blocks[::-1], 5)
    assert len(spread(blocks, 5)) == 5
    some = blocks[::2]
    wanted = Normalisation.from_histogram(sample_histogram(reader, some), model.percentiles)
    for grid in (Grid(width, height, 256), Grid(width, height, 384, 112, 32), Grid.whole(width, height)):
        tiles = list(grid.tiles())
        # All tiles are decoded, some are, or none: the pixels that are counted are the same.
        for decoded in (tiles, tiles[1:], tiles * 1000):
            measured = measure_normalisation(reader, some, model.percentiles, grid, decoded)
            assert measured.normalisation == wanted
            assert len(measured.pixels) == (len(decoded) if len(decoded) <= len(tiles) else 0)
    assert sample_histogram(reader, []).pixels == 0


def test_results_survive_the_file(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, untiled: Cells, tmp_path: Path,
    normalisation: Normalisation,
) -> None:  # fmt: skip
    back = []
    for tile, cells in segment(
        ArrayReader(image), model, engine, Grid(image.shape[1], image.shape[0], 512), normalisation=normalisation
    ):
        write_cells(cells, tmp_path / f"{tile.row}-{tile.column}.arrow")
        back.append((tile, read_cells(tmp_path / f"{tile.row}-{tile.column}.arrow")))
        assert set(cells.seconds) == {"decode", "idle", "network", "head", "contours", "measure"}
    assert collect(back) == untiled


def test_content_keys(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    key = content_key("a" * 64, model, {"halo": 96, "tile_size": 1024})
    assert key == content_key("a" * 64, model, {"tile_size": 1024, "halo": 96})
    others = {
        content_key("b" * 64, model, {"halo": 96, "tile_size": 1024}),
        content_key("a" * 64, model, {"halo": 112, "tile_size": 1024}),
        content_key("a" * 64, replace(model, digest="c" * 64), {"halo": 96, "tile_size": 1024}),
    }
    assert key not in others
    assert len(others) == 3
    assert len(key) == 64
    monkeypatch.setattr(run, "ALGORITHM", run.ALGORITHM + 1)
    assert key != content_key("a" * 64, model, {"halo": 96, "tile_size": 1024})


def with_large_nucleus(picture: np.ndarray, x: int, y: int, radius: float) -> np.ndarray:
    """A nucleus of mottled chromatin in a pale cell, painted over tissue."""
    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]]
    away = np.hypot(columns - x, rows - y)
    cell, nucleus = (np.clip((edge - away) / 4 + 0.5, 0, 1)[..., None] for edge in (radius + 12, radius))
    grain = cv2.GaussianBlur(np.random.default_rng(1).normal(0, 1, away.shape), (0, 0), 6)
    density = -np.log10(np.maximum(picture, 1) / 243)
    density = density * (1 - cell) + cell * np.array([0.08, 0.33, 0.18])
    density += nucleus * (0.55 + 0.08 * grain / grain.std())[..., None] * np.array([0.62, 0.72, 0.30])
    light: np.ndarray = np.clip(np.rint(243 * 10**-density), 0, 255).astype(np.uint8)
    return light


@pytest.mark.parametrize(("radius", "beside"), [(30, -8), (40, -20), (40, 0), (40, 21)])
def test_a_large_nucleus_on_a_seam_is_that_of_the_untiled_run(
    radius: int, beside: int, model: Model, engine: OnnxRuntimeEngine
) -> None:
    size = 768
    # Thresholds with which the model takes nearly all of so large a nucleus for one, which is more than it has learned.
    model = replace(model, seed_threshold=0.4, mask_threshold=0.53)
    grid, whole = Grid(size, size, 512, model.halo), Grid.whole(size, size, model.halo)
    seam = grid.across.seam(1)
    assert grid.down.seam(1) == seam
    # Over the corner where four tiles meet.
    x, y = seam + beside, seam - 7
    image = with_large_nucleus(paint(size, 7)[0], x, y, radius)
    normalisation = Normalisation.from_histogram(Histogram.of(image), model.percentiles)
    untiled, tiled = (
        list(segment(ArrayReader(image), model, engine, one, normalisation=normalisation)) for one in (whole, grid)
    )
    cells = collect(untiled)
    assert max(area for (at_y, at_x), (area, *_) in cells.items() if np.hypot(at_x - x, at_y - y) < radius) > 2000
    # It does not fit the ordinary window.
    assert sum(tile.regrown + tile.cut for _, tile in untiled) > 0
    assert collect(tiled) == cells
    for said in ("regrown", "cut"):
        assert sum(getattr(tile, said) for _, tile in tiled) == sum(getattr(tile, said) for _, tile in untiled)


@pytest.mark.skipif(not SHARED.is_dir(), reason="real images are not at ../shared/data")
def test_a_real_image_with_the_default_grid(model: Model, engine: OnnxRuntimeEngine) -> None:
    import tifffile

    image = tifffile.imread(SHARED / "tiles" / "HE_example.tif")[300:1000, :840, :3]
    height, width = image.shape[:2]
    reader = ArrayReader(image)
    normalisation = Normalisation.from_histogram(Histogram.of(image), model.percentiles)
    runs = [
        collect(segment(reader, model, engine, grid, normalisation=normalisation, batch_size=2))
        for grid in (Grid.whole(width, height), Grid(width, height), Grid(width, height, 640, offset=272))
    ]
    assert len(runs[0]) > 1000
    assert runs[1] == runs[0]
    assert runs[2] == runs[0]


@pytest.mark.skipif(not SHARED.is_dir(), reason="real images are not at ../shared/data")
def test_a_part_of_a_real_slide(model: Model, engine: OnnxRuntimeEngine) -> None:
    import openslide

    with openslide.OpenSlide(SHARED / "slides" / "CMU-1-Small-Region.svs") as slide:
        image = np.asarray(slide.read_region((700, 1400), 0, (640, 720)).convert("RGB"))
    reader = ArrayReader(image)
    whole = collect(segment(reader, model, engine, Grid.whole(640, 720)))
    tiled = collect(
        segment(
            reader,
            model,
            engine,
            Grid(640, 720, 512),
            normalisation=Normalisation.from_histogram(Histogram.of(image), model.percentiles),
        )
    )
    assert len(whole) > 50
    assert tiled == whole
