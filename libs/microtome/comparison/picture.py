"""A picture of a comparison: the whole slide, and the square in which the runs agree least.

Promises: matched cells are green, missing ones red, extra ones blue; what differs lies on top. Left on the thumbnail,
where a run has one, otherwise on white; right the outlines themselves, on the slide's own pixels if it is given.
Refuses: to read more of the slide than the square.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from microtome.comparison.comparing import Comparison, Window
from microtome.scoring.outlines import OutlineSet

MATCHED, MISSING, EXTRA = (22, 140, 60), (215, 35, 35), (35, 80, 225)
_INK, _FRAME = (40, 40, 40), (20, 20, 20)
_OVERVIEW, _DETAIL, _MARGIN, _TITLE = 1200, 900, 12, 34
# Cells that would be smaller than this many pixels in the overview are drawn as dots.
_OUTLINED = 4.0
# OpenCV draws at 1/16 of a pixel.
_SHIFT = 4

Picture = NDArray[np.uint8]


def draw(comparison: Comparison, slide: Path | None = None) -> Picture:
    """Picture of a comparison, uint8 RGB [h, w, 3]. Raises `UnreadableSlide` if `slide` cannot be read."""
    panels = [_overview(comparison)]
    if comparison.worst is not None:
        panels.append(_detail(comparison, comparison.worst, slide))
    height = max(panel.shape[0] for panel in panels)
    framed = [np.pad(panel, ((0, height - len(panel)), (0, _MARGIN), (0, 0)), constant_values=255) for panel in panels]
    body = np.pad(np.concatenate(framed, axis=1), ((_TITLE, _MARGIN), (_MARGIN, 0), (0, 0)), constant_values=255)
    return _titled(np.ascontiguousarray(body), comparison)


def _titled(canvas: Picture, comparison: Comparison) -> Picture:
    words = (
        (f"matched {len(comparison.pairs):,}", MATCHED),
        (f"missing {len(comparison.missing):,}", MISSING),
        (f"extra {len(comparison.extra):,}", EXTRA),
        (f"F1 {comparison.f1:.4f}  SQ {comparison.sq:.4f}  PQ {comparison.pq:.4f}", _INK),
    )
    x = _MARGIN
    for text, colour in words:
        (width, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
        if x + width > canvas.shape[1]:
            break
        cv2.putText(canvas, text, (x, _TITLE - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.55, colour, 1, cv2.LINE_AA)
        x += width + 24
    return canvas


def _overview(comparison: Comparison) -> Picture:
    width, height = _extent(comparison)
    factor = _OVERVIEW / max(width, height)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    canvas = _paled(_base(comparison, size))
    groups = _groups(comparison)
    sizes = np.concatenate([(cells.upper - cells.lower)[which].max(axis=1) for cells, which, _ in groups])
    dots = bool(len(sizes)) and float(np.median(sizes)) * factor < _OUTLINED
    for number, (cells, which, colour) in enumerate(groups):
        if dots:
            _dots(canvas, cells.centre[which] * factor, colour, wide=number > 0)
        else:
            _outlines(canvas, cells, which, (0.0, 0.0), factor, colour, 1)
    window = comparison.worst
    if window is not None:
        corners = np.round(np.array([[window.x, window.y], [window.x + window.side, window.y + window.side]]) * factor)
        (x0, y0), (x1, y1) = corners.astype(int).tolist()
        cv2.rectangle(canvas, (x0, y0), (x1, y1), _FRAME, 2)
    return canvas


def _detail(comparison: Comparison, window: Window, slide: Path | None) -> Picture:
    factor = _DETAIL / window.side
    canvas = _paled(_window_pixels(comparison, window, slide), 0.35 if slide is not None else 0.5)
    for number, (cells, which, colour) in enumerate(_groups(comparison)):
        lower, upper = cells.lower[which], cells.upper[which]
        near = (upper >= (window.x, window.y)).all(axis=1) & (lower <= (window.x + window.side,) * 2).all(axis=1)
        near &= lower[:, 1] <= window.y + window.side
        _outlines(canvas, cells, which[near], (window.x, window.y), factor, colour, 1 if number == 0 else 2)
    cv2.rectangle(canvas, (0, 0), (_DETAIL - 1, _DETAIL - 1), _FRAME, 2)
    text = f"x {window.x:.0f}  y {window.y:.0f}  {window.side:.0f} px: F1 {window.f1:.3f}"
    cv2.putText(canvas, text, (10, _DETAIL - 12), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    return canvas


def _groups(
    comparison: Comparison,
) -> tuple[tuple[OutlineSet, NDArray[np.int64], tuple[int, int, int]], ...]:
    """Cells in the order in which they are drawn."""
    a, b = comparison.a.outlines, comparison.b.outlines
    return (
        (a, comparison.pairs[:, 0], MATCHED),
        (b, comparison.extra, EXTRA),
        (a, comparison.missing, MISSING),
    )


def _extent(comparison: Comparison) -> tuple[float, float]:
    """Width and height of what is shown, from the origin: the slide, or as far as there are cells."""
    for run in (comparison.a, comparison.b):
        if "width" in run.facts and "height" in run.facts:
            return float(run.facts["width"]), float(run.facts["height"])
        if run.labels is not None:
            return float(run.labels.shape[1]), float(run.labels.shape[0])
    corners = [run.outlines.upper.max(axis=0) for run in (comparison.a, comparison.b) if len(run.outlines)]
    width, height = np.max(corners, axis=0).tolist() if corners else (1.0, 1.0)
    return max(width, 1.0), max(height, 1.0)


def _thumbnail(comparison: Comparison) -> Picture | None:
    for run in (comparison.a, comparison.b):
        picture = None if run.thumbnail is None else cv2.imread(str(run.thumbnail), cv2.IMREAD_COLOR)
        if picture is not None:
            return np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB), np.uint8)
    return None


def _base(comparison: Comparison, size: tuple[int, int]) -> Picture:
    thumbnail = _thumbnail(comparison)
    if thumbnail is None:
        return np.full((size[1], size[0], 3), 255, np.uint8)
    return np.asarray(cv2.resize(thumbnail, size, interpolation=cv2.INTER_AREA), np.uint8)


def _window_pixels(comparison: Comparison, window: Window, slide: Path | None) -> Picture:
    """What is under the window, uint8 RGB [_DETAIL, _DETAIL, 3]."""
    if slide is not None:
        image, origin, pixel = _slide_pixels(slide, window)
    else:
        thumbnail = _thumbnail(comparison)
        if thumbnail is None:
            return np.full((_DETAIL, _DETAIL, 3), 255, np.uint8)
        image, origin, pixel = thumbnail, (0.0, 0.0), _extent(comparison)[0] / thumbnail.shape[1]
    factor = _DETAIL * pixel / window.side
    shift = (origin[0] - window.x) * _DETAIL / window.side, (origin[1] - window.y) * _DETAIL / window.side
    # Pixels have their names at their centres.
    half = 0.5 * factor - 0.5
    matrix = np.array([[factor, 0, shift[0] + half], [0, factor, shift[1] + half]])
    white = (255, 255, 255)
    warped = cv2.warpAffine(image, matrix, (_DETAIL, _DETAIL), flags=cv2.INTER_LINEAR, borderValue=white)
    return np.asarray(warped, np.uint8)


def _slide_pixels(slide: Path, window: Window) -> tuple[Picture, tuple[float, float], float]:
    """Pixels of the slide under the window, the level-0 place of their corner, and level-0 pixels for each."""
    from microtome.slides.reader import SlideReader

    # No pixel size is needed here: level 0, or every second, fourth … pixel of it.
    step = float(2 ** max(0, int(np.floor(np.log2(window.side / _DETAIL)))))
    reader = SlideReader(slide, 1.0, step)
    x0, y0 = (max(0, int(value / step)) for value in (window.x, window.y))
    x1 = min(reader.width, int(np.ceil((window.x + window.side) / step)))
    y1 = min(reader.height, int(np.ceil((window.y + window.side) / step)))
    if x1 <= x0 or y1 <= y0:
        return np.full((1, 1, 3), 255, np.uint8), (window.x, window.y), 1.0
    return reader.read(x0, y0, x1 - x0, y1 - y0), (x0 * step, y0 * step), step


def _paled(image: Picture, how_much: float = 0.5) -> Picture:
    return np.asarray(np.round(image * (1 - how_much) + 255 * how_much), np.uint8)


def _dots(canvas: Picture, places: NDArray[np.float64], colour: tuple[int, int, int], *, wide: bool) -> None:
    height, width = canvas.shape[:2]
    at = places.astype(np.int64)
    at = at[(at >= 0).all(axis=1) & (at[:, 0] < width) & (at[:, 1] < height)]
    mask = np.zeros((height, width), np.uint8)
    mask[at[:, 1], at[:, 0]] = 1
    if wide:
        mask = np.asarray(cv2.dilate(mask, np.ones((3, 3), np.uint8)), np.uint8)
    canvas[mask > 0] = colour


def _outlines(
    canvas: Picture,
    cells: OutlineSet,
    which: NDArray[np.int64],
    origin: tuple[float, float],
    factor: float,
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    rings = [
        np.round((ring - origin) * (factor * (1 << _SHIFT))).astype(np.int32)
        for index in which.tolist()
        for ring in cells.rings(index)
    ]
    cv2.polylines(canvas, rings, True, colour, thickness, cv2.LINE_AA, _SHIFT)


def save_png(image: Picture, path: Path) -> None:
    """Write uint8 RGB [h, w, 3] as PNG; folders on the way are made."""
    done, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    assert done, "OpenCV encodes any uint8 image"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())
