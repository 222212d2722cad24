"""Finding out what a slide is and whether all of it can be read.

Promises: facts come from the file alone; a truncated file is found (by the directories of a TIFF, and by
decoding a fixed sample of blocks with the corners and last rows of every level); what is odd is in `notes`.
Refuses: to guess a pixel size from the objective; files that cannot be read, as `UnreadableSlide`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openslide

from microtome.errors import UnreadableSlide
from microtome.slides.conversion import conversion_origin
from microtome.slides.facts import LevelFacts, PixelSize, SlideFacts, Stain, judge_pixel_size
from microtome.slides.opening import open_slide, properties, read_level, readable_path
from microtome.slides.tiff_layout import check_complete

Pixels = npt.NDArray[np.uint8]

_BLOCK = 128
# Blocks that are read at once.
_READERS = 2


def inspect_slide(path: Path, sha256: str | None = None) -> SlideFacts:
    """The facts of the slide at `path`; its digest is computed unless the caller already has it.

    A picture that OpenSlide does not open must have been through `conversion.make_readable` before.
    Raises `UnreadableSlide` (also for truncated files) or `TooLarge`.
    """
    if not path.is_file():
        raise UnreadableSlide(f"There is no file {path.name}.")
    source = readable_path(path)
    check_complete(source)
    with open_slide(path) as slide:
        _read_sample(path, slide.level_dimensions)
        vendor, size, notes = _origin(slide)
        stain = _stain(path, slide.level_dimensions)
        notes = (*notes, *size.notes)
        if size.mpp is None and not size.notes:
            notes = (*notes, "The file does not say how large its pixels are.")
        if stain == "fluorescence":
            notes = (*notes, "The background is dark: this looks like fluorescence, not brightfield.")
        if "openslide.icc-size" in slide.properties:
            notes = (*notes, "The colour profile in the file is not applied.")
        width, height = slide.dimensions
        levels = zip(slide.level_dimensions, slide.level_downsamples, strict=True)
        return SlideFacts(
            sha256=sha256 or digest(path),
            size_bytes=path.stat().st_size,
            vendor=vendor,
            width=width,
            height=height,
            levels=tuple(LevelFacts(w, h, float(downsample)) for (w, h), downsample in levels),
            mpp=size.mpp,
            mpp_source=size.source,
            objective_power=_number(slide, openslide.PROPERTY_NAME_OBJECTIVE_POWER),
            stain=stain,
            notes=notes,
        )


def digest(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _origin(slide: openslide.OpenSlide) -> tuple[str, PixelSize, tuple[str, ...]]:
    known = properties(slide)
    origin = conversion_origin(known)
    if origin is not None:
        return origin
    vendor = str(known.get(openslide.PROPERTY_NAME_VENDOR, "unknown"))
    mpp_x, mpp_y = _number(slide, openslide.PROPERTY_NAME_MPP_X), _number(slide, openslide.PROPERTY_NAME_MPP_Y)
    if vendor == "generic-tiff":
        # OpenSlide takes a generic TIFF's pixel size from the resolution tags, whatever they mean.
        size = judge_pixel_size(mpp_x, mpp_y, "resolution_tag")
    else:
        size = judge_pixel_size(mpp_x, mpp_y, "vendor")
        if size.mpp is None and not size.notes:
            size = _resolution_tag(slide)
    return vendor, size, ()


def _resolution_tag(slide: openslide.OpenSlide) -> PixelSize:
    """The pixel size of the TIFF resolution tags when it is plausible; 72 or 96 dpi are a printer's."""
    microns = {"inch": 25_400.0, "centimeter": 10_000.0}.get(str(slide.properties.get("tiff.ResolutionUnit")))
    across, down = _number(slide, "tiff.XResolution"), _number(slide, "tiff.YResolution")
    if microns is None or not across or not down:
        return PixelSize(None, "unknown")
    size = judge_pixel_size(microns / across, microns / down, "resolution_tag")
    return size if size.mpp is not None else PixelSize(None, "unknown")


def _number(slide: openslide.OpenSlide, name: str) -> float | None:
    try:
        return float(slide.properties[name])
    except (KeyError, ValueError):
        return None


def _read_sample(path: Path, levels: Sequence[tuple[int, int]]) -> None:
    """Decode blocks in the corners, along the last rows and on a grid; raises `UnreadableSlide` if one fails."""
    blocks = []
    for level, (width, height) in enumerate(levels):
        steps = 4 if level == 0 else 1
        places = {(i / steps, j / steps) for i, j in product(range(steps + 1), repeat=2)}
        places |= {(i / 8, 1.0) for i in range(9)} if level == 0 else {(0.5, 0.5)}
        for across, down in sorted(places):
            block_width, block_height = min(_BLOCK, width), min(_BLOCK, height)
            x, y = int(across * (width - block_width)), int(down * (height - block_height))
            blocks.append((level, x, y, block_width, block_height))
    _read_all(path, blocks)


def _read_all(path: Path, blocks: Sequence[tuple[int, int, int, int, int]]) -> list[Pixels]:
    with ThreadPoolExecutor(_READERS, thread_name_prefix="inspect") as readers:
        return list(readers.map(lambda block: read_level(path, *block), blocks))


def _stain(path: Path, levels: Sequence[tuple[int, int]]) -> Stain:
    """Fluorescence has a dark background and next to nothing that is bright in all channels."""
    red, green, blue = np.moveaxis(_overview_pixels(path, levels), 1, 0)
    dark = float(np.mean(np.maximum(np.maximum(red, green), blue) < 64))
    white = float(np.mean(np.minimum(np.minimum(red, green), blue) > 160))
    return "fluorescence" if dark > 0.5 and white < 0.02 else "brightfield"


def _overview_pixels(path: Path, levels: Sequence[tuple[int, int]]) -> Pixels:
    """Pixels `[n, 3]` spread over the slide: a small level, or blocks on a grid where there is none."""
    fitting = [i for i, size in enumerate(levels) if max(size) >= 256] or [0]
    level = fitting[-1]
    width, height = levels[level]
    if width * height <= 1 << 22:
        return read_level(path, level, 0, 0, width, height).reshape(-1, 3)
    block_width, block_height = min(64, width), min(64, height)
    places = product(np.linspace(0, height - block_height, 12), np.linspace(0, width - block_width, 12))
    blocks = _read_all(path, [(level, int(x), int(y), block_width, block_height) for y, x in places])
    return np.concatenate([block.reshape(-1, 3) for block in blocks])
