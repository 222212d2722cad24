"""The law of the ground: on it the network's word, off it nothing, whatever the patches, the tiles and the batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pytest

from microtome.segmentation import patches
from microtome.segmentation.cells import TileCells, segment_tile
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model
from microtome.segmentation.normalisation import Histogram, Normalisation
from microtome.segmentation.patches import NOWHERE, Bits, View, infer, patches_over
from microtome.segmentation.reading import ArrayReader, pad_reflect
from microtome.segmentation.run import segment

SIDE = 16
Cells = dict[tuple[int, int], tuple[int, float, bytes, bytes]]


@pytest.fixture(scope="module")
def picture(image: np.ndarray) -> np.ndarray:
    """Tissue of 1056 x 952 pixels; of the plane's last row of cells half is a reflection."""
    tall = np.concatenate([image, image[::-1]])
    return np.ascontiguousarray(np.concatenate([tall, tall[:, ::-1]], axis=1)[:952, :1056])


@pytest.fixture(scope="module")
def normalisation(picture: np.ndarray, model: Model) -> Normalisation:
    return Normalisation.from_histogram(Histogram.of(picture), model.percentiles)


def arm(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """A thin curve down along the left edge, and a branch along the lower one."""
    return (np.abs(x - 4 - 3 * np.sin(y / 7)) < 2) | ((np.abs(y - 55) < 2) & (x > 4) & (x < 60))


def islands(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """At two corners and between, one of a single cell; two touch the edge of the slide."""
    return (y + x < 12) | ((y > 49) & (x > 54)) | (np.hypot(y - 38, x - 12) < 5) | ((y == 12) & (x == 52))


def most(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """All but a corner and a hole."""
    return (y + x > 22) & (np.hypot(y - 40, x - 40) > 8)


GROUNDS = {shape.__name__: shape(*np.mgrid[:60, :66]) for shape in (arm, islands, most)}


def ground_of(cells: Bits) -> Callable[[Tile], Bits]:
    def of(tile: Tile) -> Bits:
        at = tile.padded
        return cells[at.y // SIDE : (at.y + at.height) // SIDE, at.x // SIDE : (at.x + at.width) // SIDE]

    return of


def by_seed(results: Iterable[tuple[Tile, TileCells]]) -> Cells:
    found: Cells = {}
    for _, cells in results:
        for i in range(len(cells)):
            seed = int(cells.seed_y[i]), int(cells.seed_x[i])
            assert seed not in found
            measured = cells.measurements[i].tobytes()
            found[seed] = int(cells.area_px[i]), float(cells.score[i]), cells.ring(i).tobytes(), measured
    return found


@pytest.fixture(scope="module")
def everywhere(picture: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation) -> Cells:
    grid = Grid.whole(picture.shape[1], picture.shape[0], 112)
    return by_seed(segment(ArrayReader(picture), model, engine, grid, normalisation=normalisation))


@pytest.mark.parametrize("name", GROUNDS)
def test_patched_is_whole_and_tiled_is_untiled(
    name: str,
    picture: np.ndarray,
    model: Model,
    engine: OnnxRuntimeEngine,
    normalisation: Normalisation,
    everywhere: Cells,
) -> None:
    cells, reader = GROUNDS[name], ArrayReader(picture)
    height, width = picture.shape[:2]

    def run(grid: Grid, batch_size: int) -> tuple[Cells, int]:
        ground = ground_of(cells)
        found = list(
            segment(
                reader, model, engine, grid, normalisation=normalisation, batch_size=batch_size, ground=ground,
                wanted=lambda tile: bool(ground(tile).any()),
            )
        )  # fmt: skip
        return by_seed(found), sum(tile.network_px for _, tile in found)

    whole = Grid.whole(width, height, 112)
    # A batch of two takes whole tiles, and nothing is cut into patches.
    untiled, all_pixels = run(whole, 2)
    assert all_pixels == whole.tile_width * whole.tile_height
    patched, pixels = run(whole, 1)
    assert patched == untiled
    assert pixels < 0.7 * all_pixels or name == "most"
    for grid, batch_size in ((Grid(width, height, 640, 112), 1), (Grid(width, height, 512, 112, 144), 3)):
        assert run(grid, batch_size)[0] == untiled
    # Off the ground nothing begins; on it everything is as it is without.
    assert 10 < len(untiled) < len(everywhere)
    assert all(cells[y // SIDE, x // SIDE] for y, x in untiled)
    inner = cv2.erode(cells.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
    assert {seed: cell for seed, cell in untiled.items() if inner[seed[0] // SIDE, seed[1] // SIDE]} == {
        seed: cell for seed, cell in everywhere.items() if inner[seed[0] // SIDE, seed[1] // SIDE]
    }


@pytest.mark.parametrize("name", ["arm", "islands"])
def test_logits_are_those_of_the_whole_tile_and_a_halo_less_is_seen(
    name: str, picture: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation
) -> None:
    tile = Grid(picture.shape[1], picture.shape[0], 992, 112).tile(0, 0)
    ground = ground_of(GROUNDS[name])(tile)
    width, height = tile.padded.width, tile.padded.height
    pixels = pad_reflect(ArrayReader(picture), tile.padded)[None]
    low, scale = (values[None] for values in normalisation.arrays())
    on = np.repeat(np.repeat(ground, SIDE, axis=0), SIDE, axis=1)

    def logits(view: View) -> np.ndarray:
        return infer(engine, pixels, low, scale, [view])[0]

    whole = logits(View.of(ground, width, height, model.halo_min, whole=True))
    patched = logits(View.of(ground, width, height, model.halo_min))
    assert len(patches_over(ground, model.halo_min)) > 1
    assert (patched[:, on] == whole[:, on]).all()
    for found in (whole, patched):
        assert (found[4, ~on] == NOWHERE).all()
        assert np.isfinite(found[4, on]).all()
    blind = logits(View.of(ground, width, height, 0))
    assert not (blind[:, on] == whole[:, on]).all()
    # The negative control: cells are other cells without the halo, which an exact comparison sees.
    cells = [segment_tile(one, tile, model, pixels[0]) for one in (whole, patched, blind)]
    assert by_seed([(tile, cells[0])]) == by_seed([(tile, cells[1])]) != by_seed([(tile, cells[2])])


def test_a_patch_of_nothing_has_no_cells(model: Model, engine: OnnxRuntimeEngine, picture: np.ndarray) -> None:
    tile = Grid.whole(320, 320).tile(0, 0)
    pixels = picture[:320, :320]
    view = View.of(np.zeros((20, 20), np.bool_), 320, 320, model.halo_min)
    logits = infer(engine, pixels[None], np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32), [view])[0]
    assert (logits[4] == patches.NOWHERE).all()
    assert len(segment_tile(logits, tile, model, pixels)) == 0
    assert view.pixels == 0
    assert tile.padded == Rect(0, 0, 320, 320)
