"""Pictures that OpenSlide does not open, as bands of 8-bit RGB rows.

Promises: TIFFs (strips or tiles, plain or OME) are decoded a band at a time; what was changed on the way to
8-bit RGB is said in `notes`; the pixel size comes from OME metadata or a plausible resolution tag.
Refuses: multi-channel, floating-point and CMYK pictures (`UnreadableSlide`), and those that cannot be decoded
in bounded memory (`TooLarge`, saying what to do).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from microtome.errors import TooLarge, UnreadableSlide
from microtome.slides.facts import PixelSize, judge_pixel_size
from microtome.slides.opening import on_white

Pixels = npt.NDArray[np.uint8]
# tifffile declares the numbers in a page's tags as int where they are enumerations.
_Page: TypeAlias = Any

# PNG and JPEG are decoded whole: 3 bytes per pixel, twice for a moment.
MAX_WHOLE_PIXELS = 150_000_000
MAX_FLAT_PIXELS = 10_000_000_000
# One strip or one row of tiles is held at once.
MAX_BAND_BYTES = 512 << 20
_ADVICE = "Save it as a tiled, pyramidal TIFF first (for example: vips tiffsave IN OUT.tif --tile --pyramid)."
_OME_MICRONS = {"nm": 1e-3, "µm": 1.0, "\u03bcm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4, "m": 1e6}


@dataclass(frozen=True, slots=True)
class FlatPicture:
    """A picture without a pyramid. `bands()` gives its rows from the top, each `[any, width, 3]` uint8."""

    vendor: str
    width: int
    height: int
    pixel_size: PixelSize
    notes: tuple[str, ...]
    bands: Callable[[], Iterator[Pixels]]


def open_flat(path: Path) -> FlatPicture:
    """Open a TIFF, PNG or JPEG. Raises `UnreadableSlide` or `TooLarge`."""
    with path.open("rb") as file:
        head = file.read(8)
    if head[:4] in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}:
        try:
            return _open_tiff(path)
        except (tifffile.TiffFileError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise UnreadableSlide(f"{path.name} is a TIFF that cannot be read: {error}.") from error
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return _open_whole(path)
    if not path.stat().st_size:
        raise UnreadableSlide(f"{path.name} is empty; copy or upload it again.")
    raise UnreadableSlide(f"{path.name} is neither a slide that OpenSlide reads nor a TIFF, PNG or JPEG picture.")


def _check_size(width: int, height: int, limit: int) -> None:
    if width * height > limit:
        raise TooLarge(f"A flat picture of {width} x {height} pixels is too large to convert here. {_ADVICE}")


# --- PNG and JPEG -----------------------------------------------------------------------------------------------


def _open_whole(path: Path) -> FlatPicture:
    try:
        # Opening reads the header only; the size is checked before anything is decoded.
        with _own_limit(), Image.open(path, formats=("PNG", "JPEG")) as image:
            vendor = (image.format or "").lower()
            width, height, mode, dpi = *image.size, image.mode, image.info.get("dpi")
            has_alpha = "A" in mode or "transparency" in image.info
    except (OSError, SyntaxError) as error:
        raise UnreadableSlide(f"{path.name} cannot be read: {error}.") from error
    _check_size(width, height, MAX_WHOLE_PIXELS)
    if mode not in {"RGB", "RGBA", "L", "LA", "P", "1", "PA"} and not mode.startswith("I"):
        raise UnreadableSlide(f"{path.name} is a picture in {mode}; only RGB and grey pictures can be read.")
    notes = [f"Converted from a flat {vendor.upper()} picture."]
    if mode in {"L", "LA", "1"}:
        notes.append("The picture is grey; all three channels are equal.")
    if mode.startswith("I"):
        notes.append("The picture has 16 bits per channel and is grey; it was scaled to 8 bits.")
    if has_alpha:
        notes.append("Transparent parts were filled with white.")
    size = judge_pixel_size(25_400 / dpi[0], 25_400 / dpi[1], "resolution_tag") if dpi and min(dpi) > 0 else None
    size = PixelSize(None, "unknown") if size is None or size.mpp is None else size

    def bands() -> Iterator[Pixels]:
        pixels = _decode_whole(path, has_alpha, mode.startswith("I"))
        for y in range(0, height, 256):
            yield pixels[y : y + 256]

    return FlatPicture(vendor, width, height, size, tuple(notes), bands)


def _decode_whole(path: Path, has_alpha: bool, deep: bool) -> Pixels:
    try:
        with _own_limit(), Image.open(path, formats=("PNG", "JPEG")) as image:
            if deep:
                grey = (np.asarray(image).astype(np.uint32) * 255 + 32_767) // 65_535
                return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
            if has_alpha:
                return on_white(np.asarray(image.convert("RGBA")))
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError) as error:
        raise UnreadableSlide(f"{path.name} is damaged or truncated: {error}.") from error


@contextmanager
def _own_limit() -> Iterator[None]:
    """Without Pillow's limit, which warns or raises of its own: sizes are checked here, by the header."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


