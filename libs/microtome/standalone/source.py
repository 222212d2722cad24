"""The image of a run: opened, inspected, its pixel size known.

Promises: the image and its folder stay as they are; what OpenSlide does not open is converted in the run's own folder.
Refuses: what cannot be read (`UnreadableSlide`, `TooLarge`), fluorescence (`UnsuitableSlide`), and to guess how large a
pixel is (`UnknownMpp`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import openslide

from microtome.errors import UnknownMpp, UnreadableSlide, UnsuitableSlide
from microtome.slides.conversion import make_readable
from microtome.slides.inspection import inspect_slide
from microtome.slides.opening import converted_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`path` is what is read. `width`, `height`: level-0 pixels; `mpp`: µm per level-0 pixel."""

    path: Path
    name: str
    sha256: str
    width: int
    height: int
    mpp: float
    mpp_source: str
    notes: tuple[str, ...]


def open_source(image: Path, mpp: float | None, folder: Path) -> Source:
    """Open `image`; `mpp` goes before what the file says. `folder` is where a converted copy may lie."""
    path = readable(image, folder)
    facts = inspect_slide(path)
    if facts.stain == "fluorescence":
        raise UnsuitableSlide("The background is dark: this is a fluorescence image; the model knows brightfield only.")
    size = mpp if mpp is not None else facts.mpp
    if size is None:
        raise UnknownMpp(
            f"{image.name} does not say how large its pixels are; give --mpp, in µm per pixel (0.25 is usual at 40x, "
            "0.5 at 20x)."
        )
    return Source(
        path=path,
        name=image.name,
        sha256=facts.sha256,
        width=facts.width,
        height=facts.height,
        mpp=size,
        mpp_source="user" if mpp is not None else facts.mpp_source,
        notes=facts.notes,
    )


def readable(image: Path, folder: Path) -> Path:
    """Return where `image` can be opened: itself, or in `folder`, converted. Raises `UnreadableSlide`, `TooLarge`."""
    if image.is_dir():
        raise UnreadableSlide(f"{image} is a folder; name a file in it (of a DICOM series any one of its files).")
    if not image.is_file():
        raise UnreadableSlide(f"There is no file {image}.")
    if converted_path(image).exists() or openslide.OpenSlide.detect_format(image) is not None:
        return image
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / image.name
    if not path.exists():
        path.symlink_to(image.resolve())
    make_readable(path, passing=True)
    return path
