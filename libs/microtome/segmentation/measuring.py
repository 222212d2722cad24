"""What is measured of every cell.

Promises: the shape is that of the outline as it is delivered, with QuPath's definitions, so that QuPath measures the
same numbers on the same polygon; the dyes are measured on the mask's pixels at the model's pixel size. Numbers depend
on the cell's own pixels alone: shapes are taken relative to the outline's first point, in integers, and pixels in scan
order, so that neither the tile nor the thread that measures can be felt, not even in the last bit. Lengths stay in
the model's pixels until somebody knows how large those are: results of a tile are shared by jobs that may not agree.
Refuses: to measure what the outline leaves out (smaller pieces of a label); holes count for the shape, as in the
outline, and not for the dyes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba as nb
import numpy as np
from numpy.typing import NDArray

from microtome.segmentation.shares import in_shares
from microtome.segmentation.stains import HE, Stain


@dataclass(frozen=True, slots=True)
class Measurement:
    """One number of a cell. `name`: as QuPath shows it (GeoJSON); `unit`: "µm^2", "µm", "OD" or "" for ratios;
    `column`: as tables call it (Parquet, CSV). Units are those of files, see `in_micrometres`.
    """

    name: str
    unit: str
    column: str


# The order of `ObjectMeasurements` of QuPath, which its InstanSeg extension uses for detections.
_SHAPE = (
    Measurement("Area µm^2", "µm^2", "area_um2"),
    Measurement("Length µm", "µm", "perimeter_um"),
    Measurement("Circularity", "", "circularity"),
    Measurement("Solidity", "", "solidity"),
    Measurement("Max diameter µm", "µm", "max_diameter_um"),
    Measurement("Min diameter µm", "µm", "min_diameter_um"),
)
_OF_A_DYE = (("Mean", "mean"), ("Median", "median"), ("Min", "min"), ("Max", "max"), ("Std.Dev.", "std"))


def measurements_of(stain: Stain) -> tuple[Measurement, ...]:
    """What the columns of `measure_cells` are for a stain, in order. Their number is the same for all stains."""
    of_dyes = (
        Measurement(f"{dye.name}: {name}", "OD", f"{dye.name.lower()}_od_{column}")
        for dye in stain.dyes
        for name, column in _OF_A_DYE
    )
    return (*_SHAPE, *of_dyes)


MEASUREMENTS = measurements_of(HE)
_BINS = 64


def measure_cells(
    labels: NDArray[np.int32],
    label: NDArray[np.int32],
    box: NDArray[np.int32],
    area: NDArray[np.int32],
    offsets: NDArray[np.int32],
    points: NDArray[np.int32],
    pixels: NDArray[np.uint8],
    stain: Stain,
    threads: int = 1,
) -> NDArray[np.float32]:
    """Measure the objects `label` int32 [n] of `labels` int32 [h, w], each within its half-open `box` int32 [n, 4].

    `area`, `offsets`, `points`: what `trace_contours` gave for them; `pixels` uint8 [h, w, 3].
    Returns float32 [n, len(MEASUREMENTS)], columns as in `measurements_of(stain)`, but lengths in pixels and areas in
    pixels²; an object without a pixel is NaN.
    """
    out = np.full((label.size, len(MEASUREMENTS)), np.nan, np.float32)
    seen, table = np.ascontiguousarray(pixels), stain.table()

    def measure(start: int, stop: int) -> None:
        these = slice(start, stop)
        ends = offsets[start : stop + 1]
        _measure(labels, label[these], box[these], area[these], ends, points, seen, table, out[these])

    in_shares(measure, label.size, threads)
    return out


def in_micrometres(measured: NDArray[np.float32], mpp: float | None) -> NDArray[np.float32]:
    """Return the numbers of `measure_cells`, float32 [n, k], in the units that `Measurement` says.

    `mpp`: µm per model pixel, as it really is on this slide; None: not known, then lengths and areas are NaN.
    """
    edge = math.nan if mpp is None else mpp
    factors = {"µm": edge, "µm^2": edge * edge}
    scale = np.array([factors.get(each.unit, 1.0) for each in MEASUREMENTS])
    return np.asarray(measured * scale, np.float32)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _measure(
    labels: NDArray[np.int32],
    label: NDArray[np.int32],
    box: NDArray[np.int32],
    area: NDArray[np.int32],
    offsets: NDArray[np.int32],
    points: NDArray[np.int32],
    pixels: NDArray[np.uint8],
    table: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    largest = 0
    for k in range(label.shape[0]):
        largest = max(largest, (box[k, 2] - box[k, 0]) * (box[k, 3] - box[k, 1]))
    values = np.empty((2, largest), np.float64)
    for k in range(label.shape[0]):
        if area[k] == 0:
            continue
        ring = points[offsets[k] : offsets[k + 1]]
        _shape(ring, out[k])
        _gather(labels, label[k], box[k], area[k], ring, pixels, table, values)
        for dye in range(2):
            _dye(values[dye, : area[k]], out[k, 6 + 5 * dye : 11 + 5 * dye])


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _shape(ring: NDArray[np.int32], out: NDArray[np.float32]) -> None:
    """Area, perimeter, circularity, solidity, diameter of the smallest circle around it, smallest width."""
    count = ring.shape[0]
    twice_area, perimeter = 0, 0.0
    before_x, before_y = np.int64(ring[count - 1, 0]) - ring[0, 0], np.int64(ring[count - 1, 1]) - ring[0, 1]
    for i in range(count):
        x, y = np.int64(ring[i, 0]) - ring[0, 0], np.int64(ring[i, 1]) - ring[0, 1]
        twice_area += before_x * y - x * before_y
        perimeter += math.sqrt(np.float64((x - before_x) ** 2 + (y - before_y) ** 2))
        before_x, before_y = x, y
    area = 0.5 * abs(twice_area)
    hull = _hull(ring)
    # Outlines are in half pixels.
    out[0] = 0.25 * area
    out[1] = 0.5 * perimeter
    out[2] = 4.0 * math.pi * area / (perimeter * perimeter)
    out[3] = abs(twice_area) / _twice_area(hull)
    out[4] = math.sqrt(_circle(hull))
    out[5] = 0.5 * _width(hull)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _hull(ring: NDArray[np.int32]) -> NDArray[np.int64]:
    """Corners of the convex hull, int64 [h, 2], (x, y) relative to the ring's first point."""
    top, bottom = ring[0, 1], ring[0, 1]
    for i in range(ring.shape[0]):
        top, bottom = min(top, ring[i, 1]), max(bottom, ring[i, 1])
    rows = bottom - top + 1
    # Only the first and the last point of a row can be corners, and rows are in order already.
    extent = np.empty((rows, 2), np.int64)
    extent[:, 0], extent[:, 1] = 1, 0
    for i in range(ring.shape[0]):
        x, row = np.int64(ring[i, 0]) - ring[0, 0], ring[i, 1] - top
        if extent[row, 0] > extent[row, 1]:
            extent[row, 0], extent[row, 1] = x, x
        else:
            extent[row, 0], extent[row, 1] = min(extent[row, 0], x), max(extent[row, 1], x)
    first = np.int64(top) - ring[0, 1]
    hull = np.empty((2 * rows + 2, 2), np.int64)
    used = 0
    for side in range(2):
        # Down the left side, then up the right.
        start = used
        for step in range(rows):
            row = step if side == 0 else rows - 1 - step
            if extent[row, 0] > extent[row, 1]:
                continue
            x, y = extent[row, side], first + row
            while used - start >= 2 and _turn(hull[used - 2], hull[used - 1], x, y) >= 0:
                used -= 1
            hull[used, 0], hull[used, 1] = x, y
            used += 1
        if side == 0 and extent[rows - 1, 0] == extent[rows - 1, 1]:
            used -= 1
    if extent[0, 0] == extent[0, 1]:
        used -= 1
    return hull[:used]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _turn(a: NDArray[np.int64], b: NDArray[np.int64], x: int, y: int) -> int:
    """Twice the signed area of the triangle a, b, (x, y)."""
    return int((b[0] - a[0]) * (y - a[1]) - (x - a[0]) * (b[1] - a[1]))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _twice_area(corners: NDArray[np.int64]) -> float:
    total = 0
    for i in range(corners.shape[0]):
        total += corners[i - 1, 0] * corners[i, 1] - corners[i, 0] * corners[i - 1, 1]
    return float(abs(total))


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _width(hull: NDArray[np.int64]) -> float:
    """Smallest distance between two parallel lines that hold the hull between them: one lies on an edge."""
    best = np.inf
    for i in range(hull.shape[0]):
        edge_x, edge_y = hull[i, 0] - hull[i - 1, 0], hull[i, 1] - hull[i - 1, 1]
        farthest = 0
        for j in range(hull.shape[0]):
            farthest = max(farthest, abs(edge_x * (hull[j, 1] - hull[i, 1]) - edge_y * (hull[j, 0] - hull[i, 0])))
        best = min(best, farthest / math.sqrt(np.float64(edge_x * edge_x + edge_y * edge_y)))
    return best


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _circle(hull: NDArray[np.int64]) -> float:
    """Square of the radius of the smallest circle around the hull: two or three corners lie on it."""
    # Room for rounding: a corner on the circle is not outside.
    grown = 1.0 + 1e-12
    x, y, squared = float(hull[0, 0]), float(hull[0, 1]), 0.0
    for i in range(1, hull.shape[0]):
        if _distance(x, y, hull[i]) <= squared * grown:
            continue
        x, y, squared = float(hull[i, 0]), float(hull[i, 1]), 0.0
        for j in range(i):
            if _distance(x, y, hull[j]) <= squared * grown:
                continue
            x, y = 0.5 * (hull[i, 0] + hull[j, 0]), 0.5 * (hull[i, 1] + hull[j, 1])
            squared = _distance(x, y, hull[i])
            for k in range(j):
                if _distance(x, y, hull[k]) <= squared * grown:
                    continue
                x, y = _around(hull[i], hull[j], hull[k])
                squared = _distance(x, y, hull[i])
    return squared


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _distance(x: float, y: float, point: NDArray[np.int64]) -> float:
    return float((point[0] - x) ** 2 + (point[1] - y) ** 2)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _around(a: NDArray[np.int64], b: NDArray[np.int64], c: NDArray[np.int64]) -> tuple[float, float]:
    """Middle of the circle through three corners of a hull, which never lie on one line."""
    b_x, b_y, c_x, c_y = b[0] - a[0], b[1] - a[1], c[0] - a[0], c[1] - a[1]
    twice = 2.0 * (b_x * c_y - b_y * c_x)
    b_b, c_c = b_x * b_x + b_y * b_y, c_x * c_x + c_y * c_y
    return a[0] + (c_y * b_b - b_y * c_c) / twice, a[1] + (b_x * c_c - c_x * b_b) / twice


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _gather(
    labels: NDArray[np.int32],
    label: int,
    box: NDArray[np.int32],
    area: int,
    ring: NDArray[np.int32],
    pixels: NDArray[np.uint8],
    table: NDArray[np.float64],
    values: NDArray[np.float64],
) -> None:
    """Densities of both dyes in the `area` pixels of the piece that `ring` goes around, in scan order, into `values`
    float64 [2, at least the box's pixels].
    """
    count = 0
    for y in range(box[0], box[2]):
        for x in range(box[1], box[3]):
            if labels[y, x] == label:
                _densities(pixels, y, x, table, values, count)
                count += 1
    if count == area:
        return
    piece, count = _piece(labels, label, box, ring), 0
    for y in range(box[0], box[2]):
        for x in range(box[1], box[3]):
            if piece[y - box[0], x - box[1]]:
                _densities(pixels, y, x, table, values, count)
                count += 1


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _densities(
    pixels: NDArray[np.uint8], y: int, x: int, table: NDArray[np.float64], values: NDArray[np.float64], at: int
) -> None:
    red, green, blue = pixels[y, x, 0], pixels[y, x, 1], pixels[y, x, 2]
    for dye in range(2):
        values[dye, at] = table[dye, 0, red] + table[dye, 1, green] + table[dye, 2, blue]


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _piece(labels: NDArray[np.int32], label: int, box: NDArray[np.int32], ring: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Mask, bool [h, w] of the box, of the 8-connected piece with the pixel below the ring's first point."""
    height, width = box[2] - box[0], box[3] - box[1]
    piece = np.zeros((height, width), np.bool_)
    queue = np.empty(height * width, np.int32)
    y, x = ring[0, 1] // 2 - box[0], (ring[0, 0] - 1) // 2 - box[1]
    piece[y, x] = True
    queue[0] = y * width + x
    head, tail = 0, 1
    while head < tail:
        y = queue[head] // width
        x = queue[head] - y * width
        head += 1
        for v in range(max(0, y - 1), min(height, y + 2)):
            for u in range(max(0, x - 1), min(width, x + 2)):
                if not piece[v, u] and labels[box[0] + v, box[1] + u] == label:
                    piece[v, u] = True
                    queue[tail] = v * width + u
                    tail += 1
    return piece


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _dye(values: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """Mean, median, smallest, largest, and standard deviation (n - 1) of `values`, which are changed."""
    count = values.shape[0]
    total, low, high = 0.0, np.inf, -np.inf
    for value in values:
        total += value
        low, high = min(low, value), max(high, value)
    mean = total / count
    squares = 0.0
    for value in values:
        squares += (value - mean) ** 2
    out[0] = mean
    out[2], out[3] = low, high
    out[4] = math.sqrt(squares / (count - 1)) if count > 1 else 0.0
    out[1] = _median(values, low, high)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _median(values: NDArray[np.float64], low: float, high: float) -> float:
    """Median of `values`, which lie from `low` to `high` and are changed; of two in the middle their mean."""
    count = values.shape[0]
    if low == high:
        return low
    # Sorting into bins needs no comparison that a processor could guess wrong; only the bins in the middle matter then.
    bins = np.zeros(_BINS + 1, np.int32)
    scale = _BINS / (high - low)
    for value in values:
        bins[int((value - low) * scale)] += 1
    first, last, below, seen = -1, -1, 0, 0
    for bin_ in range(_BINS + 1):
        seen += bins[bin_]
        if first < 0 and seen > (count - 1) // 2:
            first, below = bin_, seen - bins[bin_]
        if seen > count // 2:
            last = bin_
            break
    kept = 0
    for i in range(count):
        value = values[i]
        if first <= int((value - low) * scale) <= last:
            values[kept] = value
            kept += 1
    upper = _select(values[:kept], count // 2 - below)
    if count % 2 == 1:
        return upper
    lower = float(values[0])
    for i in range(1, count // 2 - below):
        lower = max(lower, values[i])
    return 0.5 * (lower + upper)


@nb.njit(cache=True, nogil=True, error_model="numpy")
def _select(values: NDArray[np.float64], rank: int) -> float:
    """Value of this rank; afterwards nothing before its place is larger, and nothing behind it smaller."""
    low, high = 0, values.shape[0] - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if rank <= j:
            high = j
        elif rank >= i:
            low = i
        else:
            break
    return float(values[rank])
