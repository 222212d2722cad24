"""A mask of tissue that somebody drew or edited.

Promises: what is inside is tissue, as exactly as it was drawn: every cell is inside or outside by its seed alone, and
outlines that partition a slide partition its cells. The same polygons, in whatever order, have the same digest.
Where a ring crosses itself, what it encloses an odd number of times is inside; polygons that overlap count once.
Refuses, with `InvalidTissue` and what to do: anything but closed rings of finite numbers on the slide.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import orjson

from microtome.errors import InvalidTissue
from microtome.segmentation.cells import TileCells
from microtome.tissue.edges import Edges, Floats, clipped, points_along, with_neighbours, x_at
from microtome.tissue.mask import Bits, TissueMask

MAX_VERTICES = 40_000
MAX_POLYGONS = 5_000
MAX_BYTES = 1024 * 1024
# All edges together, as far as they are on the slide, in widths or heights of it: what drawing them costs.
MAX_LENGTH = 2_000
# Collections of features in one another.
MAX_DEPTH = 16
# Coordinates further off than this were not meant for any slide.
_FURTHEST = 1e7
# Lines along which an area is measured; fewer, where they would cross more edges than this in all.
_LINES = 64, 4_096
_CROSSINGS = 8_000_000
# Points and edges that are compared at once.
_AT_ONCE = 4_000_000

DRAWN = "The tissue was drawn by the user, not found on the slide; cells count by their seed."


@dataclass(frozen=True)
class TissueOutline:
    """Polygons in level-0 pixels, each as rings float64 `[n, 2]`, closed: the first point is repeated as last."""

    polygons: tuple[tuple[Floats, ...], ...]

    @property
    def vertices(self) -> int:
        """How many points the rings have."""
        return sum(len(ring) for rings in self.polygons for ring in rings)

    @cached_property
    def document(self) -> bytes:
        """A GeoJSON MultiPolygon, the same bytes for the same polygons."""
        coordinates = [[ring.tolist() for ring in rings] for rings in self.polygons]
        return orjson.dumps({"type": "MultiPolygon", "coordinates": coordinates})

    @cached_property
    def sha256(self) -> str:
        """The digest of the document, hexadecimal."""
        return hashlib.sha256(self.document).hexdigest()

    def holds(self, x: Floats, y: Floats) -> Bits:
        """Which points, float64 `[n]` each, lie inside: bool `[n]`."""
        inside = np.zeros(len(x), np.bool_)
        if not len(x):
            return inside
        box = x.min(), y.min(), x.max(), y.max()
        for edges in self._edges:
            left, top, _, bottom = edges.box
            if left <= box[2] and top <= box[3] and bottom >= box[1] and edges.box[2] >= box[0]:
                inside |= edges.hold(x, y)
        return inside

    def choose(self, cells: TileCells, scale: float) -> TileCells:
        """Return those cells whose seed's centre lies inside; `scale`: level-0 pixels per model pixel."""
        x, y = ((seeds.astype(np.float64) + 0.5) * scale for seeds in (cells.seed_x, cells.seed_y))
        inside = self.holds(x, y)
        return cells if inside.all() else cells.chosen(inside)

    def drawn(self, mask: TissueMask) -> TissueMask:
        """Return a mask of the same size with tissue where a pixel's centre lies inside."""
        height, width = mask.bits.shape
        across, down = mask.downsample
        # The last row or column may have its centre beyond the slide's edge, and belongs to the edge all the same.
        lines = np.minimum((np.arange(height) + 0.5) * down, mask.level0_height - 0.5)
        bits = np.zeros((height, width), np.bool_)
        for start, stop, spans in self._flat.spans(lines):
            turns = np.zeros((stop - start, width + 1), np.int32)
            first, last = (
                np.clip(np.ceil(edge / across - 0.5), 0, width).astype(np.int64) for edge in (spans.begin, spans.end)
            )
            np.add.at(turns, (spans.row - start, first), 1)
            np.subtract.at(turns, (spans.row - start, last), 1)
            bits[start:stop] = np.cumsum(turns, axis=1)[:, :width] > 0
        return replace(mask, bits=bits, notes=(DRAWN, *(() if bits.any() else ("It is smaller than a mask's pixel.",))))

    def touched(self, mask: TissueMask) -> TissueMask:
        """Return the mask with tissue in every pixel that the outline covers or crosses: which tiles may own cells."""
        bits = self.drawn(mask).bits
        height, width = bits.shape
        crossed = np.zeros_like(bits)
        # With a pixel of the mask around, for what runs just beside the slide.
        around = 2 * max(mask.downsample)
        begins, ends = clipped(
            self._flat.begins,
            self._flat.ends,
            (-around, -around),
            (mask.level0_width + around, mask.level0_height + around),
        )
        for points in points_along(begins / mask.downsample, ends / mask.downsample):
            x, y = np.floor(points).astype(np.int64).T
            crossed[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)] = True
        return replace(mask, bits=bits | with_neighbours(crossed))

    def area_px(self, box: tuple[float, float, float, float]) -> float:
        """Return what is inside of a box (left, top, right, bottom), in square level-0 pixels."""
        left, upper, right, lower = box
        begins, ends = self._flat.begins[:, 1], self._flat.ends[:, 1]
        top, bottom = max(float(upper), float(begins.min())), min(float(lower), float(ends.max()))
        if top >= bottom:
            return 0.0
        crossings = np.maximum(np.minimum(ends, bottom) - np.maximum(begins, top), 0).sum() / (bottom - top)
        lines = int(np.clip(_CROSSINGS / max(1.0, float(crossings)), *_LINES))
        step = (bottom - top) / lines
        area = 0.0
        for _, _, spans in self._flat.spans(top + (np.arange(lines, dtype=np.float64) + 0.5) * step):
            # One axis for all lines; spans that overlap another polygon's count once.
            away = spans.row * (2.0 * (right - left))
            begin, end = np.clip(spans.begin, left, right) + away, np.clip(spans.end, left, right) + away
            order = np.argsort(begin, kind="stable")
            begin, end = begin[order], end[order]
            known = np.concatenate([[-np.inf], np.maximum.accumulate(end)[:-1]])
            area += float(np.maximum(end - np.maximum(begin, known), 0).sum())
        return area * step

    def length(self, width: int, height: int) -> float:
        """How far its edges go on a slide of `width` x `height`: each in widths or heights, whichever is more.

        Beside the slide their heights count as well, because every line of the slide has to cross them.
        """
        begins, ends = self._flat.begins, self._flat.ends
        on_lines = clipped(begins, ends, (-np.inf, 0.0), (np.inf, float(height)))
        on_slide = clipped(begins, ends, (0.0, 0.0), (float(width), float(height)))
        down = float((np.abs(on_lines[1][:, 1] - on_lines[0][:, 1]) / height).sum())
        longer = np.abs(on_slide[1] - on_slide[0]) / (width, height)
        return down + float(np.maximum(longer[:, 0] - longer[:, 1], 0).sum())

    @cached_property
    def _edges(self) -> tuple[_Edges, ...]:
        return tuple(_Edges.of(rings) for rings in self.polygons)

    @cached_property
    def _flat(self) -> Edges:
        polygon = np.repeat(np.arange(len(self._edges)), [len(edges.begins) for edges in self._edges])
        begins, ends = (
            np.concatenate([edges.begins for edges in self._edges]),
            np.concatenate([edges.ends for edges in self._edges]),
        )
        return Edges(begins, ends, polygon)


