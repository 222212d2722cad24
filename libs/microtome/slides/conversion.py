"""Making a slide of a picture that OpenSlide does not open.

Promises: a lossless, tiled, pyramidal TIFF beside the original, carrying its pixel size and saying where it
comes from; the original stays as it is. Everything in `slides` then reads the twin in place of the original.
Refuses: what `flat` refuses; truncated files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openslide

from microtome.errors import UnreadableSlide
from microtome.slides.facts import PixelSize
from microtome.slides.flat import open_flat
from microtome.slides.opening import KEPT_PIXELS, converted_path
from microtome.slides.pyramid import write_pyramid
from microtome.slides.tiff_layout import check_complete

Pixels = npt.NDArray[np.uint8]

_MARK = "Microtome conversion "


def make_readable(path: Path, *, passing: bool = False) -> tuple[Path, tuple[str, ...]]:
    """The file to read in place of `path`, and what was done; the path itself when OpenSlide opens it.

    `passing`: the copy is soon deleted, so making it fast is worth more than making it small.

    Raises `UnreadableSlide` or `TooLarge`.
    """
    if not path.is_file():
        raise UnreadableSlide(f"There is no file {path.name}.")
    twin = converted_path(path)
    if twin.exists():
        return twin, tuple(json.loads(_description(twin)[len(_MARK) :])["notes"])
    check_complete(path)
    if openslide.OpenSlide.detect_format(path) is not None:
        return path, ()
    picture = open_flat(path)
    size = picture.pixel_size
    # A small picture saves little when it is packed, and most of its jobs' planning would be unpacking.
    packed = not passing and picture.width * picture.height > KEPT_PIXELS
    # Said in the file itself, so that the twin explains itself wherever it goes.
    origin = {"vendor": picture.vendor, "mpp": size.mpp, "mpp_source": size.source, "notes": picture.notes}
    write_pyramid(
        twin,
        picture.width,
        picture.height,
        _ahead(picture.bands()),
        compression="deflate" if packed else "none",
        mpp=size.mpp,
        description=_MARK + json.dumps(origin),
    )
    return twin, picture.notes


def _ahead(bands: Iterator[Pixels]) -> Iterator[Pixels]:
    """Yield the same, each decoded while the one before is written."""
    with ThreadPoolExecutor(1, thread_name_prefix="bands") as other:
        coming = other.submit(next, bands, None)
        while (band := coming.result()) is not None:
            coming = other.submit(next, bands, None)
            yield band


def conversion_origin(properties: dict[str, Any]) -> tuple[str, PixelSize, tuple[str, ...]] | None:
    """Vendor, pixel size and notes of the original, when a slide with these properties was converted."""
    text = properties.get("tiff.ImageDescription", "")
    if not text.startswith(_MARK):
        return None
    try:
        origin = json.loads(text[len(_MARK) :])
        size = PixelSize(origin["mpp"], origin["mpp_source"])
        return origin["vendor"], size, tuple(origin["notes"])
    except (ValueError, KeyError, TypeError):
        return None


def _description(twin: Path) -> str:
    with openslide.OpenSlide(twin) as slide:
        return str(slide.properties.get("tiff.ImageDescription", _MARK + '{"notes": []}'))
