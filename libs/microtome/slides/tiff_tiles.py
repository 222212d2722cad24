"""The tiles of a TIFF, decoded without OpenSlide, which takes several times as long for the same pixels.

Promises: a level's pixels are those that OpenSlide reads, byte for byte; whoever opens it has that tried on the tile
that holds most. Safe from threads, which decode beside each other; decoded tiles are kept as far as they are small.
Refuses, by answering None, whatever OpenSlide might see otherwise: levels that do not divide level 0 evenly, tiles that
are missing, codecs other than baseline JPEG, deflate and none, and every tile that may be damaged; OpenSlide then reads
it, or says what is wrong with it.
"""

from __future__ import annotations

import functools
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from microtome.slides.jpeg_scan import is_whole

Pixels = npt.NDArray[np.uint8]

# Whose levels are the file's tiled pictures and nothing else: no overlap, no shift, no sparse rows.
VENDORS = frozenset({"aperio", "generic-tiff"})
# Decoded tiles that a process keeps, of all slides together.
_KEPT_BYTES = 32 << 20
_numbers = itertools.count()


@dataclass(frozen=True, eq=False, slots=True)
class TiledLevel:
    """One tiled picture of a file: its size and its tiles', in pixels, and where tile i lies."""

    width: int
    height: int
    tile_width: int
    tile_height: int
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    decode: Callable[[bytes], Any]

    @property
    def across(self) -> int:
        """Tiles in a row."""
        return -(-self.width // self.tile_width)

    def fullest(self) -> tuple[int, int, int, int]:
        """Return x, y, width and height of the tile with most data, as far as it lies on the level."""
        row, column = divmod(int(self.counts.argmax()), self.across)
        x, y = column * self.tile_width, row * self.tile_height
        return x, y, min(self.tile_width, self.width - x), min(self.tile_height, self.height - y)


class TiffTiles:
    """A TIFF's levels, by their number, as far as they can be read here."""

    def __init__(self, path: Path, levels: dict[int, TiledLevel]) -> None:
        self._levels = levels
        # In the cache: what is no longer read is soon gone from it.
        self._number = next(_numbers)
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)

    @property
    def levels(self) -> dict[int, TiledLevel]:
        """What can be read, by number."""
        return self._levels

    def drop(self, level: int) -> None:
        """Leave a level to OpenSlide from now on."""
        self._levels.pop(level, None)

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels | None:
        """Pixels `[height, width, 3]` uint8 of a region inside the level; None where OpenSlide has to be asked."""
        tiled = self._levels.get(level)
        if tiled is None or min(x, y) < 0 or x + width > tiled.width or y + height > tiled.height:
            return None
        out = np.empty((height, width, 3), np.uint8)
        first_column, last_column = x // tiled.tile_width, (x + width - 1) // tiled.tile_width
        first_row, last_row = y // tiled.tile_height, (y + height - 1) // tiled.tile_height
        size = 3 * tiled.tile_width * tiled.tile_height
        few = (last_column - first_column + 1) * (last_row - first_row + 1) * size <= _KEPT_BYTES // 2
        for row in range(first_row, last_row + 1):
            for column in range(first_column, last_column + 1):
                tile = self._tile(level, tiled, row * tiled.across + column, keep=few)
                if tile is None:
                    return None
                left, top = column * tiled.tile_width - x, row * tiled.tile_height - y
                part = tile[max(0, -top) : height - top, max(0, -left) : width - left]
                top, left = max(0, top), max(0, left)
                out[top : top + part.shape[0], left : left + part.shape[1]] = part
        return out

    def _tile(self, level: int, tiled: TiledLevel, index: int, *, keep: bool) -> Pixels | None:
        key = (self._number, level, index)
        if (kept := _kept.get(key)) is not None:
            return kept
        count = int(tiled.counts[index])
        data = os.pread(self._file, count, int(tiled.offsets[index])) if count else b""
        try:
            tile = tiled.decode(data) if data and len(data) == count else None
        # Decoders raise whatever they like on damaged data; OpenSlide says it better.
        except Exception:  # noqa: BLE001
            return None
        if tile is None or tile.shape != (tiled.tile_height, tiled.tile_width, 3) or tile.dtype != np.uint8:
            return None
        if keep:
            _kept.put(key, tile)
        return np.asarray(tile)


