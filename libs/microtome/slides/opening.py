"""Opening a slide with OpenSlide.

Promises: one place that knows which file is really read: the slide, or the pyramid that `conversion` made
beside it; and a small per-process cache of open slides, safe after a fork and from threads.
Refuses: anything OpenSlide cannot open, as `UnreadableSlide`.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
import numpy.typing as npt
import openslide

from microtome.errors import TooLarge, UnreadableSlide
from microtome.slides.tiff_tiles import VENDORS, TiffTiles, open_tiles

CONVERTED_SUFFIX = ".pyramid.tif"
MAX_SIDE = 1_000_000
MAX_PIXELS = 200_000_000_000
MAX_BLOCK_PIXELS = 1 << 26
_CACHE_SIZE = 8
KEPT_PIXELS = 1 << 23
# Decoded tiles, shared by all open slides of a process: each would have as much of its own otherwise.
_DECODED_BYTES = 32 << 20

_cache: OrderedDict[tuple[int, str, int, int], openslide.OpenSlide] = OrderedDict()
_decoded: dict[int, openslide.OpenSlideCache] = {}
_lock = threading.Lock()
# Small slides that were decoded as a whole, by their handle: a new version of a file has a new one.
_whole: deque[tuple[openslide.OpenSlide, npt.NDArray[np.uint8]]] = deque(maxlen=2)
_whole_lock = threading.Lock()
# By handle, as long as it is open: its file's tiles, where OpenSlide is not needed to decode them.
_tiles: WeakKeyDictionary[openslide.OpenSlide, TiffTiles | None] = WeakKeyDictionary()
_tiles_lock = threading.Lock()


def converted_path(path: Path) -> Path:
    """Where the converted twin of `path` lies, whether or not it exists."""
    return path.with_name(path.name + CONVERTED_SUFFIX)


def readable_path(path: Path) -> Path:
    """The file whose pixels stand for `path`: its converted twin when there is one, otherwise itself."""
    twin = converted_path(path)
    return twin if twin.exists() else path


def open_slide(path: Path) -> openslide.OpenSlide:
    """Open the slide (or its converted twin). Raises `UnreadableSlide`, or `TooLarge` for absurd dimensions."""
    source = readable_path(path)
    try:
        slide = openslide.OpenSlide(source)
    except FileNotFoundError as error:
        raise UnreadableSlide(f"There is no file {source.name}.") from error
    except openslide.OpenSlideUnsupportedFormatError as error:
        raise UnreadableSlide(f"{source.name} is in no format that OpenSlide reads.") from error
    except (openslide.OpenSlideError, OSError) as error:
        raise UnreadableSlide(f"{source.name} cannot be opened: {error}.") from error
    width, height = slide.dimensions
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        slide.close()
        raise TooLarge(f"{source.name} says it has {width} x {height} pixels, more than any slide this reads.")
    return slide


def cached_slide(path: Path) -> openslide.OpenSlide:
    """As `open_slide`, but one handle per process and file version; do not close it."""
    source = readable_path(path)
    try:
        stat = source.stat()
    except OSError as error:
        raise UnreadableSlide(f"There is no file {source.name}.") from error
    # The process id keeps a forked child from sharing its parent's file offsets and locks.
    key = (os.getpid(), str(source), stat.st_mtime_ns, stat.st_size)
    with _lock:
        slide = _cache.get(key)
        if slide is None:
            slide = _cache[key] = open_slide(path)
            slide.set_cache(_decoded_tiles())
            while len(_cache) > _CACHE_SIZE:
                # Not closed here: a thread may still read from it; it closes when nobody holds it.
                _cache.popitem(last=False)
        _cache.move_to_end(key)
        return slide


def _decoded_tiles() -> openslide.OpenSlideCache:
    """One for each process: a forked child cannot use its parent's, whose lock may be held for ever."""
    pid = os.getpid()
    if pid not in _decoded:
        _decoded[pid] = openslide.OpenSlideCache(_DECODED_BYTES)
    return _decoded[pid]


def forget(slide: openslide.OpenSlide) -> None:
    """Drop a handle from the cache: after an error OpenSlide answers nothing more through it."""
    with _lock:
        for key in [key for key, held in _cache.items() if held is slide]:
            del _cache[key]


