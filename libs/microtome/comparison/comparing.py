"""Two runs side by side: what both found, what only one of them did, and where they differ most.

Promises: the first run is the measure: a cell that only it has is missing, one that only the second has is extra.
Cells are one when their outlines overlap by more than the threshold; scores are the field's (`microtome.scoring`).
Where the runs looked at different parts of the slide, or at tissue that was drawn, a cell is missing or extra only
where both looked: by its seed, or by the middle of its outline where its file tells no seeds.
Refuses: runs of different slides or pixel sizes (`InvalidRequest`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.comparison.runs import Run, require_one_slide
from microtome.scoring.matching import Matching, match
from microtome.scoring.outlines import match_outlines
from microtome.scoring.scores import THRESHOLDS

# About as many cells lie in the window that is shown enlarged.
_WINDOW_CELLS = 60
_FEWEST = 10


@dataclass(frozen=True, slots=True)
class Window:
    """A square of the slide and the cells whose middle lies in it."""

    x: float
    y: float
    side: float
    matched: int
    missing: int
    extra: int

    @property
    def f1(self) -> float:
        """2·matched / all cells of both."""
        return _f1(self.matched, self.missing, self.extra)


@dataclass(frozen=True, eq=False)
class Comparison:
    """`pairs` int64 [k, 2]: indices of cells in both runs, `iou` float64 [k]; `missing`, `extra` int64: of one only.

    `aside`: cells of the one and of the other that lie where the other run did not look. `worst`: the square in which
    the runs agree least; None without cells.
    """

    a: Run
    b: Run
    threshold: float
    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    missing: NDArray[np.int64]
    extra: NDArray[np.int64]
    aside: tuple[int, int]
    worst: Window | None
    notes: tuple[str, ...]

    @property
    def f1(self) -> float:
        """F1 at the threshold; 1 where there is nothing at all."""
        return _f1(len(self.pairs), len(self.missing), len(self.extra))

    @property
    def f1_50_90(self) -> float:
        """Mean of F1 over the thresholds from 0.5 to 0.9 (from the comparison's own threshold on)."""
        all_cells = 2 * len(self.pairs) + len(self.missing) + len(self.extra)
        if all_cells == 0:
            return 1.0
        return float(np.mean([2 * (self.iou > threshold).sum() / all_cells for threshold in THRESHOLDS]))

    @property
    def sq(self) -> float:
        """Mean overlap of the cells that both found; 0 where there are none but cells of one run."""
        if len(self.iou):
            return float(self.iou.mean())
        return 1.0 if self.f1 == 1.0 else 0.0

    @property
    def pq(self) -> float:
        """Panoptic quality: SQ · F1."""
        return self.sq * self.f1


def _f1(matched: int, missing: int, extra: int) -> float:
    cells = 2 * matched + missing + extra
    return 2 * matched / cells if cells else 1.0


def compare(a: Run, b: Run, iou: float = 0.5) -> Comparison:
    """Compare `b` with `a`. Raises `InvalidRequest` for runs of different slides, or an `iou` below 0.5."""
    notes = require_one_slide(a, b)
    if a.labels is not None and b.labels is not None and a.labels.shape == b.labels.shape:
        # Pixel by pixel, as label images are scored everywhere.
        of_labels = match(a.labels, b.labels, iou)
        found = Matching(of_labels.pairs - 1, of_labels.iou, of_labels.only_a - 1, of_labels.only_b - 1)
    else:
        found = match_outlines(a.outlines, b.outlines, iou)
    missing, aside_a = _looked_at(a, found.only_a, b)
    extra, aside_b = _looked_at(b, found.only_b, a)
    for run in (a, b):
        if run.on_drawn_tissue and run.tissue is None:
            said = f"{run.path} has cells on drawn tissue only, and there is no tissue_drawn.geojson beside it"
            notes = (*notes, f"{said}: cells elsewhere count as the other's alone.")
    if a.region != b.region or _digest(a) != _digest(b):
        notes = (*notes, "The runs looked at different parts of the slide; cells count where both looked.")
    places = a.outlines.centre[found.pairs[:, 0]], a.outlines.centre[missing], b.outlines.centre[extra]
    return Comparison(
        a, b, iou, found.pairs, found.iou, missing, extra, (aside_a, aside_b), _worst(*places), notes
    )  # fmt: skip


def _looked_at(run: Run, cells: NDArray[np.int64], other: Run) -> tuple[NDArray[np.int64], int]:
    """Those of the cells that lie where the other run looked too, and how many do not."""
    place, inside = run.places[cells], np.ones(len(cells), np.bool_)
    if other.region is not None:
        x0, y0, x1, y1 = other.region
        inside &= (place >= (x0, y0)).all(axis=1) & (place < (x1, y1)).all(axis=1)
    if other.tissue is not None:
        inside &= other.tissue.holds(place[:, 0], place[:, 1])
    return cells[inside], int((~inside).sum())


def _digest(run: Run) -> str | None:
    return None if run.tissue is None else run.tissue.sha256


def _worst(matched: NDArray[np.float64], missing: NDArray[np.float64], extra: NDArray[np.float64]) -> Window | None:
    """The square with the lowest F1 of those with enough cells; of equal ones that with more cells that differ."""
    everything = np.concatenate([matched, missing, extra])
    if not len(everything):
        return None
    lower, extent = everything.min(axis=0), np.maximum(np.ptp(everything, axis=0), 1.0)
    side = min(float(np.sqrt(extent.prod() * _WINDOW_CELLS / len(everything))), float(extent.max()))
    # Squares overlap by half, so that what lies on the edge of one lies well inside another.
    step = side / 2
    shape = np.maximum(np.ceil(extent / step).astype(np.int64), 1)
    counts = np.stack([_in_squares(points, lower, step, shape) for points in (matched, missing, extra)])
    cells, differ = counts.sum(axis=0), counts[1] + counts[2]
    f1 = 2 * counts[0] / np.maximum(2 * counts[0] + differ, 1)
    few = cells < min(max(_FEWEST, cells[cells > 0].mean() / 4), cells.max())
    order = np.lexsort((-cells.ravel(), -differ.ravel(), f1.ravel(), few.ravel()))
    row, column = np.unravel_index(order[0], f1.shape)
    numbers = counts[:, row, column].tolist()
    return Window(float(lower[0] + column * step), float(lower[1] + row * step), side, *numbers)


def _in_squares(
    points: NDArray[np.float64], lower: NDArray[np.float64], step: float, shape: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Points in each square of two steps, int64 [rows, columns]."""
    at = np.minimum(((points - lower) / step).astype(np.int64), shape - 1)
    fine = np.bincount(at[:, 1] * shape[0] + at[:, 0], minlength=int(shape.prod())).reshape(shape[1], shape[0])
    wide = np.pad(fine, ((0, 1), (0, 1)))
    return np.asarray(wide[:-1, :-1] + wide[1:, :-1] + wide[:-1, 1:] + wide[1:, 1:], np.int64)