# --- TIFF -------------------------------------------------------------------------------------------------------


def _open_tiff(path: Path) -> FlatPicture:
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        ome = bool(tiff.is_ome)
        planes = len(tiff.series[0].pages) if ome else 1
        pages = len(tiff.pages)
        description = tiff.ome_metadata or "" if ome else ""
    width, height = int(page.imagewidth), int(page.imagelength)
    _check_size(width, height, MAX_FLAT_PIXELS)
    vendor = "ome-tiff" if ome else "plain-tiff"
    notes = [f"Converted from {'an OME-TIFF' if ome else 'a flat TIFF'}."]
    if ome and planes > 1:
        if page.samplesperpixel < 3:
            raise UnreadableSlide(f"{path.name} has {planes} separate channels or planes; only RGB can be read.")
        notes.append(f"Only the first of {planes} planes is used.")
    elif not ome and pages > 1:
        notes.append(f"Only the first of {pages} pictures in the file is used.")
    notes.extend(_check_page(path, page))
    size = _ome_pixel_size(description) if ome else None
    size = size if size is not None else _tag_pixel_size(page)

    def bands() -> Iterator[Pixels]:
        yield from _tiff_bands(path)

    return FlatPicture(vendor, width, height, size, (*notes, *size.notes), bands)


def _check_page(path: Path, page: _Page) -> list[str]:
    """What has to be said about the page's pixels; raises for those that cannot become RGB."""
    name = page.photometric.name
    if page.dtype is None or page.dtype.name not in {"uint8", "uint16"} or name not in _TO_RGB:
        kind = page.dtype.name if page.dtype is not None else "packed"
        raise UnreadableSlide(f"{path.name} has {kind} pixels in {name}; only 8 or 16-bit RGB or grey can be read.")
    if name == "YCBCR" and page.compression.name not in {"JPEG", "JPEG_2000", "APERIO_JP2000_YCBC", "WEBP", "OJPEG"}:
        raise UnreadableSlide(f"{path.name} has YCbCr pixels compressed with {page.compression.name}.")
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        raise UnreadableSlide(f"{path.name} keeps its colours in separate planes. {_ADVICE}")
    if page.samplesperpixel not in {1, 2, 3, 4}:
        raise UnreadableSlide(f"{path.name} has {page.samplesperpixel} channels; only RGB can be read.")
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
    if rows * page.imagewidth * page.samplesperpixel * page.dtype.itemsize > MAX_BAND_BYTES and not page.is_contiguous:
        raise TooLarge(f"{path.name} is compressed in one piece that is too large to decode. {_ADVICE}")
    notes = []
    if page.samplesperpixel < 3 and name != "PALETTE":
        notes.append("The picture is grey; all three channels are equal.")
    if page.dtype.itemsize == 2:
        notes.append("The picture has 16 bits per channel; it was scaled to 8 bits.")
    if page.samplesperpixel in {2, 4}:
        notes.append("Transparent parts were filled with white.")
    return notes


def _tiff_bands(path: Path) -> Iterator[Pixels]:
    with tifffile.TiffFile(path) as tiff:
        page: Any = tiff.pages.first
        try:
            for raw in _contiguous(page) if page.is_contiguous else _segments(page):
                yield _to_rgb(raw, page)
        # Decoders raise whatever they like on damaged data.
        except Exception as error:
            raise UnreadableSlide(f"{path.name} is damaged or truncated: {error}.") from error


def _contiguous(page: _Page) -> Iterator[npt.NDArray[Any]]:
    """Rows of an uncompressed picture, straight from the file."""
    offset = page.dataoffsets[0]
    file = page.parent.filehandle
    dtype = page.dtype.newbyteorder(page.parent.byteorder)
    for y in range(0, page.imagelength, 256):
        shape = (min(256, page.imagelength - y), page.imagewidth, page.samplesperpixel)
        row_bytes = page.imagewidth * page.samplesperpixel * dtype.itemsize
        file.seek(offset + y * row_bytes)
        data = file.read(shape[0] * row_bytes)
        yield np.frombuffer(data, dtype).reshape(shape)


