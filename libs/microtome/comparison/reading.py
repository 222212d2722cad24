"""Outlines out of files: GeoParquet, GeoJSON, label images.

Promises: any of the three, by whomever it was written: polygons and multipolygons, with holes; what a file holds beside
them (points, lines, empty polygons) is left out. Parquet and line-wise GeoJSON are read in parts; only the outlines
themselves stay in memory.
Refuses: files that cannot be read, and GeoJSON in one line that is larger than half a gigabyte (`InvalidRequest`).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numba as nb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from microtome.comparison.coordinates import count_wkb, read_coordinates, read_wkb
from microtome.errors import InvalidRequest
from microtome.scoring.outlines import OutlineSet
from microtome.segmentation.contours import trace_contours

_BATCH = 50_000
_LARGEST_DOCUMENT = 512 << 20
# A feature in a line, whose geometry is the first object in it.
_POLYGON = re.compile(
    rb'^\{\s*"type":\s*"Feature",[^{}]*"geometry":\s*\{\s*"type":\s*"Polygon",\s*'
    rb'"coordinates":\s*(\[\[\[[-+0-9.eE,\[\]\s]*\]\]\])\s*\}'
)


def read_parquet(path: Path) -> OutlineSet:
    """Outlines of a GeoParquet file. Raises `InvalidRequest`."""
    try:
        file = pq.ParquetFile(path)
        geo = orjson.loads((file.schema_arrow.metadata or {}).get(b"geo") or file.metadata.metadata[b"geo"])
        column = geo["primary_column"]
        if geo["columns"][column]["encoding"] != "WKB":
            raise InvalidRequest(f"{path} keeps its outlines in another way than WKB.")
        batches = file.iter_batches(_BATCH, columns=[column])
        return OutlineSet.joined([_from_wkb(batch.column(0), path) for batch in batches])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path} is not a GeoParquet file of outlines: {error}") from error


def read_seeds(path: Path, scale: float) -> NDArray[np.float64] | None:
    """Where the cells of a file of ours have their seeds, float64 [n, 2], level-0 pixels; None in anybody else's.

    `scale`: level-0 pixels per model pixel.
    """
    names = ["seed_x", "seed_y"]
    if not set(names) <= set(pq.read_schema(path).names):
        return None
    table = pq.read_table(path, columns=names)
    if any(table[name].null_count for name in names):
        return None
    return (np.column_stack([table[name].to_numpy() for name in names]) + 0.5) * scale


def _from_wkb(column: pa.Array, path: Path) -> OutlineSet:
    if column.null_count:
        column = column.drop_null()
    column = column.cast(pa.large_binary())
    offsets = np.frombuffer(column.buffers()[1], np.int64)[column.offset : column.offset + len(column) + 1]
    data = np.frombuffer(column.buffers()[2] or b"", np.uint8)
    outlines, rings, points = count_wkb(data, offsets)
    if outlines < 0:
        raise InvalidRequest(f"{path} has outlines that are no whole, little-endian, flat polygons.")
    xy, ring_offsets = np.empty((points, 2)), np.zeros(rings + 1, np.int64)
    outline_offsets, holes = np.zeros(outlines + 1, np.int64), np.zeros(rings, np.bool_)
    read_wkb(data, offsets, xy, ring_offsets, outline_offsets, holes)
    return OutlineSet.of(xy, ring_offsets, outline_offsets, holes)


def read_geojson(path: Path) -> OutlineSet:
    """Outlines of a GeoJSON file: a collection, an array of features, or one feature. Raises `InvalidRequest`."""
    try:
        try:
            return _line_by_line(path)
        except orjson.JSONDecodeError:
            if path.stat().st_size > _LARGEST_DOCUMENT:
                raise InvalidRequest(
                    f"{path} is {path.stat().st_size >> 20} MiB in lines that are no features; write one feature to a "
                    "line, or give the cells.parquet."
                ) from None
            document = orjson.loads(path.read_bytes())
            features = document if isinstance(document, list) else document.get("features", [document])
            return _from_features(features)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise InvalidRequest(f"{path} is not GeoJSON: {error}") from error


def _line_by_line(path: Path) -> OutlineSet:
    """Outlines of a collection whose features have a line each. Raises `JSONDecodeError` for any other."""
    with path.open("rb") as file:
        lines = (text for number, line in enumerate(file) if (text := _feature_text(number, line)))
        parts = []
        while batch := list(islice(lines, _BATCH)):
            found = [_POLYGON.search(text) for text in batch]
            if all(found):
                parts.append(_from_text(b"\n".join(match[1] for match in found if match)))
            else:
                parts.append(_from_features(map(_feature, batch)))
        return OutlineSet.joined(parts)


def _feature_text(number: int, line: bytes) -> bytes:
    """What is between the commas; nothing for the lines around the features."""
    text = line.strip().strip(b",")
    return b"" if (number == 0 and text.endswith(b"[")) or text in {b"]", b"]}"} else text


def _feature(text: bytes) -> Any:  # noqa: ANN401 - JSON
    feature = orjson.loads(text)
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise orjson.JSONDecodeError("no feature", "", 0)
    return feature


def _from_text(text: bytes) -> OutlineSet:
    """From the coordinates of polygons, each in a line: by far the most of a file of cells, so they are compiled."""
    data = np.frombuffer(text, np.uint8)
    # Whatever the brackets say, there are no more points, rings or outlines than brackets.
    brackets = text.count(b"[")
    points, ring_offsets = np.empty((brackets, 2)), np.zeros(brackets + 1, np.int64)
    outline_offsets, holes = np.zeros(brackets + 1, np.int64), np.zeros(brackets, np.bool_)
    outlines, rings = read_coordinates(data, points, ring_offsets, outline_offsets, holes)
    return OutlineSet.of(points, ring_offsets[: rings + 1], outline_offsets[: outlines + 1], holes[:rings])


def _from_features(features: Iterable[Any]) -> OutlineSet:
    polygons = [found for feature in features if (found := list(_polygons(feature.get("geometry"))))]
    rings = [ring for outline in polygons for polygon in outline for ring in polygon]
    return OutlineSet.of(
        np.array([point[:2] for ring in rings for point in _open(ring)], np.float64).reshape(-1, 2),
        _offsets(len(_open(ring)) for ring in rings),
        _offsets(sum(map(len, outline)) for outline in polygons),
        np.array([number > 0 for o in polygons for polygon in o for number in range(len(polygon))], np.bool_),
    )


def _polygons(geometry: Any) -> Iterable[list[list[list[float]]]]:  # noqa: ANN401 - JSON
    """Polygons, each a list of rings, that have an outer ring with an area."""
    match (geometry or {}).get("type"):
        case "Polygon":
            polygons = [geometry["coordinates"]]
        case "MultiPolygon":
            polygons = geometry["coordinates"]
        case _:
            return []
    return [rings for rings in polygons if rings and len(rings[0]) >= 3]


def _open(ring: list[list[float]]) -> list[list[float]]:
    return ring[:-1] if len(ring) > 1 and ring[0] == ring[-1] else ring


def _offsets(lengths: Iterable[int]) -> NDArray[np.int64]:
    return np.cumsum(np.fromiter(chain([0], lengths), np.int64))


def read_labels(path: Path) -> NDArray[np.int32]:
    """Label image of a TIFF or PNG: int32 [h, w], 0 is background, labels from 1 on without gaps.

    Raises `InvalidRequest` for one that is not a plane of whole numbers.
    """
    try:
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as picture:
                labels = np.asarray(picture)
        else:
            import tifffile

            labels = np.squeeze(tifffile.imread(path))
    # What is wrong with a picture, its readers say in many ways.
    except (OSError, ValueError, SyntaxError, LookupError, struct.error) as error:
        raise InvalidRequest(f"{path} is not a label image: {error}") from error
    if labels.ndim != 2 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidRequest(f"{path} is no label image: {labels.dtype} {labels.shape} instead of a plane of integers.")
    values, inverse = np.unique(labels, return_inverse=True)
    if values[0] < 0:
        raise InvalidRequest(f"{path} has negative labels.")
    first = 0 if values[0] == 0 else 1
    return (inverse.reshape(labels.shape) + first).astype(np.int32)


def outlines_of(labels: NDArray[np.int32], scale: float) -> OutlineSet:
    """Outlines of labels without gaps, int32 [h, w], in their order; `scale`: what a pixel's edge is long."""
    box = _boxes(labels, int(labels.max(initial=0)))
    names = np.arange(1, len(box) + 1, dtype=np.int32)
    _, offsets, points = trace_contours(np.ascontiguousarray(labels), names, box)
    return OutlineSet.simple(points.astype(np.float64) * (0.5 * scale), offsets.astype(np.int64))


READERS: dict[str, Callable[[Path], OutlineSet]] = {
    ".parquet": read_parquet,
    ".geoparquet": read_parquet,
    ".geojson": read_geojson,
    ".json": read_geojson,
}
LABEL_SUFFIXES = frozenset({".tif", ".tiff", ".png"})


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _boxes(labels: NDArray[np.int32], count: int) -> NDArray[np.int32]:
    """Half-open boxes (y0, x0, y1, x1) of labels 1 to `count`, int32 [count, 4]."""
    box = np.zeros((count, 4), np.int32)
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            k = labels[y, x] - 1
            if k < 0:
                continue
            if box[k, 3] == 0:
                box[k, 0], box[k, 1] = y, x
            box[k, 1], box[k, 2], box[k, 3] = min(box[k, 1], x), y + 1, max(box[k, 3], x + 1)
    return box
