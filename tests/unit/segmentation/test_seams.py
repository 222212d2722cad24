"""The seam score against merges that are known to be careless, and against one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from microtome.segmentation.cells import TileCells
from microtome.segmentation.contours import trace_contours
from microtome.segmentation.grid import Grid, Rect, Tile
from microtome.segmentation.measuring import MEASUREMENTS
from microtome.segmentation.seams import Seams, SeamScore

SIZE = 1600
GRID = Grid(SIZE, SIZE, 512, 96)


@pytest.fixture(scope="module")
def nuclei() -> np.ndarray:
    """Labels of some 3,800 discs and ellipses in random places, int32 [SIZE, SIZE]."""
    rng = np.random.default_rng(8)
    taken, labels = np.zeros((SIZE, SIZE), bool), np.zeros((SIZE, SIZE), np.int32)
    for _ in range(9000):
        y, x = rng.integers(16, SIZE - 16, 2)
        tall, wide = rng.integers(5, 13, 2)
        window = np.s_[y - 13 : y + 14, x - 13 : x + 14]
        ys, xs = np.mgrid[-13:14, -13:14]
        disc = (ys / tall) ** 2 + (xs / wide) ** 2 <= 1
        if (taken[window] & disc).any():
            continue
        taken[window] |= ndimage.binary_dilation(disc)
        labels[window][disc] = labels.max() + 1
    return labels


def traced(labels: np.ndarray, seeds: np.ndarray, which: np.ndarray, tile: Tile, view: Rect) -> TileCells:
    """The cells numbered `which` of a view of the slide, as an engine would give them."""
    part = np.ascontiguousarray(labels[view.y : view.y + view.height, view.x : view.x + view.width])
    found = ndimage.find_objects(part)
    which = np.array([k for k in which if k <= len(found) and found[k - 1] is not None], np.int32)
    box = np.array([[*(s.start for s in found[k - 1]), *(s.stop for s in found[k - 1])] for k in which], np.int32)
    area, offsets, points = trace_contours(part, which, box.reshape(-1, 4))
    return TileCells(
        row=tile.row,
        column=tile.column,
        seed_y=seeds[which - 1, 0],
        seed_x=seeds[which - 1, 1],
        area_px=area,
        score=np.ones(len(which), np.float32),
        ring_offsets=offsets,
        ring_points=points + np.array([2 * view.x, 2 * view.y], np.int32),
        measurements=np.zeros((len(which), len(MEASUREMENTS)), np.float32),
    )


def centres(labels: np.ndarray) -> np.ndarray:
    """Middles of the labels' boxes, int32 [n, 2]; (-1, -1) for a number that is not there."""
    found = ndimage.find_objects(labels)
    middles = [(-1, -1) if box is None else tuple((s.start + s.stop) // 2 for s in box) for box in found]
    return np.array(middles, np.int32).reshape(-1, 2)


def in_rect(seeds: np.ndarray, rect: Rect) -> np.ndarray:
    y, x = seeds[:, 0], seeds[:, 1]
    inside = (y >= rect.y) & (y < rect.y + rect.height) & (x >= rect.x) & (x < rect.x + rect.width)
    return (np.flatnonzero(inside) + 1).astype(np.int32)


def by_seed(labels: np.ndarray, seeds: np.ndarray, tile: Tile) -> TileCells:
    """Ours: whoever's core holds the seed gives the whole cell."""
    return traced(labels, seeds, in_rect(seeds, tile.core), tile, tile.padded)


def without_halo(labels: np.ndarray, seeds: np.ndarray, tile: Tile) -> TileCells:
    """Each tile for itself: what lies across a seam is two pieces."""
    core = tile.core
    part = labels[core.y : core.y + core.height, core.x : core.x + core.width]
    which = np.setdiff1d(np.unique(part), 0)
    own = centres(part)
    own[which - 1] += np.array([core.y, core.x], np.int32)
    return traced(labels, own, which.astype(np.int32), tile, core)


def touching_dropped(labels: np.ndarray, seeds: np.ndarray, tile: Tile) -> TileCells:
    """Each tile for itself, and what touches its edge is thrown away."""
    core = tile.core
    part = labels[core.y : core.y + core.height, core.x : core.x + core.width]
    edges = [part[side] for side, cut in (
        (np.s_[0], core.y > 0), (np.s_[-1], core.y + core.height < SIZE),
        (np.s_[:, 0], core.x > 0), (np.s_[:, -1], core.x + core.width < SIZE),
    ) if cut]  # fmt: skip
    which = np.setdiff1d(np.unique(part), np.concatenate([[0], *edges]))
    return traced(labels, seeds, which.astype(np.int32), tile, core)


def nothing_dropped(labels: np.ndarray, seeds: np.ndarray, tile: Tile) -> TileCells:
    """Tiles overlap and nobody looks for doubles."""
    return traced(labels, seeds, in_rect(seeds, tile.padded), tile, tile.padded)


def score(
    nuclei: np.ndarray, rule: Callable[[np.ndarray, np.ndarray, Tile], TileCells], planned: list[Tile] | None = None
) -> Seams:
    seeds = centres(nuclei)
    tiles = list(GRID.tiles()) if planned is None else planned
    seams = SeamScore(GRID, None if planned is None else [(tile.row, tile.column) for tile in planned])
    for index in np.random.default_rng(1).permutation(len(tiles)):
        seams.add(rule(nuclei, seeds, tiles[index]))
    assert not seams._open
    return seams.result()


def test_cells_that_belong_to_one_tile_leave_no_trace(nuclei: np.ndarray) -> None:
    found = score(nuclei, by_seed)
    assert found.density_ratio == pytest.approx(1, abs=3 * found.density_error)
    assert found.density_error < 0.08
    assert found.duplicates == 0
    assert found.cut_cells <= found.cut_expected + 4 * max(1, found.cut_expected) ** 0.5
    assert found.seam_px == sum(GRID.width * (rows - 1) for rows in (GRID.rows, GRID.columns))


def test_halves_are_seen(nuclei: np.ndarray) -> None:
    found, good = score(nuclei, without_halo), score(nuclei, by_seed)
    assert found.density_ratio > 1.3
    assert found.cut_cells > 10 * max(1, good.cut_cells)
    assert found.duplicates == 0


def test_halves_are_seen_where_patches_of_one_tile_meet(nuclei: np.ndarray) -> None:
    halves = nuclei.copy()
    # Who lies across the middle is two cells.
    halves[:, SIZE // 2 :][nuclei[:, SIZE // 2 :] > 0] += nuclei.max()
    tile = Grid.whole(SIZE, SIZE).tile(0, 0)
    left, right = (Rect(x, 0, SIZE // 2, SIZE) for x in (0, SIZE // 2))

    def found(labels: np.ndarray, patches: tuple[Rect, ...]) -> Seams:
        which = np.setdiff1d(np.unique(labels), 0).astype(np.int32)
        seams = SeamScore(Grid.whole(SIZE, SIZE))
        seams.add(replace(traced(labels, centres(labels), which, tile, tile.padded), patches=patches))
        return seams.result()

    assert found(halves, ()).cut_cells == 0
    cut, good = found(halves, (left, right)), found(nuclei, (left, right))
    assert cut.cut_cells > 20
    assert good.cut_cells <= good.cut_expected + 4 * max(1, good.cut_expected) ** 0.5


def test_losses_are_seen(nuclei: np.ndarray) -> None:
    found = score(nuclei, touching_dropped)
    assert found.density_ratio < 0.6
    assert found.density_ratio + 5 * found.density_error < 1


def test_doubles_are_seen(nuclei: np.ndarray) -> None:
    found = score(nuclei, nothing_dropped)
    assert found.density_ratio > 1.7
    assert found.duplicates > 1000


def test_tiles_that_were_left_out_do_not_count(nuclei: np.ndarray) -> None:
    """Half the slide is glass: the edge of the tissue is no seam."""
    half = nuclei.copy()
    half[:, GRID.across.seam(2) :] = 0
    planned = [tile for tile in GRID.tiles() if tile.column < 2]
    found = score(half, by_seed, planned)
    assert found.density_ratio == pytest.approx(1, abs=3 * found.density_error)
    assert found.seam_px < GRID.width * (GRID.rows + GRID.columns - 2)


def test_nothing_is_something(nuclei: np.ndarray) -> None:
    empty = score(np.zeros_like(nuclei), lambda labels, seeds, tile: by_seed(labels, np.empty((0, 2), np.int32), tile))
    assert (empty.density_ratio, empty.density_error) == (None, None)
    assert (empty.cut_cells, empty.cut_expected, empty.duplicates, empty.cells_at_seams) == (0, 0.0, 0, 0)
    assert SeamScore(Grid(100, 100)).result().seam_px == 0


def test_little_is_kept(nuclei: np.ndarray) -> None:
    """Row by row, what is open is about a row of tiles."""
    seams, seeds, most = SeamScore(GRID), centres(nuclei), 0
    for tile in GRID.tiles():
        seams.add(by_seed(nuclei, seeds, tile))
        seams.add(by_seed(nuclei, seeds, tile))
        most = max(most, len(seams._open))
    assert most <= GRID.columns + 2
    assert seams.result() == score(nuclei, by_seed)
