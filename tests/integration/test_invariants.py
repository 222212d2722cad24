"""Invariants of tiled segmentation, each exactly, and what breaks them seen to break them.

`test_tiling_exactness` holds that tiled is untiled on real pixels. Here: what threads, kills and shifts of the picture
must not change; that every cell is there exactly once; and cells of known shape on every seam and corner.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from shapely import Polygon
from shapely.strtree import STRtree

from microtome.segmentation.cells import TileCells, read_cells, segment_tile
from microtome.segmentation.engine import OnnxRuntimeEngine
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.model import Model, PixelClassifier
from microtome.segmentation.normalisation import Normalisation
from microtome.segmentation.reading import ArrayReader
from microtome.segmentation.run import segment
from microtome.segmentation.seams import SeamScore
from tests.integration.resumable import result_path, run
from tests.parity.tiles import CLASSIFIERS

ROOT = Path(__file__).parents[2]

Cells = dict[tuple[int, int], tuple[int, float, bytes, bytes]]


def collect(results: Iterable[TileCells], shift: tuple[int, int] = (0, 0)) -> Cells:
    """Cells by their seed, moved by `shift` (y, x); the same seed twice is an error."""
    found: Cells = {}
    moved = np.array([2 * shift[1], 2 * shift[0]], np.int32)
    for cells in results:
        for i in range(len(cells)):
            seed = int(cells.seed_y[i]) + shift[0], int(cells.seed_x[i]) + shift[1]
            assert seed not in found
            ring = (cells.ring(i) + moved).astype(np.int32).tobytes()
            found[seed] = int(cells.area_px[i]), float(cells.score[i]), ring, cells.measurements[i].tobytes()
    return found


def segmented(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, grid: Grid, given: Normalisation
) -> list[TileCells]:
    return [cells for _, cells in segment(ArrayReader(image), model, engine, grid, normalisation=given)]


# -- on real pixels -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiled(image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation) -> list[TileCells]:
    return segmented(image, model, engine, Grid(image.shape[1], image.shape[0], 448), normalisation)


def test_the_engines_threads_are_not_felt(
    image: np.ndarray, model: Model, normalisation: Normalisation, tiled: list[TileCells]
) -> None:
    alone = OnnxRuntimeEngine(model, device="cpu", threads=1)
    grid = Grid(image.shape[1], image.shape[0], 448)
    assert collect(segmented(image, model, alone, grid, normalisation)) == collect(tiled)


def test_a_moved_picture_has_moved_cells(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation, tiled: list[TileCells]
) -> None:
    """By multiples of 8; as far from the new edges as the network sees."""
    top, left = 56, 104
    part = np.ascontiguousarray(image[top:, left:])
    grid = Grid(part.shape[1], part.shape[0], 512)
    moved = collect(segmented(part, model, engine, grid, normalisation), (top, left))
    inner = {seed for seed in collect(tiled) if seed[0] >= top + 112 and seed[1] >= left + 112}
    # At the lower and right edge padding to 16 may differ: what is compared is away from there, too.
    inner = {(y, x) for y, x in inner if y < image.shape[0] - 112 and x < image.shape[1] - 112}
    everything = collect(tiled)
    assert len(inner) > 50
    assert {seed: moved.get(seed) for seed in inner} == {seed: everything[seed] for seed in inner}


def test_every_cell_is_there_once(tiled: list[TileCells], image: np.ndarray) -> None:
    """Seeds are unique (`collect` sees to it), tiles add up, and no two cells share ground."""
    cells = collect(tiled)
    assert len(cells) == sum(len(tile) for tile in tiled) > 150
    shapes = [Polygon(np.frombuffer(ring, np.int32).reshape(-1, 2)) for _, _, ring, _ in cells.values()]
    tree = STRtree(shapes)
    for k, shape in enumerate(shapes):
        for other in tree.query(shape):
            if other > k:
                # Half a pixel's corner may be cut off by both.
                assert shape.intersection(shapes[other]).area <= 0.05 * min(shape.area, shapes[other].area)


def test_small_cells_are_dropped_after_ownership(
    image: np.ndarray, model: Model, engine: OnnxRuntimeEngine, normalisation: Normalisation, tiled: list[TileCells]
) -> None:
    strict = dataclasses.replace(model, min_size=60)
    fewer = collect(segmented(image, strict, engine, Grid(image.shape[1], image.shape[0], 512), normalisation))
    assert fewer == {seed: cell for seed, cell in collect(tiled).items() if cell[0] >= 60}
    assert len(fewer) < sum(len(tile) for tile in tiled)


def test_killed_and_resumed_gives_the_same_bytes(crop: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tiles = run(crop, whole, 384)
    assert tiles == 9
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "libs"), str(ROOT)])}
    command = [sys.executable, "-m", "tests.integration.resumable", str(crop), str(killed), "384"]
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while len(list(killed.glob("*.arrow"))) < 2:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = {path.name for path in killed.glob("*.arrow")}
    assert 2 <= len(before) < tiles
    assert run(crop, killed, 384) == tiles - len(before)
    files = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in killed.glob("*.arrow")) == files
    for name in files:
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    assert len(collect(read_cells(killed / name) for name in files)) > 150
    assert result_path(killed, Grid(704, 640, 384).tile(0, 0)).name in files


# -- cells of known shape -------------------------------------------------------------------------

SLIDE = (1024, 1152)


def painting(model: Model, halo: int) -> Model:
    """A model whose head draws what the third channel says, with the room that the halo gives."""
    head = PixelClassifier(5, CLASSIFIERS["painted"])
    return dataclasses.replace(model, pixel_classifier=head, min_size=1).with_room(halo)


def discs(grid: Grid, radius: int) -> tuple[np.ndarray, dict[tuple[int, int], int]]:
    """Logits float32 [5, h, w] with a disc on every seam and every corner of cores, centre on, before and behind the
    line; and each one's area by its seed.
    """
    height, width = SLIDE
    logits = np.zeros((5, height, width), np.float32)
    logits[2], logits[4] = -4, -20
    ys = np.array([grid.down.seam(k) for k in range(1, grid.rows)])
    xs = np.array([grid.across.seam(k) for k in range(1, grid.columns)])
    step = 2 * radius + 4
    areas = {}
    taken = np.zeros(SLIDE, bool)
    lines = [(int(y), x) for y in ys for x in range(radius + 2, width - radius - 2, step)]
    lines += [(y, int(x)) for x in xs for y in range(radius + 2, height - radius - 2, step)]
    corners = [(int(y), int(x)) for y in ys for x in xs]
    rows, columns = np.mgrid[:height, :width]
    for k, (line_y, line_x) in enumerate([*corners, *lines]):
        # On the line, one before it, a few pixels before and behind it.
        y = line_y + (0, -1, radius // 2, -radius // 2)[k % 4]
        x = line_x + (0, -1, -radius // 2, radius // 2)[k // 4 % 4]
        window = np.s_[max(0, y - radius - 1) : y + radius + 2, max(0, x - radius - 1) : x + radius + 2]
        disc = (rows[window] - y) ** 2 + (columns[window] - x) ** 2 <= radius**2
        if taken[window].any():
            continue
        taken[window] = True
        logits[2][window][disc] = 4
        logits[4][y, x] = 4
        areas[y, x] = int(disc.sum())
    return logits, areas


def painted_tiles(logits: np.ndarray, tiles: Iterable[Tile], model: Model) -> Iterator[TileCells]:
    for tile in tiles:
        part = tile.padded
        seen = np.ascontiguousarray(logits[:, part.y : part.y + part.height, part.x : part.x + part.width])
        yield segment_tile(seen, tile, model, np.full((part.height, part.width, 3), 200, np.uint8))


@pytest.mark.parametrize(
    ("radius", "halo", "regrown"), [(6, 96, False), (15, 96, False), (30, 96, False), (40, 112, True), (60, 128, True)]
)
def test_discs_on_every_seam_and_corner(model: Model, radius: int, halo: int, regrown: bool) -> None:
    """However large: found once, whole, and as the untiled run finds them, bit for bit."""
    grid = Grid(SLIDE[1], SLIDE[0], 448, halo)
    logits, areas = discs(grid, radius)
    painter = painting(model, halo)
    tiled = list(painted_tiles(logits, grid.tiles(), painter))
    assert len(areas) > 20
    assert {seed: cell[0] for seed, cell in collect(tiled).items()} == areas
    assert sum(cells.regrown for cells in tiled) == (len(areas) if regrown else 0)
    assert sum(cells.cut for cells in tiled) == 0
    untiled = painted_tiles(logits, Grid.whole(SLIDE[1], SLIDE[0], halo).tiles(), painter)
    assert collect(untiled) == collect(tiled)
    seams = SeamScore(grid)
    for cells in tiled:
        seams.add(cells)
    assert (seams.result().duplicates, seams.result().cut_cells <= len(areas) // 4) == (0, True)


def test_what_no_window_holds_is_said(model: Model) -> None:
    grid = Grid(SLIDE[1], SLIDE[0], 448, 112)
    logits, areas = discs(grid, 60)
    cut = sum(cells.cut for cells in painted_tiles(logits, grid.tiles(), painting(model, 112)))
    assert cut == len(areas)


def without_halo(grid: Grid) -> list[Tile]:
    return [Tile(tile.row, tile.column, tile.core, tile.core, tile.core) for tile in grid.tiles()]


def core_moved(grid: Grid) -> list[Tile]:
    """Cores that do not meet: a cell on the line has no owner, or two."""
    cores = [Rect(tile.core.x + tile.column, tile.core.y, tile.core.width, tile.core.height) for tile in grid.tiles()]
    return [dataclasses.replace(tile, core=core) for tile, core in zip(grid.tiles(), cores, strict=True)]


@pytest.mark.parametrize("broken", [without_halo, core_moved])
def test_what_breaks_the_law_is_seen(model: Model, broken: object) -> None:
    grid = Grid(SLIDE[1], SLIDE[0], 448)
    logits, areas = discs(grid, 12)
    tiles = list(painted_tiles(logits, broken(grid), painting(model, 96)))  # type: ignore[operator]
    found = {
        (int(y), int(x)): int(area)
        for cells in tiles
        for y, x, area in zip(cells.seed_y, cells.seed_x, cells.area_px, strict=True)
    }
    assert found != areas


def test_careless_tiles_have_bad_seams(model: Model) -> None:
    grid = Grid(SLIDE[1], SLIDE[0], 448)
    logits, areas = discs(grid, 12)
    seams = SeamScore(grid)
    for cells in painted_tiles(logits, without_halo(grid), painting(model, 96)):
        seams.add(cells)
    assert seams.result().cut_cells > len(areas) // 2