@dataclass(frozen=True, slots=True)
class _Edges:
    """The edges of one polygon, float64 `[n, 2]`, each from its upper end to its lower.

    Two polygons that share an edge, in whatever direction, say the same of every point.
    """

    begins: Floats
    ends: Floats
    box: tuple[float, float, float, float]

    @classmethod
    def of(cls, rings: Sequence[Floats]) -> _Edges:
        begins, ends = (np.concatenate([ring[part] for ring in rings]) for part in (slice(None, -1), slice(1, None)))
        rising = begins[:, 1] > ends[:, 1]
        begins[rising], ends[rising] = ends[rising], begins[rising].copy()
        points = np.concatenate(list(rings))
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return cls(begins, ends, (float(left), float(top), float(right), float(bottom)))

    def hold(self, x: Floats, y: Floats) -> Bits:
        inside = np.zeros(len(x), np.bool_)
        near = np.nonzero((self.begins[:, 1] <= y.max()) & (self.ends[:, 1] > y.min()))[0]
        many = max(1, _AT_ONCE // max(1, len(x)))
        for start in range(0, len(near), many):
            some = near[start : start + many]
            point, edge = np.nonzero((self.begins[some, 1] <= y[:, None]) & (self.ends[some, 1] > y[:, None]))
            left = x_at(y[point], self.begins[some[edge]], self.ends[some[edge]]) <= x[point]
            inside ^= np.bincount(point[left], minlength=len(x)) % 2 == 1
        return inside


def read_outline(document: object, width: int, height: int) -> TissueOutline:
    """Return what a GeoJSON Polygon, MultiPolygon, Feature or FeatureCollection outlines on a slide of this size.

    Raises `InvalidTissue`.
    """
    polygons = [_polygon(coordinates, where) for coordinates, where in _polygons(document, "tissue")]
    if not polygons:
        raise InvalidTissue("tissue: there is no polygon in it. Draw at least one, or leave tissue out.")
    if len(polygons) > MAX_POLYGONS:
        raise InvalidTissue(f"tissue: {len(polygons)} polygons are more than {MAX_POLYGONS}. Leave out the smallest.")
    outline = TissueOutline(tuple(sorted(polygons, key=_order)))
    vertices = outline.vertices
    if vertices > MAX_VERTICES:
        raise InvalidTissue(f"tissue: {vertices} points are more than {MAX_VERTICES}. Simplify the polygons.")
    if len(outline.document) > MAX_BYTES:
        raise InvalidTissue(
            f"tissue: {len(outline.document)} bytes are more than {MAX_BYTES}. Simplify the polygons, or round their "
            "coordinates to whole pixels."
        )
    length = outline.length(width, height)
    if length > MAX_LENGTH:
        raise InvalidTissue(
            f"tissue: its edges go {length:.0f} times across the slide, more than {MAX_LENGTH} times. Simplify the "
            "polygons."
        )
    if outline.area_px((0, 0, width, height)) <= 0:
        raise InvalidTissue(
            f"tissue: nothing of it lies on the slide, which has {width} x {height} pixels. Coordinates are level-0 "
            "pixels from the upper left corner."
        )
    return outline


def load_outline(document: bytes) -> TissueOutline:
    """Read what `TissueOutline.document` gave."""
    coordinates = orjson.loads(document)["coordinates"]
    return TissueOutline(tuple(tuple(np.array(ring, np.float64) for ring in rings) for rings in coordinates))


def _polygons(document: object, where: str, depth: int = 0) -> Iterator[tuple[Any, str]]:
    """Yield the coordinates of every polygon in a document, and how to name it."""
    if depth > MAX_DEPTH:
        raise InvalidTissue(f"tissue: features in features, more than {MAX_DEPTH} deep. Give one FeatureCollection.")
    if not isinstance(document, Mapping):
        raise InvalidTissue(f"{where}: it must be a GeoJSON object, such as a Polygon or a FeatureCollection.")
    match document.get("type"):
        case "FeatureCollection":
            features = document.get("features")
            if not isinstance(features, Sequence) or isinstance(features, str):
                raise InvalidTissue(f"{where}.features: a FeatureCollection has a list of features.")
            for at, feature in enumerate(features):
                yield from _polygons(feature, f"{where}.features[{at}]", depth + 1)
        case "Feature":
            yield from _polygons(document.get("geometry"), f"{where}.geometry", depth + 1)
        case "Polygon":
            yield document.get("coordinates"), f"{where}.coordinates"
        case "MultiPolygon":
            for at, coordinates in enumerate(_list(document.get("coordinates"), f"{where}.coordinates", "polygons")):
                yield coordinates, f"{where}.coordinates[{at}]"
        case other:
            raise InvalidTissue(
                f"{where}.type: {str(other)[:40]!r} is no area. Give a Polygon, a MultiPolygon, or features of these."
            )


def _list(value: object, where: str, what: str) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InvalidTissue(f"{where}: it must be a list of {what}.")
    return value


def _polygon(coordinates: object, where: str) -> tuple[Floats, ...]:
    rings = [_ring(ring, f"{where}[{at}]") for at, ring in enumerate(_list(coordinates, where, "rings"))]
    if not rings:
        raise InvalidTissue(f"{where}: a polygon has at least one ring.")
    return tuple(rings[:1] + sorted(rings[1:], key=lambda ring: ring.tolist()))


def _ring(coordinates: object, where: str) -> Floats:
    points = _list(coordinates, where, "points")
    if len(points) > MAX_VERTICES:
        raise InvalidTissue(f"{where}: {len(points)} points are more than {MAX_VERTICES}. Simplify the polygon.")
    flat: list[float] = []
    for at, point in enumerate(points):
        pair = _list(point, f"{where}[{at}]", "two numbers")[:2]
        if len(pair) < 2 or any(isinstance(n, bool) or not isinstance(n, int | float) for n in pair):
            raise InvalidTissue(f"{where}[{at}]: a point is [x, y], two numbers.")
        # So asked, it is also false for what is no number, and true integers of any size can be compared.
        if not all(abs(number) <= _FURTHEST for number in pair):
            raise InvalidTissue(f"{where}[{at}]: this point is on no slide. Give finite level-0 pixels.")
        flat += map(float, pair)
    ring = np.array(flat, np.float64).reshape(-1, 2)
    if len(ring) < 4 or not np.array_equal(ring[0], ring[-1]):
        raise InvalidTissue(
            f"{where}: the ring is not closed. Give at least three points and repeat the first one at the end."
        )
    return ring


def _order(rings: tuple[Floats, ...]) -> tuple[list[float], int]:
    left, top = rings[0].min(axis=0)
    return [float(top), float(left), *rings[0].ravel().tolist()], len(rings)