def read_block(
    slide: openslide.OpenSlide, level: int, x: int, y: int, width: int, height: int, name: str = "The slide"
) -> npt.NDArray[np.uint8]:
    """Pixels `[height, width, 3]` uint8 of a level, `x`, `y` in pixels of that level, missing parts white.

    Raises `UnreadableSlide` when the data cannot be decoded.
    """
    if width * height > MAX_BLOCK_PIXELS:
        raise TooLarge(f"A block of {width} x {height} pixels is more than is read at once.")
    downsample = slide.level_downsamples[level]
    location = (round(x * downsample), round(y * downsample))
    try:
        rgba: npt.NDArray[np.uint8] = np.asarray(slide.read_region(location, level, (width, height)))
    except (openslide.OpenSlideError, OSError) as error:
        forget(slide)
        raise UnreadableSlide(
            f"{name} cannot be read at level {level}, x {x}, y {y}: {error}. It may be damaged or truncated."
        ) from error
    return on_white(rgba)


def read_level(path: Path, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """As `read_block`, of the slide at `path`; several times as fast for files whose tiles are easily decoded."""
    tiles = _tiles_of(path) if width * height <= MAX_BLOCK_PIXELS else None
    pixels = None if tiles is None else tiles.read(level, x, y, width, height)
    return read_block(cached_slide(path), level, x, y, width, height, path.name) if pixels is None else pixels


def _tiles_of(path: Path) -> TiffTiles | None:
    """The tiles of a slide's file, of those levels that are found to be what OpenSlide reads."""
    slide = cached_slide(path)
    with _tiles_lock:
        if slide in _tiles:
            return _tiles[slide]
        found = None
        if slide.properties.get(openslide.PROPERTY_NAME_VENDOR) in VENDORS:
            found = open_tiles(readable_path(path), slide.level_dimensions)
        try:
            if found is not None:
                _compare(found, slide, path.name)
        except UnreadableSlide:
            # Other parts of it may be whole; through this handle they are no longer read.
            slide, found = cached_slide(path), None
        _tiles[slide] = found
        return found


def _compare(tiles: TiffTiles, slide: openslide.OpenSlide, name: str) -> None:
    """Drop the levels that OpenSlide reads otherwise, by the tile that holds most."""
    for level, tiled in list(tiles.levels.items()):
        place = tiled.fullest()
        mine = tiles.read(level, *place)
        if mine is None or not np.array_equal(mine, read_block(slide, level, *place, name)):
            tiles.drop(level)


def whole_level0(path: Path, asked_pixels: int) -> npt.NDArray[np.uint8] | None:
    """Level 0 of a small slide, `[height, width, 3]` uint8, decoded once by this process; it cannot be written into.

    None for a slide of more than `KEPT_PIXELS`, and until somebody asks for as many as a quarter of its pixels: tissue,
    normalisation, tiles and pictures of a slide without a pyramid would otherwise each decode everything again.
    """
    slide = cached_slide(path)
    width, height = slide.dimensions
    if width * height > KEPT_PIXELS:
        return None
    with _whole_lock:
        for held, pixels in _whole:
            if held is slide:
                return pixels
        if 4 * asked_pixels < width * height:
            return None
        middle = height // 2
        with ThreadPoolExecutor(1) as other:
            lower = other.submit(read_level, path, 0, 0, middle, width, height - middle)
            upper = read_level(path, 0, 0, 0, width, middle) if middle else lower.result()[:0]
            pixels = np.concatenate([upper, lower.result()])
        pixels.setflags(write=False)
        _whole.append((slide, pixels))
        return pixels


def on_white(rgba: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Compose `[h, w, 4]` over white into a contiguous `[h, w, 3]`; transparent means never scanned."""
    rgb, opaque = _without_alpha(rgba)
    if opaque:
        return rgb
    alpha = rgba[..., 3]
    weight = alpha[..., None].astype(np.uint16)
    blended = (rgba[..., :3] * weight + 255 * (255 - weight) + 127) // 255
    return blended.astype(np.uint8)


@numba.njit(cache=True, nogil=True)
def _without_alpha(rgba: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint8], bool]:
    """The first three channels, and whether the fourth is 255 everywhere; in one pass, as all regions come through."""
    height, width = rgba.shape[0], rgba.shape[1]
    rgb = np.empty((height, width, 3), np.uint8)
    least = np.uint8(255)
    for y in range(height):
        for x in range(width):
            rgb[y, x, 0] = rgba[y, x, 0]
            rgb[y, x, 1] = rgba[y, x, 1]
            rgb[y, x, 2] = rgba[y, x, 2]
            least = min(least, rgba[y, x, 3])
    return rgb, least == 255


def properties(slide: openslide.OpenSlide) -> dict[str, Any]:
    """OpenSlide's properties as a plain dict."""
    return dict(slide.properties)
