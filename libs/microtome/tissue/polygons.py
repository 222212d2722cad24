"""A tissue mask as polygons.

Promises: the very edges of the mask's pixels in level-0 pixels (to a hundredth), nothing smoothed and nothing lost:
drawn again, the polygons give the mask. Rings are simple, closed and wound as GeoJSON says; holes stay holes; a polygon
is a piece whose pixels share edges. Refuses: to reach beyond the slide, whose last pixels a mask's may overlap.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import orjson
from numpy.typing import NDArray

from microtome.tissue.mask import TissueMask

Ring = NDArray[np.float64]
# Pixels around a corner: upper left 1, upper right 2, lower left 4, lower right 8. Two that only touch are both.
_FALLING, _RISING = 1 | 8, 2 | 4
_TURNS = np.array([kind.bit_count() % 2 == 1 or kind in (_FALLING, _RISING) for kind in range(16)])
CLASSIFICATION = {"name": "Tissue", "color": [91, 69, 201]}
_NAMESPACE = uuid.UUID("8f0c5b2e-6f6e-4b6d-9d55-0f3e3f6c9f0a")


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of tissue. Rings are float64 `[n, 2]`, x and y in level-0 pixels, the first point repeated as last.

    `pixels`: of the mask.
    """

    outer: Ring
    holes: tuple[Ring, ...]
    pixels: int


def pieces(mask: TissueMask) -> tuple[Piece, ...]:
    """The mask's tissue, piece by piece, row by row."""
    bits = mask.bits.astype(np.uint8)
    count, labels, stats, _ = cv2.connectedComponentsWithStats(bits, connectivity=4)
    rings: list[list[Ring]] = [[] for _ in range(count)]
    scale, end = mask.downsample, (mask.level0_width, mask.level0_height)
    for owner, corners in _rings(mask.bits, np.asarray(labels, np.int32)):
        rings[owner].append(np.round(np.minimum(corners * scale, end), 2))
    return tuple(_piece(rings[label], int(stats[label, cv2.CC_STAT_AREA])) for label in range(1, count))


def _piece(rings: list[Ring], pixels: int) -> Piece:
    """The ring that goes around all others, and those."""
    areas = [_signed_area(ring) for ring in rings]
    outer = int(np.argmax(np.abs(areas)))
    closed = [
        np.concatenate([turned, turned[:1]])
        for at, (ring, area) in enumerate(zip(rings, areas, strict=True))
        for turned in [ring if (area > 0) == (at == outer) else ring[::-1]]
    ]
    return Piece(closed[outer], tuple(closed[:outer] + closed[outer + 1 :]), pixels)


def geojson(mask: TissueMask) -> bytes:
    """A FeatureCollection of annotations as QuPath reads it: one of class Tissue for each piece, largest first."""
    features = [_feature(piece, mask) for piece in sorted(pieces(mask), key=lambda piece: -piece.pixels)]
    return orjson.dumps({"type": "FeatureCollection", "features": features}, option=orjson.OPT_APPEND_NEWLINE)


def _feature(piece: Piece, mask: TissueMask) -> dict[str, object]:
    outer = piece.outer
    rings = [ring.tolist() for ring in (outer, *piece.holes)]
    across, down = mask.downsample
    measurements: dict[str, float] = {"Area px^2": round(piece.pixels * across * down, 1)}
    if mask.mpp is not None:
        measurements["Area mm^2"] = round(piece.pixels * (mask.mpp / 1000) ** 2, 6)
    return {
        "type": "Feature",
        # Of its place, so that the same mask gives the same file.
        "id": str(uuid.uuid5(_NAMESPACE, outer.tobytes().hex())),
        "geometry": {"type": "Polygon", "coordinates": rings},
        "properties": {
            "objectType": "annotation",
            "classification": CLASSIFICATION,
            "isLocked": False,
            "measurements": measurements,
        },
    }


def _signed_area(ring: Ring) -> float:
    """Twice the area of a ring, positive when it is wound as GeoJSON winds outer rings."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum())


def _rings(bits: NDArray[np.bool_], labels: NDArray[np.int32]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield each ring's piece and its corners, int64 `[n, 2]`, x and y in mask pixels.

    Between two corners that follow each other on a line of the grid runs an edge, between the next two runs none. So
    corners are paired along rows and along columns, and a ring is what alternates between both.
    """
    corners = _Corners.of(bits, labels)
    rows = np.lexsort((corners.side, corners.x, corners.y))
    columns = np.lexsort((corners.side ^ corners.rising, corners.y, corners.x))
    along = np.empty(len(rows), np.int64)
    along[rows[0::2]], along[rows[1::2]] = rows[1::2], rows[0::2]
    across = np.empty(len(rows), np.int64)
    across[columns[0::2]], across[columns[1::2]] = columns[1::2], columns[0::2]
    along_of, across_of = along.tolist(), across.tolist()
    places = np.stack([corners.x, corners.y], axis=1)
    met = bytearray(len(along_of))
    for first in range(len(along_of)):
        if met[first]:
            continue
        ring, at = [], first
        while not met[at]:
            beside = along_of[at]
            met[at] = met[beside] = 1
            ring += [at, beside]
            at = across_of[beside]
        owner = int(corners.owner[first])
        for simple in _simple([(int(x), int(y)) for x, y in places[ring]]):
            yield owner, np.array(simple, np.int64)


@dataclass(frozen=True, slots=True)
class _Corners:
    """Where edges turn, int64 `[n]` each. Where two pixels share no more than a corner, it is there twice.

    `side`: 0, or 1 for the corner whose edge leads to the right of such a pair. `rising`: 1 for both of a pair whose
    tissue is at the upper right and the lower left. `owner`: the piece inside of the turn.
    """

    x: NDArray[np.int64]
    y: NDArray[np.int64]
    side: NDArray[np.int64]
    rising: NDArray[np.int64]
    owner: NDArray[np.int64]

    @classmethod
    def of(cls, bits: NDArray[np.bool_], labels: NDArray[np.int32]) -> _Corners:
        framed = np.pad(bits, 1).view(np.uint8)
        # Which of the four pixels around a corner of the grid are tissue, as bits.
        around = framed[:-1, :-1] | framed[:-1, 1:] << 1 | framed[1:, :-1] << 2 | framed[1:, 1:] << 3
        y, x = np.nonzero(_TURNS[around])
        kind = around[y, x]
        named = np.pad(labels, 1)
        names = np.stack([named[y + down, x + right] for down in (0, 1) for right in (0, 1)])
        falling, rising = kind == _FALLING, kind == _RISING
        twice = falling | rising
        # The first of two has the pixel on the left, the second that on the right.
        first = np.where(falling, names[0], np.where(rising, names[2], names.max(axis=0)))
        second = np.where(falling, names[3], names[1])[twice]
        return cls(
            x=np.concatenate([x, x[twice]]),
            y=np.concatenate([y, y[twice]]),
            side=np.concatenate([np.zeros(len(x), np.int64), np.ones(len(second), np.int64)]),
            rising=np.concatenate([rising, rising[twice]]).astype(np.int64),
            owner=np.concatenate([first, second]).astype(np.int64),
        )


def _simple(ring: list[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Cut a ring where it passes a corner again: what lies between is a ring of its own."""
    if len(set(ring)) == len(ring):
        yield ring
        return
    path: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for corner in ring:
        begin = place.get(corner)
        if begin is None:
            place[corner] = len(path)
            path.append(corner)
            continue
        yield path[begin:]
        for gone in path[begin + 1 :]:
            del place[gone]
        del path[begin + 1 :]
    yield path
