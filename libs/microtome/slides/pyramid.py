"""Writing tiled, pyramidal TIFFs that OpenSlide reads.

Promises: pixels are taken once, as bands from top to bottom, and memory holds a few bands, never the picture;
each level is the mean of 2 x 2 pixels of the one before; the file appears under its name only when complete.
Refuses: anything but 8-bit RGB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile

from microtome.slides.resample import box_mean

Pixels = npt.NDArray[np.uint8]
Compression = Literal["deflate", "jpeg", "none"]

TILE = 256
_SMALLEST = 256


def write_pyramid(
    path: Path,
    width: int,
    height: int,
    bands: Iterable[Pixels],
    *,
    compression: Compression,
    mpp: float | tuple[float, float] | None,
    description: str,
    quality: int = 85,
) -> None:
    """Write `bands` (each `[any, width, 3]` uint8, together `height` rows) as a pyramid at `path`.

    `mpp` (µm per pixel, one or x and y) goes into the resolution tags. Temporary files beside `path` take about
    a third of its size.
    """
    encoder = _Encoder(compression, quality)
    with (
        tempfile.TemporaryDirectory(prefix=partial_prefix(path), dir=path.parent) as folder,
        ExitStack() as spools,
    ):
        levels = _plan(width, height, encoder, Path(folder))
        for level in levels:
            spools.enter_context(level.spool)
        partial = Path(folder) / "complete.tif"
        with tifffile.TiffWriter(partial, bigtiff=True) as writer:
            first = levels[0].consume(_cut(bands, width, height))
            _write_level(writer, levels[0], first, encoder, mpp, description)
            # The writer takes as many tiles as it needs, whatever the number of rows.
            if levels[0].rows != height:
                raise ValueError(f"the bands have {levels[0].rows} rows or more, not {height}")
            if levels[0].next is not None:
                levels[0].next.finish()
            for level in levels[1:]:
                _write_level(writer, level, level.spooled(), encoder, mpp, None)
        partial.replace(path)


def partial_prefix(path: Path) -> str:
    """How the temporary folders are named in which `path` is made; what a killed process leaves behind."""
    return f".{path.name}-"


@dataclass(frozen=True, slots=True)
class _Encoder:
    compression: Compression
    quality: int

    def encode(self, tile: Pixels) -> bytes:
        if self.compression == "jpeg":
            return bytes(
                imagecodecs.jpeg8_encode(
                    tile, level=self.quality, colorspace="RGB", outcolorspace="YCBCR", subsampling="420"
                )
            )
        if self.compression == "none":
            return tile.tobytes()
        # Horizontal differencing (TIFF predictor 2) is what makes deflate worth while on photographs.
        return bytes(imagecodecs.zlib_encode(np.asarray(imagecodecs.delta_encode(tile, axis=-2)).tobytes(), level=4))

    def tags(self) -> dict[str, Any]:
        if self.compression == "jpeg":
            return {"compression": "jpeg", "photometric": "ycbcr", "subsampling": (2, 2)}
        if self.compression == "none":
            return {"photometric": "rgb"}
        return {"compression": "adobe_deflate", "photometric": "rgb", "predictor": 2}


@dataclass(slots=True)
class _Level:
    """One level: cuts bands into tiles and hands the halved bands to the next level."""

    index: int
    width: int
    height: int
    encoder: _Encoder
    spool: BinaryIO
    next: _Level | None = None
    rows: int = 0
    pending: list[Pixels] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)

    def consume(self, bands: Iterable[Pixels]) -> Iterator[bytes]:
        """Encoded tiles of bands of `TILE` rows; only the last band of a level may be lower."""
        for band in bands:
            self.rows += band.shape[0]
            if self.next is not None:
                self.next.push(box_mean(band, 2))
            for x in range(0, self.width, TILE):
                yield self.encoder.encode(_padded(band[:, x : x + TILE]))

    def push(self, rows: Pixels) -> None:
        """Take halved rows; two bands above make one of this level."""
        self.pending.append(rows)
        if sum(part.shape[0] for part in self.pending) >= TILE:
            self._flush()

    def finish(self) -> None:
        """The level above is complete."""
        if self.pending:
            self._flush()
        if self.next is not None:
            self.next.finish()

    def _flush(self) -> None:
        band = np.concatenate(self.pending)
        self.pending.clear()
        for tile in self.consume([band]):
            self.spool.write(tile)
            self.lengths.append(len(tile))

    def spooled(self) -> Iterator[bytes]:
        """The encoded tiles that were spooled."""
        self.spool.seek(0)
        for length in self.lengths:
            yield self.spool.read(length)


def _plan(width: int, height: int, encoder: _Encoder, folder: Path) -> list[_Level]:
    levels = [_Level(0, width, height, encoder, (folder / "0").open("w+b"))]
    while max(levels[-1].width, levels[-1].height) > _SMALLEST:
        above = levels[-1]
        index = above.index + 1
        spool = (folder / str(index)).open("w+b")
        level = _Level(index, -(-above.width // 2), -(-above.height // 2), encoder, spool)
        above.next = level
        levels.append(level)
    return levels


def _write_level(
    writer: tifffile.TiffWriter,
    level: _Level,
    tiles: Iterator[bytes],
    encoder: _Encoder,
    mpp: float | tuple[float, float] | None,
    description: str | None,
) -> None:
    resolution: dict[str, Any] = {}
    if mpp is not None:
        across, down = mpp if isinstance(mpp, tuple) else (mpp, mpp)
        factor = 2**level.index
        resolution = {"resolution": (1e4 / across / factor, 1e4 / down / factor), "resolutionunit": "CENTIMETER"}
    writer.write(
        tiles,
        shape=(level.height, level.width, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        subfiletype=1 if level.index else 0,
        description=description,
        software="microtome",
        metadata=None,
        **resolution,
        **encoder.tags(),
    )


def _cut(bands: Iterable[Pixels], width: int, height: int) -> Iterator[Pixels]:
    """The same rows in bands of exactly `TILE` rows, the last one lower."""
    held: list[Pixels] = []
    rows = seen = 0
    for band in bands:
        if band.shape[1:] != (width, 3) or band.dtype != np.uint8:
            raise ValueError(f"a band is {band.shape} {band.dtype}, not [rows, {width}, 3] uint8")
        held.append(band)
        rows += band.shape[0]
        seen += band.shape[0]
        if rows >= TILE:
            joined = held[0] if len(held) == 1 else np.concatenate(held)
            whole = rows - rows % TILE
            for y in range(0, whole, TILE):
                yield joined[y : y + TILE]
            held, rows = ([joined[whole:].copy()], rows - whole) if rows > whole else ([], 0)
    if held:
        yield np.concatenate(held)
    if seen < height:
        raise ValueError(f"the bands have {seen} rows, not {height}")


def _padded(tile: Pixels) -> Pixels:
    """A whole tile: the last pixel is repeated, so that JPEG does not ring at the slide's edge."""
    if tile.shape[:2] == (TILE, TILE):
        return np.ascontiguousarray(tile)
    missing = ((0, TILE - tile.shape[0]), (0, TILE - tile.shape[1]), (0, 0))
    return np.ascontiguousarray(np.pad(tile, missing, mode="edge"))
