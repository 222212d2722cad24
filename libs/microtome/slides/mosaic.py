"""Large slides from small ones, for measuring speed and memory.

Promises: real tissue at any size, as a pyramidal, tiled JPEG TIFF with the source's pixel size, written in
bands; the source is continued by reflection, so that there are no seams; the file says what it is.
Refuses: sources of more than 100 million pixels; use a smaller slide.

    python -m microtome.slides.mosaic --source SLIDE --size 20000 --out LARGE.tif
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from microtome.errors import InvalidRequest, TooLarge
from microtome.slides.inspection import inspect_slide
from microtome.slides.opening import cached_slide, read_block
from microtome.slides.pyramid import TILE, write_pyramid

Pixels = npt.NDArray[np.uint8]

MAX_SOURCE_PIXELS = 100_000_000
MAX_SIZE = 200_000
_PIECE = 2048


def write_mosaic(source: Path, out: Path, *, width: int, height: int, mpp: float | None = None) -> None:
    """Write a slide of `width` x `height` pixels made of `source`; `mpp` overrides what the source says."""
    if not (1 <= width <= MAX_SIZE and 1 <= height <= MAX_SIZE):
        raise InvalidRequest(f"A mosaic has 1 to {MAX_SIZE} pixels a side, not {width} x {height}.")
    mpp = mpp if mpp is not None else inspect_slide(source).mpp
    picture = _whole(source)
    rows, columns = _repeated(picture.shape[0], height), _repeated(picture.shape[1], width)

    def bands() -> Iterator[Pixels]:
        for y in range(0, height, TILE):
            yield picture[rows[y : y + TILE, None], columns[None, :]]

    description = f"Mosaic made by Microtome for benchmarks: {source.name} repeated by reflection."
    write_pyramid(out, width, height, bands(), compression="jpeg", mpp=mpp, description=description)


def _repeated(size: int, length: int) -> npt.NDArray[np.intp]:
    """Which of `size` lines each of `length` lines shows: there and back again."""
    return np.pad(np.arange(size), (0, max(0, length - size)), mode="reflect" if size > 1 else "edge")[:length]


def _whole(source: Path) -> Pixels:
    slide = cached_slide(source)
    width, height = slide.dimensions
    if width * height > MAX_SOURCE_PIXELS:
        raise TooLarge(f"The source has {width} x {height} pixels; a mosaic is made of at most {MAX_SOURCE_PIXELS:,}.")
    picture = np.empty((height, width, 3), np.uint8)
    for y in range(0, height, _PIECE):
        for x in range(0, width, _PIECE):
            across, down = min(_PIECE, width - x), min(_PIECE, height - y)
            picture[y : y + down, x : x + across] = read_block(slide, 0, x, y, across, down, source.name)
    return picture


def main(arguments: list[str] | None = None) -> int:
    """Entry point of `python -m microtome.slides.mosaic`."""
    parser = argparse.ArgumentParser(prog="microtome.slides.mosaic", description="Make a large slide of a small one.")
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--size", type=int, required=True, help="pixels a side")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--mpp", type=float, help="µm per pixel, where the source does not say")
    options = parser.parse_args(arguments)
    write_mosaic(options.source, options.out, width=options.size, height=options.size, mpp=options.mpp)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