class _Kept:
    """The decoded tiles that were asked for last."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._bytes = 0
        self._tiles: OrderedDict[tuple[int, int, int], Pixels] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int, int]) -> Pixels | None:
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
            return self._tiles.get(key)

    def put(self, key: tuple[int, int, int], tile: Pixels) -> None:
        with self._lock:
            if key in self._tiles:
                return
            self._tiles[key] = tile
            self._bytes += tile.nbytes
            while self._bytes > self._most:
                _, oldest = self._tiles.popitem(last=False)
                self._bytes -= oldest.nbytes

    def clear(self) -> None:
        with self._lock:
            self._tiles.clear()
            self._bytes = 0


_kept = _Kept(_KEPT_BYTES)


def forget_tiles() -> None:
    """Drop all decoded tiles that this process keeps."""
    _kept.clear()


def open_tiles(path: Path, sizes: Sequence[tuple[int, int]]) -> TiffTiles | None:
    """Open what can be read here of a TIFF whose levels have these sizes, by OpenSlide's account; None for nothing.

    The caller has to compare each level with what OpenSlide reads there.
    """
    levels: dict[int, TiledLevel] = {}
    try:
        with tifffile.TiffFile(path) as tiff:
            pages: list[Any] = [page for page in tiff.pages if getattr(page, "is_tiled", False)]
            for number, (width, height) in enumerate(sizes):
                found = [page for page in pages if (page.imagewidth, page.imagelength) == (width, height)]
                factor = sizes[0][0] // width
                if len(found) == 1 and (width * factor, height * factor) == sizes[0]:
                    decode = _decoder(found[0])
                    if decode is not None:
                        levels[number] = _level(found[0], decode)
        return TiffTiles(path, levels) if levels else None
    # It is OpenSlide's to read, then.
    except Exception:  # noqa: BLE001
        return None


def _level(page: Any, decode: Callable[[bytes], Any]) -> TiledLevel:  # noqa: ANN401
    return TiledLevel(
        width=page.imagewidth,
        height=page.imagelength,
        tile_width=page.tilewidth,
        tile_height=page.tilelength,
        offsets=np.array(page.dataoffsets, np.int64),
        counts=np.array(page.databytecounts, np.int64),
        decode=decode,
    )


def _decoder(page: Any) -> Callable[[bytes], Any] | None:  # noqa: ANN401
    """Return what makes pixels of a tile's bytes, or None for kinds that are left to OpenSlide."""
    if page.samplesperpixel != 3 or page.bitspersample != 8 or page.planarconfig != 1:
        return None
    kind, colours, shape = page.compression.name, page.photometric.name, (page.tilelength, page.tilewidth, 3)
    predictor = int(page.predictor)
    if kind == "JPEG" and colours in {"RGB", "YCBCR"}:
        return functools.partial(_jpeg, page.jpegtables, colours)
    if kind == "NONE" and colours == "RGB" and predictor == 1:
        return lambda data: np.frombuffer(data, np.uint8).reshape(shape)
    if kind in {"ADOBE_DEFLATE", "DEFLATE"} and colours == "RGB" and predictor in {1, 2}:
        return functools.partial(_deflated, shape, predictor == 2)
    return None


def _jpeg(tables: bytes | None, colours: str, data: bytes) -> Any:  # noqa: ANN401
    # The decoder does not say that data ended too early; OpenSlide does.
    if not is_whole(data, tables):
        return None
    return imagecodecs.jpeg8_decode(data, tables=tables, colorspace=colours, outcolorspace="RGB")


def _deflated(shape: tuple[int, int, int], differences: bool, data: bytes) -> Any:  # noqa: ANN401
    tile = np.frombuffer(imagecodecs.zlib_decode(data, out=shape[0] * shape[1] * shape[2]), np.uint8).reshape(shape)
    return imagecodecs.delta_decode(tile, axis=-2) if differences else tile
