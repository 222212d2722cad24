"""Small pictures of whole slides.

Promises: memory bounded by the picture, also for slides that have no pyramid, which are read in blocks.
Refuses: pictures over 8192 pixels a side.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from microtome.errors import InvalidRequest
from microtome.slides.level import LevelView
from microtome.slides.opening import cached_slide, readable_path

Pixels = npt.NDArray[np.uint8]

MAX_THUMBNAIL = 8192
# What the pictures of a job are drawn on.
PREVIEW_PIXELS = 2048
# A block that is read at once, and how many at the same time.
_ROWS, _COLUMNS, _READERS = 256, 512, 2


def thumbnail(path: Path, max_size: int) -> Pixels:
    """The slide as `[h, w, 3]` uint8 RGB with neither side over `max_size`; never enlarged.

    Raises `UnreadableSlide` when the data cannot be decoded.
    """
    if not 1 <= max_size <= MAX_THUMBNAIL:
        raise InvalidRequest(f"A thumbnail has 1 to {MAX_THUMBNAIL} pixels a side, not {max_size}.")
    width, height = cached_slide(path).dimensions
    view = view_at(path, max(1.0, max(width, height) / max_size))
    out = np.empty((view.height, view.width, 3), np.uint8)

    def draw(place: tuple[int, int]) -> None:
        y, x = place
        rows, columns = min(_ROWS, view.height - y), min(_COLUMNS, view.width - x)
        out[y : y + rows, x : x + columns] = view.read(x, y, columns, rows)

    places = list(product(range(0, view.height, _ROWS), range(0, view.width, _COLUMNS)))
    with ThreadPoolExecutor(_READERS, thread_name_prefix="thumbnail") as readers:
        for _ in readers.map(draw, places):
            pass
    return out


def view_at(path: Path, downsample: float) -> LevelView:
    """The whole slide, `downsample` (at least 1) level-0 pixels to one pixel, from the coarsest level that is finer.

    For looking at: levels that do not divide level 0 evenly are used too, so a pixel may be off by less than one.
    """
    slide = cached_slide(path)
    level = max(
        (index for index, factor in enumerate(slide.level_downsamples) if factor <= downsample * (1 + 1e-9)),
        key=lambda index: float(slide.level_downsamples[index]),
        default=0,
    )
    width, height = slide.level_dimensions[level]
    step = max(1.0, downsample * width / slide.dimensions[0])
    # Without this, rounding in the division would resample a level that fits as it is.
    return LevelView(path, level, width, height, float(round(step)) if abs(step - round(step)) < 1e-9 else step)


def cached_thumbnail(path: Path, max_size: int) -> Pixels:
    """As `thumbnail`, kept by this process for this version of the file; it cannot be written into."""
    return _kept(path, max_size, readable_path(path).stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _kept(path: Path, max_size: int, _modified_ns: int) -> Pixels:
    picture = thumbnail(path, max_size)
    picture.setflags(write=False)
    return picture


def encode_jpeg(picture: Pixels, quality: int = 85) -> bytes:
    """`[h, w, 3]` uint8 RGB as JPEG."""
    out = BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=quality)
    return out.getvalue()