def _segments(page: _Page) -> Iterator[npt.NDArray[Any]]:
    """One row of strips or tiles after the other, decoded."""
    rows = page.tilelength if page.is_tiled else page.rowsperstrip
    across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
    # Looked up before the loop: finding out how to decode moves the file's position.
    decode, tables, file = page.decode, page.jpegtables, page.parent.filehandle
    for first in range(0, len(page.dataoffsets), across):
        y = first // across * rows
        height = min(rows, page.imagelength - y)
        band = np.full((height, page.imagewidth, page.samplesperpixel), 255, page.dtype)
        for index in range(first, first + across):
            count = page.databytecounts[index]
            if count == 0:
                continue
            file.seek(page.dataoffsets[index])
            decoded, place, _ = decode(file.read(count), index, jpegtables=tables)
            if decoded is None:
                continue
            left = place[3]
            part = decoded[0, :height, : page.imagewidth - left]
            band[: part.shape[0], left : left + part.shape[1]] = part
        yield band


def _rgb(raw: npt.NDArray[Any], _: _Page) -> npt.NDArray[Any]:
    return raw[..., :3]


def _grey(raw: npt.NDArray[Any], _: _Page) -> npt.NDArray[Any]:
    return np.repeat(raw[..., :1], 3, axis=2)


def _inverted(raw: npt.NDArray[Any], _: _Page) -> npt.NDArray[Any]:
    return np.repeat(np.iinfo(raw.dtype).max - raw[..., :1], 3, axis=2)


def _palette(raw: npt.NDArray[Any], page: _Page) -> npt.NDArray[Any]:
    colours = (np.asarray(page.colormap).T >> 8).astype(raw.dtype)
    mapped: npt.NDArray[Any] = colours[raw[..., 0]]
    return mapped


_TO_RGB: dict[str, Callable[[npt.NDArray[Any], _Page], npt.NDArray[Any]]] = {
    "RGB": _rgb,
    "YCBCR": _rgb,
    "MINISBLACK": _grey,
    "MINISWHITE": _inverted,
    "PALETTE": _palette,
}


def _to_rgb(raw: npt.NDArray[Any], page: _Page) -> Pixels:
    pixels = _eight_bits(_TO_RGB[page.photometric.name](raw, page))
    if page.samplesperpixel in {2, 4}:
        alpha = _eight_bits(raw[..., -1:]).astype(np.uint16)
        pixels = ((pixels * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(pixels)


def _eight_bits(raw: npt.NDArray[Any]) -> Pixels:
    if raw.dtype.itemsize == 1:
        return raw.astype(np.uint8, copy=False)
    return ((raw.astype(np.uint32) * 255 + 32_767) // 65_535).astype(np.uint8)


def _ome_pixel_size(description: str) -> PixelSize | None:
    """The physical size in the first `Pixels` element; read with patterns, as XML of strangers is not parsed."""
    element = re.search(r"<(?:\w+:)?Pixels\b[^>]*>", description)
    if element is None:
        return None
    sizes = []
    for axis in "XY":
        value = re.search(rf'PhysicalSize{axis}="([0-9.eE+-]+)"', element[0])
        unit = re.search(rf'PhysicalSize{axis}Unit="([^"]*)"', element[0])
        factor = _OME_MICRONS.get(unit[1] if unit else "µm")
        sizes.append(float(value[1]) * factor if value and factor else None)
    size = judge_pixel_size(sizes[0], sizes[1], "vendor")
    return size if size.mpp is not None or size.notes else None


def _tag_pixel_size(page: _Page) -> PixelSize:
    """The pixel size of the resolution tags; 72 or 96 dpi are a printer's and count as unknown."""
    unit = page.tags.valueof(296, 2)
    across, down = page.tags.valueof(282), page.tags.valueof(283)
    microns = {2: 25_400.0, 3: 10_000.0}.get(int(unit))
    if microns is None or not across or not down or not across[0] or not down[0]:
        return PixelSize(None, "unknown")
    size = judge_pixel_size(microns * across[1] / across[0], microns * down[1] / down[0], "resolution_tag")
    return size if size.mpp is not None or "square" in "".join(size.notes) else PixelSize(None, "unknown")
