"""Keeping tissue masks.

Promises: a mask appears under its name only when complete, and loads as it was saved; the bytes depend on the
mask alone. As PNG it is black and white, one pixel per mask pixel.
Refuses: files that are no mask of this version.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zipfile
import zlib
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from microtome.errors import NotFound, UnreadableSlide
from microtome.tissue.mask import TissueMask, TissueParameters
from microtome.tissue.outline import TissueOutline, load_outline

# Beside a slide, where no file of its own begins with a dot: drawn outlines, and how those begin that are half written.
OUTLINES = ".tissue"
UNFINISHED = "new-"
_VERSION = 2
# What reading a damaged file raises, depending on which of its bytes are wrong.
_DAMAGE = (
    ValueError, KeyError, TypeError, AttributeError, EOFError, OSError, RuntimeError, MemoryError, struct.error,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def save_mask(mask: TissueMask, path: Path) -> None:
    """Write the mask as `.npz`, atomically."""
    head = {
        "version": _VERSION,
        "level0_width": mask.level0_width,
        "level0_height": mask.level0_height,
        "downsample": mask.downsample,
        "mpp": mask.mpp,
        "threshold": mask.threshold,
        "parameters": asdict(mask.parameters),
        "notes": mask.notes,
    }
    packed = np.packbits(mask.bits, axis=1)
    text = np.frombuffer(json.dumps(head, sort_keys=True).encode(), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".mask-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez_compressed(file, head=text, bits=packed, shape=np.asarray(mask.bits.shape, np.int64))
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load_mask(path: Path) -> TissueMask:
    """Read a mask. Raises `NotFound` when there is none, `UnreadableSlide` when the file is damaged."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            head = json.loads(stored["head"].tobytes())
            height, width = (int(side) for side in stored["shape"])
            bits = np.unpackbits(stored["bits"], axis=1, count=width).astype(np.bool_)
        if head.pop("version") != _VERSION or bits.shape != (height, width):
            raise UnreadableSlide(f"{path.name} is a tissue mask of another version.")
        parameters, notes = TissueParameters(**head.pop("parameters")), tuple(head.pop("notes"))
        across, down = head.pop("downsample")
        return TissueMask(bits=bits, downsample=(across, down), parameters=parameters, notes=notes, **head)
    except FileNotFoundError as error:
        raise NotFound(f"There is no tissue mask {path.name}.") from error
    except _DAMAGE as error:
        raise UnreadableSlide(f"{path.name} is not a readable tissue mask: {error}.") from error


def save_outline(outline: TissueOutline, slide: Path) -> None:
    """Keep a drawn outline beside its slide under its digest, atomically; nothing happens if it is there.

    Raises `FileNotFoundError` without the slide's folder, and what else the disk refuses.
    """
    path = _outline_path(slide, outline.sha256)
    if path.is_file() and path.read_bytes() == outline.document:
        return
    path.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=UNFINISHED, dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(outline.document)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def outline_of(slide: Path, sha256: str) -> TissueOutline:
    """Read an outline that was drawn for the slide at `slide`. Raises `NotFound` without it, or if it has changed."""
    again = f"({sha256[:12]}…). Submit the job again with it."
    try:
        document = _outline_path(slide, sha256).read_bytes()
    except OSError as error:
        raise NotFound(f"The tissue that was drawn for this job is gone {again}") from error
    if hashlib.sha256(document).hexdigest() != sha256:
        raise NotFound(f"The tissue that was drawn for this job is damaged {again}")
    return load_outline(document)


def _outline_path(slide: Path, sha256: str) -> Path:
    return slide.parent / OUTLINES / f"{sha256}.geojson"


def encode_png(mask: TissueMask) -> bytes:
    """The mask as a 1-bit PNG: white is tissue."""
    out = BytesIO()
    Image.fromarray(mask.bits).save(out, "PNG")
    return out.getvalue()
