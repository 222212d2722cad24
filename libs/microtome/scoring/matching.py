"""Which object of one label image is which of another.

Promises: two objects belong together when their intersection over union is above the threshold; from 0.5 on each
object then has at most one partner, so the matching is the only one and the best one, and none is searched for.
Labels may be any positive numbers in any order; 0 is background. Time follows the pixels.
Refuses: thresholds below 0.5, where partners would be a matter of choice, and images of different shapes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.errors import InvalidRequest


@dataclass(frozen=True, eq=False)
class Overlap:
    """Everything that scores need to know of two label images.

    `a`, `b` int64: the labels of each in ascending order, `area_a`, `area_b` int64: their pixels.
    Per pair of objects that share a pixel: `row` and `column` int64, indices into `a` and `b`; `shared` int64, the
    pixels they share; `iou` float64.
    """

    a: NDArray[np.int64]
    b: NDArray[np.int64]
    area_a: NDArray[np.int64]
    area_b: NDArray[np.int64]
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    shared: NDArray[np.int64]
    iou: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Matching:
    """`pairs` int64 [n, 2] of labels (of a, of b) in the order of a, `iou` float64 [n]; the labels without partner."""

    pairs: NDArray[np.int64]
    iou: NDArray[np.float64]
    only_a: NDArray[np.int64]
    only_b: NDArray[np.int64]


def overlap(a: NDArray[np.int32], b: NDArray[np.int32]) -> Overlap:
    """Overlap of two integer label images [h, w]. Raises `InvalidRequest` for different shapes or negative labels."""
    if a.shape != b.shape or a.ndim != 2:
        raise InvalidRequest(f"Label images must have one shape [h, w], not {a.shape} and {b.shape}.")
    if not (np.issubdtype(a.dtype, np.integer) and np.issubdtype(b.dtype, np.integer)):
        raise InvalidRequest(f"Labels must be integers, not {a.dtype} and {b.dtype}.")
    labels_a, index_a, area_a = _objects(a)
    labels_b, index_b, area_b = _objects(b)
    # Index 0 is background on both sides.
    both = (index_a > 0) & (index_b > 0)
    codes, shared = np.unique((index_a[both] - 1) * max(1, labels_b.size) + index_b[both] - 1, return_counts=True)
    row, column = np.divmod(codes, max(1, labels_b.size))
    shared = shared.astype(np.int64)
    iou = shared / (area_a[row] + area_b[column] - shared)
    return Overlap(labels_a, labels_b, area_a, area_b, row, column, shared, iou)


def _objects(labels: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Labels in ascending order, each pixel's index among them plus one (0 for background), and their areas."""
    values, inverse, counts = np.unique(labels.astype(np.int64, copy=False), return_inverse=True, return_counts=True)
    if values.size and values[0] < 0:
        raise InvalidRequest(f"Labels must not be negative; there is a {values[0]}.")
    index = inverse.reshape(labels.shape).astype(np.int64)
    if values.size and values[0] == 0:
        return values[1:], index, counts[1:].astype(np.int64)
    return values, index + 1, counts.astype(np.int64)


def match(a: NDArray[np.int32], b: NDArray[np.int32], iou: float = 0.5) -> Matching:
    """Partners with an intersection over union above `iou`. Raises `InvalidRequest` as `overlap` does, or below 0.5."""
    if not 0.5 <= iou <= 1.0:
        raise InvalidRequest(f"Objects can be matched above an overlap of 0.5 to 1, not {iou}.")
    found = overlap(a, b)
    kept = found.iou > iou
    row, column = found.row[kept], found.column[kept]
    return Matching(
        pairs=np.stack([found.a[row], found.b[column]], axis=1),
        iou=found.iou[kept],
        only_a=np.delete(found.a, row),
        only_b=np.delete(found.b, column),
    )
