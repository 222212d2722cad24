"""Whether all the data that a TIFF's directories point to is in the file.

Promises: finds a file that was cut off (an upload or a copy that stopped) without decoding a pixel, by walking
the directory chain and comparing each strip's or tile's offset and byte count with the file's size.
Refuses: to judge what it cannot parse; classic TIFFs over 4 GiB (NDPI stretches the format) are left to the
reading of sample blocks.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from microtome.errors import UnreadableSlide

_OFFSETS = frozenset({273, 324})  # StripOffsets, TileOffsets
_BYTE_COUNTS = frozenset({279, 325})  # StripByteCounts, TileByteCounts
_SUB_DIRECTORIES = 330
_TYPES = {3: "u2", 4: "u4", 13: "u4", 16: "u8", 18: "u8"}
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_MAX_DIRECTORIES = 10_000


@dataclass(frozen=True, slots=True)
class _Format:
    order: str
    big: bool

    @property
    def pointer(self) -> str:
        return self.order + ("Q" if self.big else "I")

    @property
    def count(self) -> str:
        return self.order + ("Q" if self.big else "H")


class _TruncatedError(Exception):
    pass


def is_tiff(path: Path) -> bool:
    """Whether the file begins like a TIFF or BigTIFF."""
    with path.open("rb") as file:
        return file.read(4) in {b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"}


def check_complete(path: Path) -> None:
    """Raise `UnreadableSlide` when the TIFF at `path` points beyond its own end; do nothing for other files."""
    if not is_tiff(path):
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        form = _Format("<" if head[:2] == b"II" else ">", head[2 if head[:2] == b"II" else 3] == 43)
        if not form.big and size >= 1 << 32:
            return
        try:
            _walk(file, form, head, size)
        except _TruncatedError as error:
            raise UnreadableSlide(
                f"The file is truncated: {error}. It has {size:,} bytes; copy or upload it again."
            ) from error


def _walk(file: BinaryIO, form: _Format, head: bytes, size: int) -> None:
    waiting = [_unpack(form.pointer, head[8:16] if form.big else head[4:8])]
    seen: set[int] = set()
    while waiting:
        at = waiting.pop()
        if at == 0 or at in seen:
            continue
        if len(seen) >= _MAX_DIRECTORIES:
            return
        seen.add(at)
        following, children = _check_directory(file, form, at, size)
        waiting.extend([*children, following])


def _check_directory(file: BinaryIO, form: _Format, at: int, size: int) -> tuple[int, list[int]]:
    """Check one directory; return the offset of the next and of its sub-directories."""
    entry_size, field = (20, 8) if form.big else (12, 4)
    count = _unpack(form.count, _read(file, at, struct.calcsize(form.count), size, "a directory"))
    start = at + struct.calcsize(form.count)
    table = _read(file, start, count * entry_size + field, size, "a directory")
    offsets = counts = None
    children: list[int] = []
    for index in range(count):
        entry = table[index * entry_size : (index + 1) * entry_size]
        tag, kind = struct.unpack(form.order + "HH", entry[:4])
        number = _unpack(form.pointer, entry[4 : 4 + field])
        values = _values(file, form, entry[4 + field :], kind, number, size)
        if values is None:
            continue
        if tag in _OFFSETS:
            offsets = values
        elif tag in _BYTE_COUNTS:
            counts = values
        elif tag == _SUB_DIRECTORIES:
            children = [int(value) for value in values]
    if offsets is not None and counts is not None and offsets.size == counts.size:
        missing = int(np.count_nonzero(offsets + counts > size))
        if missing:
            raise _TruncatedError(f"{missing:,} of {offsets.size:,} blocks of image data lie beyond its end")
    return _unpack(form.pointer, table[-field:]), children


def _values(
    file: BinaryIO, form: _Format, inline: bytes, kind: int, number: int, size: int
) -> npt.NDArray[np.uint64] | None:
    """An entry's integers, or None for other types; a value stored elsewhere must lie inside the file."""
    length = _SIZES.get(kind, 0) * number
    if length <= len(inline):
        data = inline[:length]
    else:
        offset = _unpack(form.pointer, inline)
        if kind not in _TYPES:
            if offset + length > size:
                raise _TruncatedError("a part of its header lies beyond its end")
            return None
        data = _read(file, offset, length, size, "a list of blocks")
    if kind not in _TYPES:
        return None
    return np.frombuffer(data, dtype=form.order + _TYPES[kind]).astype(np.uint64)


def _read(file: BinaryIO, at: int, length: int, size: int, what: str) -> bytes:
    if at + length > size:
        raise _TruncatedError(f"{what} lies beyond its end")
    file.seek(at)
    return file.read(length)


def _unpack(form: str, data: bytes) -> int:
    return int(struct.unpack(form, data)[0])
