"""Pictures that a scanner stored beside the slide: its label, an overview of the glass, a thumbnail.

Promises: the pixels as they are stored, over white where they are transparent; how large a picture is is known before
it is decoded. Refuses: pictures of more than 2**26 pixels.

A label may show a patient's name. These pictures are given to whoever may see the slide, and to nobody else.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from microtome.errors import NotFound, TooLarge, UnreadableSlide
from microtome.slides.opening import MAX_BLOCK_PIXELS, cached_slide, forget, on_white

_SIDES = ("width", "height")
FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}


@dataclass(frozen=True, slots=True)
class Associated:
    """One picture, its size in pixels."""

    name: str
    width: int
    height: int


def associated(path: Path) -> tuple[Associated, ...]:
    """The pictures beside a slide, by name. Raises `UnreadableSlide`."""
    slide = cached_slide(path)
    return tuple(
        Associated(name, *(int(slide.properties.get(f"openslide.associated.{name}.{side}", 0)) for side in _SIDES))
        for name in sorted(slide.associated_images)
    )


def encoded(path: Path, name: str, media_type: str) -> bytes:
    """A picture as `image/jpeg` or `image/png`. Raises `NotFound`, `TooLarge`, `UnreadableSlide`."""
    known = {picture.name: picture for picture in associated(path)}
    if name not in known:
        raise NotFound(f"This slide has no picture {name[:80]!r}; it has: {', '.join(known) or 'none'}.")
    if known[name].width * known[name].height > MAX_BLOCK_PIXELS:
        raise TooLarge(f"The picture {name!r} has more pixels than are read at once.")
    slide = cached_slide(path)
    try:
        rgba = np.asarray(slide.associated_images[name])
    except (openslide.OpenSlideError, OSError) as error:
        forget(slide)
        raise UnreadableSlide(f"The picture {name!r} cannot be read: {error}.") from error
    out = BytesIO()
    Image.fromarray(on_white(rgba)).save(out, FORMATS[media_type], quality=90)
    return out.getvalue()
