"""One number, or five, for how well found objects agree with true ones.

Promises: the field's definitions. A found object is right when its intersection over union with a true one is above
the threshold. F1 = 2·TP / (true + found); F1@0.5–0.9 is its mean over the thresholds 0.5, 0.55 … 0.9; SQ is the mean
overlap of what is right at 0.5; PQ = SQ · F1@0.5; AJI (Kumar et al. 2017) is summed intersection over summed union of
each true object with the found one that overlaps it best, where found objects that are nobody's best count as union.
Several images are scored together by adding their tallies: each object counts the same, whichever image it is in.
Where there is nothing and nothing was found, all scores are 1.
Refuses: to average scores of images, which would let an image with two nuclei weigh as much as one with two hundred.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from microtome.scoring.matching import overlap

THRESHOLDS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9)


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores from 0 (nothing right) to 1, and the counts behind them."""

    f1_50: float
    f1_50_90: float
    sq: float
    pq: float
    aji: float
    truth: int
    found: int
    matched: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What can be added: `matched` per threshold, the overlap of those matched at 0.5, and AJI's two areas."""

    truth: int
    found: int
    matched: tuple[int, ...]
    overlap_sum: float
    intersection: int
    union: int

    @classmethod
    def empty(cls) -> Tally:
        """Of no image."""
        return cls(0, 0, (0,) * len(THRESHOLDS), 0.0, 0, 0)

    @classmethod
    def of(cls, truth: NDArray[np.int32], found: NDArray[np.int32]) -> Tally:
        """Of two label images [h, w]. Raises `InvalidRequest` for different shapes or negative labels."""
        pairs = overlap(truth, found)
        # The best partner of each true object: the last one written wins, so write in the order of overlap.
        order = np.argsort(pairs.iou, kind="stable")
        best = np.full(pairs.a.size, -1, np.int64)
        best[pairs.row[order]] = order
        chosen = best[best >= 0]
        shared = int(pairs.shared[chosen].sum())
        nobodys = np.ones(pairs.b.size, bool)
        nobodys[pairs.column[chosen]] = False
        partner_area = int(pairs.area_b[pairs.column[chosen]].sum())
        union = int(pairs.area_a.sum()) + partner_area - shared + int(pairs.area_b[nobodys].sum())
        return cls(
            truth=pairs.a.size,
            found=pairs.b.size,
            matched=tuple(int((pairs.iou > threshold).sum()) for threshold in THRESHOLDS),
            overlap_sum=float(pairs.iou[pairs.iou > THRESHOLDS[0]].sum()),
            intersection=shared,
            union=union,
        )

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.truth + other.truth,
            self.found + other.found,
            tuple(mine + theirs for mine, theirs in zip(self.matched, other.matched, strict=True)),
            self.overlap_sum + other.overlap_sum,
            self.intersection + other.intersection,
            self.union + other.union,
        )

    @property
    def scores(self) -> Scores:
        """The scores of everything that was added."""
        objects = self.truth + self.found
        if objects == 0:
            return Scores(1.0, 1.0, 1.0, 1.0, 1.0, 0, 0, 0)
        f1 = [2 * matched / objects for matched in self.matched]
        sq = self.overlap_sum / self.matched[0] if self.matched[0] else 0.0
        return Scores(
            f1_50=f1[0],
            f1_50_90=sum(f1) / len(f1),
            sq=sq,
            pq=sq * f1[0],
            aji=self.intersection / self.union,
            truth=self.truth,
            found=self.found,
            matched=self.matched[0],
        )


def scores(truth: NDArray[np.int32], found: NDArray[np.int32]) -> Scores:
    """Scores of one image: integer label images [h, w], 0 is background. Raises `InvalidRequest` as `overlap` does."""
    return Tally.of(truth, found).scores
